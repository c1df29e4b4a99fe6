"""`Potential`: backbone + heads + core repulsion + derivatives."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError
from unipot.models.backbone import AtomFeatures, Backbone
from unipot.models.boundary import require_room_for_edges, require_sound
from unipot.models.core_repulsion import CoreRepulsion, edge_lengths
from unipot.models.derivatives import forces_and_stress, make_deformable
from unipot.models.heads import HeadBank
from unipot.models.property_heads import PropertyHead, PropertyHeads
from unipot.models.registry import build_backbone
from unipot.properties import ScalarProperty, property_named


class Potential(nn.Module):
    """Total energies, forces and stress of a batch, each structure through its own head.

    Args:
        backbone: see `unipot.models.backbone.Backbone`.
        heads: may be empty while a model is being built.
        core_repulsion: added to the energy of every structure, whatever its head; None for none.

    Attributes:
        property_heads: of scalars that are not energies, beside the heads; empty until some are added.

    Example:
        >>> from unipot.batch import collate
        >>> from unipot.models import Head, HeadBank, Potential, build_backbone
        >>> from unipot.models.references import CompositionReference
        >>> from unipot.structure import Structure
        >>> import numpy as np
        >>> backbone = build_backbone("native", {"n_channels": 8, "n_layers": 1})
        >>> heads = HeadBank()
        >>> everything = CompositionReference(np.zeros(119), np.ones(119, dtype=bool))
        >>> heads.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=everything))
        >>> dimer = Structure(atomic_numbers=[7, 7], positions=[[0, 0, 0], [0, 0, 1.1]])
        >>> predictions = Potential(backbone, heads)(collate([dimer], cutoff=backbone.cutoff))
        >>> predictions.energy.shape, predictions.forces.shape
        (torch.Size([1]), torch.Size([2, 3]))
    """

    def __init__(self, backbone: Backbone, heads: HeadBank, core_repulsion: CoreRepulsion | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.core_repulsion = core_repulsion
        self.property_heads = PropertyHeads()

    def __repr__(self) -> str:
        """One line; the listing of its modules is that of `print(potential.backbone)`."""
        n_parameters = sum(parameter.numel() for parameter in self.parameters())
        heads = [f"{name} ({self.heads[name].level_of_theory})" for name in self.head_names]
        named = ", ".join(heads[:4]) + (f" and {len(heads) - 4} more" if len(heads) > 4 else "")
        scalars = f", properties: {', '.join(self.scalar_properties)}" if self.scalar_properties else ""
        where = f"cutoff {self.cutoff:g} Å, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"Potential({self.backbone.name}, {n_parameters:,} parameters, {where}, heads: {named or 'none'}{scalars})"

    @property
    def cutoff(self) -> float:
        return self.backbone.cutoff

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.backbone.parameters())  # type: ignore[attr-defined]

    @property
    def device(self) -> torch.device:
        return next(p.device for p in self.backbone.parameters())  # type: ignore[attr-defined]

    @property
    def head_names(self) -> tuple[str, ...]:
        return self.heads.names

    @property
    def scalar_properties(self) -> dict[str, ScalarProperty]:
        """What the property heads predict, by name."""
        return self.property_heads.properties

    def forward(
        self, batch: AtomBatch, properties: Collection[str] = ("energy", "forces"), create_graph: bool | None = None
    ) -> Predictions:
        """Predict.

        Args:
            batch: collated with this potential's cutoff and dtype.
            properties: names out of `unipot.properties.PROPERTIES` and of property heads; energy always comes. Where neither
                forces nor stress are among them nothing is differentiated.
            create_graph: keep the graph through the derivatives; by default while training.

        Raises:
            KeyError: an unknown property.
            ValueError: the batch has another dtype or a shorter cutoff than the model, lists an unknown head or element, or is
                not sound (see `unipot.models.boundary.require_sound`).
        """
        scalars = [name for name in properties if name in self.property_heads]
        for name in properties:
            if name not in scalars:
                property_named(name)
        lengths = self.checked_lengths(batch)
        create_graph = self.training if create_graph is None else create_graph
        want_stress = "stress" in properties
        if not (want_stress or "forces" in properties):
            energy, features = self._energy(batch, lengths)
            return Predictions(energy=energy, members=self.property_heads(features, batch, scalars))
        if torch.is_inference_mode_enabled():
            raise InputError("forces need gradients, which torch.inference_mode forbids; use torch.no_grad instead")
        with torch.enable_grad():
            geometry = make_deformable(batch, stress=want_stress)
            energy, features = self._energy(geometry.batch, lengths)
            forces, stress = forces_and_stress(energy, geometry, create_graph=create_graph)
            forces = self._replace_direct(forces, features, batch, lengths)
            members = self.property_heads(features, batch, scalars)
        if not create_graph:
            energy, forces = energy.detach(), forces.detach()
            members = {name: values.detach() for name, values in members.items()}
        return Predictions(energy=energy, forces=forces, stress=stress, members=members)

    def atomic_energies(self, batch: AtomBatch) -> Tensor:
        """(n_atoms,) eV, float64, references added; how a total energy is divided among atoms is a choice of the model.

        Raises:
            ValueError: see `forward`.
        """
        return self._atomic_energies(batch, self.checked_lengths(batch))[0]

    def _atomic_energies(self, batch: AtomBatch, lengths: Tensor) -> tuple[Tensor, AtomFeatures]:
        features = self.backbone(batch)
        energies = self.heads(features, batch)
        return (energies if self.core_repulsion is None else energies + self.core_repulsion(batch, lengths, self.cutoff)), features

    def _energy(self, batch: AtomBatch, lengths: Tensor) -> tuple[Tensor, AtomFeatures]:
        energies, features = self._atomic_energies(batch, lengths)
        return batch.sum_over_atoms(energies), features

    def _replace_direct(self, forces: Tensor, features: AtomFeatures, batch: AtomBatch, lengths: Tensor) -> Tensor:
        direct = self.heads.direct_forces(features, batch)
        if direct is None:
            return forces
        predicted, own = direct
        if self.core_repulsion is not None:
            geometry = make_deformable(batch, stress=False)
            core = batch.sum_over_atoms(self.core_repulsion(geometry.batch, lengths, self.cutoff))
            if core.requires_grad:  # some pair is that close; no parameter stands in its forces
                predicted = predicted + forces_and_stress(core, geometry, create_graph=False)[0]
        return torch.where(own[:, None], predicted, forces)

    def checked_lengths(self, batch: AtomBatch, lengths: Tensor | None = None) -> Tensor:
        """(n_edges,) Å, after everything that a batch can have wrong has been looked at.

        Args:
            batch: to look at.
            lengths: of its edges where they are known already.

        Raises:
            ValueError: see `forward`.
        """
        if batch.positions.dtype != self.dtype:
            raise InputError(
                f"the batch has dtype {batch.positions.dtype}, the model {self.dtype}; collate with dtype=potential.dtype, "
                "or convert the model with .to(dtype)"
            )
        if batch.cutoff < self.cutoff:
            raise InputError(
                f"the batch was collated with a cutoff of {batch.cutoff} Å, the model needs {self.cutoff} Å; use cutoff=potential.cutoff"
            )
        require_room_for_edges(batch, self)
        lengths = edge_lengths(batch) if lengths is None else lengths
        require_sound(batch, lengths, self.head_names)
        return lengths

    def describe(self) -> dict[str, Any]:
        """JSON-able description from which `from_description` builds the same model with fresh weights."""
        return {
            "backbone": {"name": self.backbone.name, "hyperparameters": self.backbone.hyperparameters},
            "core_repulsion": None if self.core_repulsion is None else self.core_repulsion.describe(),
            "heads": self.heads.describe(),
            # a unipot without property heads refuses the tensors of one; a model without any is described as before
            **({"property_heads": self.property_heads.describe()} if len(self.property_heads) else {}),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Potential:
        """A model with fresh weights, to be followed by a strict `load_state_dict`.

        Raises:
            ValueError: the backbone, a hyperparameter or the dtype is unknown.
            KeyError: a part is missing.
        """
        dtypes = {"float32": torch.float32, "float64": torch.float64}
        if description["dtype"] not in dtypes:
            raise InputError(f"dtype {description['dtype']!r} is not known; use one of: {', '.join(dtypes)}")
        backbone = build_backbone(description["backbone"]["name"], dict(description["backbone"]["hyperparameters"]))
        heads = HeadBank.from_description(
            description["heads"], n_channels=backbone.n_channels, n_vector_channels=backbone.n_vector_channels
        )
        core = description["core_repulsion"]
        potential = cls(backbone, heads, None if core is None else CoreRepulsion(**core))
        for name, arguments in description.get("property_heads", {}).items():
            potential.property_heads.add(PropertyHead.from_description(name, arguments, n_channels=backbone.n_channels))
        return potential.to(dtypes[description["dtype"]])
