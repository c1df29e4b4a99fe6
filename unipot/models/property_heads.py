"""Property heads: one number per structure that is not an energy, read off the same backbone.

The narrowest design that serves a band gap, a charge and the lowest adsorption energy of a slab–adsorbate pair alike:

* A property head lies beside the energy heads (`Potential.property_heads`) and reads `AtomFeatures.scalars`, so that it is invariant
  by construction, sees charge and spin as energies do, and cannot change an energy: adding one leaves the others
  bitwise as they are.
* Every atom has a value a_i = scale · readout(x_i) + reference(Z_i). An extensive property is Σ a_i. An intensive one is Σ w_i a_i
  with weights w = softmax_i(u · x_i) over the atoms of the structure (attention pooling, Ilse, Tomczak and Welling
  2018), which are equal at the start: unchanged for a repeated cell, and able to look at the few atoms that matter,
  such as an adsorbate.
* An ensemble of members (readout and pooling) with weights of their own on the shared backbone, trained on bootstrap weights of the
  structures (`unipot.training.property_loss`). The prediction is their mean; their spread, scaled so that intervals
  cover what they say on held-out structures, is the uncertainty.
* Normalisation is the head's own: `reference` (a constant for an intensive property, a number per element for an extensive one) and
  `spread` come from training values and stay fixed. Elements that were not there have no prediction: NaN, stated as
  absent.
* Nothing of a property is differentiated with respect to the geometry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError, UnknownName
from unipot.models.backbone import AtomFeatures
from unipot.models.heads import GatedReadout
from unipot.models.references import CompositionReference
from unipot.properties import ScalarProperty

#: members share one 64-byte hash per structure for their bootstrap weights
MAX_MEMBERS = 16
#: share of values that calibrated intervals cover, and its quantile in standard deviations of a normal distribution
COVERAGE, NORMAL_QUANTILE = 0.9, 1.6448536269514722


class PropertyHead(nn.Module):
    """An ensemble that predicts one `ScalarProperty`.

    Args:
        property: name, unit, kind and threshold.
        n_channels: scalar features of the backbone.
        n_hidden: width of the readouts.
        n_members: of the ensemble, 1 to 16.
        seed: of the first weights; each member has its own.

    Attributes:
        reference: value per element in the unit of the property; elements without one were not trained on.
        spread: standard deviation of the training values around the reference; losses are taken in it.
        scale: of the readout, unit of the property per atom.
        interval: half-width of the interval that covers 90 % of held-out values, over the spread of the members; 0
            before calibration.

    Raises:
        ValueError: the number of members or the width is not allowed.
    """

    spread: Tensor
    scale: Tensor
    interval: Tensor

    def __init__(self, property: ScalarProperty, *, n_channels: int, n_hidden: int = 32, n_members: int = 4, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= n_members <= MAX_MEMBERS:
            raise InputError(f"properties.{property.name}.members is {n_members}; it must be from 1 to {MAX_MEMBERS}")
        if n_hidden < 1:
            raise InputError(f"properties.{property.name}.n_hidden is {n_hidden}; it must be at least 1")
        self.property, self.n_hidden, self.n_members = property, n_hidden, n_members
        self.readouts, self.pooling = nn.ModuleList(), nn.ModuleList()
        with torch.random.fork_rng(devices=[]):  # a new head must not move the caller's stream of random numbers
            for member in range(n_members):
                torch.manual_seed(seed * MAX_MEMBERS + member)
                self.readouts.append(GatedReadout(n_channels, n_hidden))
                if property.kind == "intensive":
                    self.pooling.append(nn.Linear(n_channels, 1, bias=False))
                    nn.init.zeros_(self.pooling[-1].weight)
        self.reference = CompositionReference()
        for name in ("spread", "scale", "interval"):
            self.register_buffer(name, torch.tensor(0.0 if name == "interval" else 1.0, dtype=torch.float64))

    def knows(self, atomic_numbers: Tensor) -> bool:
        """Whether every one of these elements was trained on."""
        return bool(self.reference.known[atomic_numbers].all())

    def forward(self, scalars: Tensor, batch: AtomBatch) -> Tensor:
        """(n_structures, n_members) float64, in the unit of the property; NaN where an element was not trained on.

        Args:
            scalars: (n_atoms, n_channels) of the backbone.
            batch: which structure an atom belongs to, and its element.
        """
        read = torch.stack([readout(scalars) for readout in self.readouts], dim=1).double()  # (n_atoms, n_members)
        values = read * self.scale + self.reference.values[batch.atomic_numbers][:, None]
        if self.property.kind == "intensive":
            values = values * self._weights(scalars, batch)
        unknown = batch.sum_over_atoms((~self.reference.known[batch.atomic_numbers]).to(torch.int64)) > 0
        return torch.where(unknown[:, None], torch.nan, batch.sum_over_atoms(values))

    def _weights(self, scalars: Tensor, batch: AtomBatch) -> Tensor:
        """(n_atoms, n_members) float64, summing to one over the atoms of each structure."""
        scores = torch.cat([pooling(scalars) for pooling in self.pooling], dim=1).double()
        index = batch.structure_index[:, None].expand_as(scores)
        largest = scores.new_full((batch.n_structures, self.n_members), -torch.inf)
        largest = largest.scatter_reduce(0, index, scores.detach(), "amax")
        exponentials = torch.exp(scores - largest[batch.structure_index])
        return exponentials / batch.sum_over_atoms(exponentials)[batch.structure_index]

    def uncertainty(self, members: Tensor) -> Tensor | None:
        """(n_structures,) standard deviations in the unit of the property, calibrated where the head is; None for a lone member.

        Args:
            members: (n_structures, n_members) predictions.
        """
        if self.n_members == 1:
            return None
        factor = self.interval / NORMAL_QUANTILE if bool(self.interval > 0) else 1.0
        return members.std(dim=1) * factor

    def describe(self) -> dict[str, Any]:
        """JSON-able constructor arguments."""
        own = {key: value for key, value in asdict(self.property).items() if key != "name"}
        return {**own, "n_hidden": self.n_hidden, "n_members": self.n_members}

    @classmethod
    def from_description(cls, name: str, description: dict[str, Any], *, n_channels: int) -> PropertyHead:
        """A head with fresh weights; numbers of the normalisation come with the state dict.

        Raises:
            TypeError, ValueError: an argument is unknown or not allowed.
        """
        own = dict(description)
        sizes = {key: own.pop(key) for key in ("n_hidden", "n_members")}
        return cls(ScalarProperty(name=name, **own), n_channels=n_channels, **sizes)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        kept = {name: getattr(self, name) for name in ("spread", "scale", "interval")}
        super()._apply(fn, recurse)
        for name, value in kept.items():  # float64 whatever the dtype of the model
            setattr(self, name, value.to(getattr(self, name).device))
        return self


class PropertyHeads(nn.Module):
    """Property heads by name."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()

    def __len__(self) -> int:
        return len(self.heads)

    def __contains__(self, name: object) -> bool:
        return name in self.heads

    def __getitem__(self, name: str) -> PropertyHead:
        if name not in self.heads:
            raise UnknownName(f"property {name!r} is not in this model; available: {', '.join(self.heads) or 'none'}")
        return self.heads[name]  # type: ignore[return-value]

    @property
    def properties(self) -> dict[str, ScalarProperty]:
        """By name, in the order they were added."""
        return {name: head.property for name, head in self.heads.items()}  # type: ignore[misc]

    def add(self, head: PropertyHead) -> None:
        """Append a head.

        Raises:
            ValueError: the name is taken.
        """
        if head.property.name in self.heads:
            raise InputError(f"properties.{head.property.name}: the model has a head of this name already; choose another name")
        self.heads[head.property.name] = head

    def forward(self, features: AtomFeatures, batch: AtomBatch, names: Collection[str]) -> dict[str, Tensor]:
        """Name -> (n_structures, n_members), of `names` only."""
        return {name: self[name](features.scalars, batch) for name in names}

    def describe(self) -> dict[str, Any]:
        """Head name -> JSON-able constructor arguments."""
        return {name: head.describe() for name, head in self.heads.items()}  # type: ignore[operator]
