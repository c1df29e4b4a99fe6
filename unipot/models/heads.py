"""Heads: everything that belongs to a dataset, and the bank that gives each structure its head."""

from __future__ import annotations

import copy
import re
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError, UnknownName
from unipot.models.backbone import AtomFeatures
from unipot.models.posterior import POSTERIOR_VERSIONS, LastLayerPosterior
from unipot.models.references import CompositionReference
from unipot.properties import check_energy_kind

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class GatedReadout(nn.Module):
    """Scalar features -> one number per atom, zero for zero features.

    y = w · [(x A) ⊙ sigmoid(x B + b)]; the last layer `output` is linear and has no bias.

    Args:
        n_channels: of the features.
        n_hidden: width of the hidden layer.
    """

    def __init__(self, n_channels: int, n_hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(n_channels, n_hidden, bias=False)
        self.gate = nn.Linear(n_channels, n_hidden)
        self.output = nn.Linear(n_hidden, 1, bias=False)

    def hidden(self, scalars: Tensor) -> Tensor:
        """(n_atoms, n_hidden) features that the last layer weighs linearly."""
        return self.value(scalars) * torch.sigmoid(self.gate(scalars))

    def forward(self, scalars: Tensor) -> Tensor:
        return self.output(self.hidden(scalars))[:, 0]


class Head(nn.Module):
    """Readout, scale, composition reference and level of theory of one kind of labels.

    Atomic energy = scale · readout(features) + reference(element), in eV, float64.

    Args:
        name: lower-case letters, digits and single dashes.
        level_of_theory: in words; structures of different levels never share a head.
        n_channels: scalar features of the backbone.
        n_vector_channels: vector features of the backbone; needed for direct forces only.
        n_hidden: width of the readout.
        scale: eV, fixed.
        direct_forces: predict forces from the vector features instead of −dE/dR; they are not conservative, and
            the net force of each structure is removed.
        energy_kind: what its energies are: total, adsorption, formation or difference.
        posterior: version of the posterior of the last layer that comes with the weights, None for a head without one.

    Attributes:
        trained_elements: atomic numbers that the frames held which this head was trained on, so far; None where nobody knows, as of
            models that were saved before this was kept. References cover more: they descend from the parent head.

    Raises:
        ValueError: the name is malformed, the scale is not positive, the kind of energy or the version of the posterior is
            unknown, or direct forces lack vector features.
    """

    scale: Tensor

    def __init__(
        self,
        name: str,
        *,
        level_of_theory: str,
        n_channels: int,
        n_vector_channels: int = 0,
        n_hidden: int = 32,
        scale: float = 1.0,
        reference: CompositionReference | None = None,
        direct_forces: bool = False,
        energy_kind: str = "total",
        posterior: int | None = None,
    ) -> None:
        super().__init__()
        if not _NAME.fullmatch(name):
            raise InputError(f"head name {name!r} is not allowed; use lower-case letters, digits and single dashes, as in 'oc20-rpbe'")
        if not scale > 0:
            raise InputError(f"scale of head {name!r} is {scale}; it must be positive (eV)")
        if direct_forces and n_vector_channels == 0:
            raise InputError(f"head {name!r} asks for direct forces, but the backbone has no vector features; set direct_forces to false")
        self.name = name
        self.level_of_theory = level_of_theory
        self.energy_kind = check_energy_kind(energy_kind, f"head {name!r}")
        self.trained_elements: frozenset[int] | None = frozenset()
        self.n_hidden = n_hidden
        self.readout = GatedReadout(n_channels, n_hidden)
        self.reference = reference if reference is not None else CompositionReference()
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))
        self.force_readout = nn.Linear(n_vector_channels, 1, bias=False) if direct_forces else None
        if posterior not in (None, *POSTERIOR_VERSIONS):
            raise InputError(
                f"head {name!r} has a posterior of version {posterior}, this unipot reads up to version {max(POSTERIOR_VERSIONS)}; "
                "upgrade unipot"
            )
        self.posterior = None if posterior is None else LastLayerPosterior(n_hidden, posterior)

    @property
    def direct_forces(self) -> bool:
        return self.force_readout is not None

    def forward(self, scalars: Tensor, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) atomic energies in eV, float64.

        Raises:
            ValueError: an element has no reference in this head.
        """
        return self.readout(scalars).double() * self.scale + self.references(atomic_numbers)

    def references(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) eV, float64.

        Raises:
            ValueError: an element has no reference in this head.
        """
        try:
            return self.reference(atomic_numbers)
        except ValueError as error:
            raise InputError(f"head {self.name!r} ({self.level_of_theory}): {error}") from None

    def copy(self, name: str, level_of_theory: str | None = None, energy_kind: str | None = None) -> Head:
        """An independent head with equal weights under another name, without what belongs to the frames of this one.

        That is the posterior, and the elements that it was trained on.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"head name {name!r} is not allowed; use lower-case letters, digits and single dashes")
        twin = copy.deepcopy(self)
        twin.name = name
        twin.posterior = None
        twin.trained_elements = frozenset()
        twin.level_of_theory = self.level_of_theory if level_of_theory is None else level_of_theory
        twin.energy_kind = self.energy_kind if energy_kind is None else check_energy_kind(energy_kind, f"head {name!r}")
        return twin

    def describe(self) -> dict[str, Any]:
        """JSON-able constructor arguments; `posterior` only where there is one."""
        return {
            "level_of_theory": self.level_of_theory,
            "energy_kind": self.energy_kind,
            "n_hidden": self.n_hidden,
            "direct_forces": self.direct_forces,
            **({} if self.posterior is None else {"posterior": self.posterior.version}),
        }

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        kept = self.scale
        super()._apply(fn, recurse)
        self.scale = kept.to(self.scale.device)
        return self


class HeadBank(nn.Module):
    """Heads by name, in the order they were added; `AtomBatch.head_index` counts in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.heads)

    def add(self, head: Head) -> None:
        """Append a head; the others do not change.

        Raises:
            ValueError: the name is taken.
        """
        if head.name in self.heads:
            raise InputError(f"a head called {head.name!r} is there already; choose another name")
        self.heads[head.name] = head

    def __getitem__(self, name: str) -> Head:
        self.index(name)
        return self.heads[name]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.heads)

    def index(self, name: str) -> int:
        """Position of a head.

        Raises:
            KeyError: no such head; the message lists them and names the closest.
        """
        if name not in self.heads:
            close = get_close_matches(name, self.names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UnknownName(f"head {name!r} is not in this model{hint}; available: {', '.join(self.names) or 'none'}")
        return self.names.index(name)

    def forward(self, features: AtomFeatures, batch: AtomBatch) -> Tensor:
        """(n_atoms,) atomic energies in eV, float64, each from the head of its structure."""
        if len(self.heads) == 1:
            return next(iter(self.heads.values()))(features.scalars, batch.atomic_numbers)
        head_of_atom = batch.head_index[batch.structure_index]
        energies = features.scalars.new_zeros(batch.n_atoms, dtype=torch.float64)
        for index, head in enumerate(self.heads.values()):
            own = torch.nonzero(head_of_atom == index)[:, 0]
            energies = energies.index_copy(0, own, head(features.scalars[own], batch.atomic_numbers[own]))
        return energies

    def references(self, batch: AtomBatch) -> Tensor:
        """(n_atoms,) eV, float64: the part of `forward` that the elements alone decide.

        Raises:
            ValueError: an element has no reference in the head of its structure.
        """
        if len(self.heads) == 1:
            return next(iter(self.heads.values())).references(batch.atomic_numbers)  # type: ignore[operator]
        head_of_atom = batch.head_index[batch.structure_index]
        references = torch.zeros(batch.n_atoms, dtype=torch.float64, device=head_of_atom.device)
        for index, head in enumerate(self.heads.values()):
            own = torch.nonzero(head_of_atom == index)[:, 0]
            references[own] = head.references(batch.atomic_numbers[own])  # type: ignore[operator]
        return references

    def direct_forces(self, features: AtomFeatures, batch: AtomBatch) -> tuple[Tensor, Tensor] | None:
        """Forces (n_atoms, 3) without net force, and (n_atoms,) bool where a head predicts them; None if no head does."""
        direct = [i for i, head in enumerate(self.heads.values()) if head.direct_forces]
        if not direct or features.vectors is None:
            return None
        head_of_atom = batch.head_index[batch.structure_index]
        heads = list(self.heads.values())
        forces = features.vectors.new_zeros(batch.n_atoms, 3)
        for index in direct:
            own = torch.nonzero(head_of_atom == index)[:, 0]
            scale = heads[index].scale.to(forces.dtype)
            forces = forces.index_copy(0, own, heads[index].force_readout(features.vectors[own])[..., 0] * scale)
        mean = batch.sum_over_atoms(forces) / batch.n_atoms_per_structure[:, None]
        return forces - mean[batch.structure_index], torch.isin(head_of_atom, torch.tensor(direct, device=forces.device))

    def describe(self) -> dict[str, Any]:
        """Head name -> JSON-able constructor arguments."""
        return {name: head.describe() for name, head in self.heads.items()}  # type: ignore[operator]

    @classmethod
    def from_description(cls, description: dict[str, Any], *, n_channels: int, n_vector_channels: int) -> HeadBank:
        """Heads with fresh weights; scales and references come with the state dict."""
        bank = cls()
        for name, arguments in description.items():
            bank.add(Head(name, n_channels=n_channels, n_vector_channels=n_vector_channels, **arguments))
        return bank
