"""`Potential`: backbone + heads + derivatives."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch, Predictions
from unipot.models.backbone import AtomFeatures, Backbone
from unipot.models.derivatives import forces_and_stress, make_deformable
from unipot.models.heads import HeadBank
from unipot.models.registry import build_backbone
from unipot.properties import property_named


class Potential(nn.Module):
    """Total energies, forces and stress of a batch, each structure through its own head.

    Args:
        backbone: see `unipot.models.backbone.Backbone`.
        heads: may be empty while a model is being built.

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

    def __init__(self, backbone: Backbone, heads: HeadBank) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

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

    def forward(
        self, batch: AtomBatch, properties: Collection[str] = ("energy", "forces"), create_graph: bool | None = None
    ) -> Predictions:
        """Predict.

        Args:
            batch: collated with this potential's cutoff and dtype.
            properties: names out of `unipot.properties.PROPERTIES`; energy always comes.
            create_graph: keep the graph through the derivatives; by default while training.

        Raises:
            KeyError: an unknown property.
            ValueError: the batch has another dtype or a shorter cutoff than the model, or lists an unknown head or element.
        """
        for name in properties:
            property_named(name)
        self._check(batch)
        create_graph = self.training if create_graph is None else create_graph
        want_stress = "stress" in properties
        if not (want_stress or "forces" in properties):
            return Predictions(energy=self._energy(batch)[0])
        if torch.is_inference_mode_enabled():
            raise ValueError("forces need gradients, which torch.inference_mode forbids; use torch.no_grad instead")
        with torch.enable_grad():
            geometry = make_deformable(batch, stress=want_stress)
            energy, features = self._energy(geometry.batch)
            forces, stress = forces_and_stress(energy, geometry, create_graph=create_graph)
            forces = self._replace_direct(forces, features, batch)
        if not create_graph:
            energy, forces = energy.detach(), forces.detach()
        return Predictions(energy=energy, forces=forces, stress=stress)

    def _energy(self, batch: AtomBatch) -> tuple[Tensor, AtomFeatures]:
        features = self.backbone(batch)
        return batch.sum_over_atoms(self.heads(features, batch)), features

    def _replace_direct(self, forces: Tensor, features: AtomFeatures, batch: AtomBatch) -> Tensor:
        direct = self.heads.direct_forces(features, batch)
        return forces if direct is None else torch.where(direct[1][:, None], direct[0], forces)

    def _check(self, batch: AtomBatch) -> None:
        if batch.positions.dtype != self.dtype:
            raise ValueError(
                f"the batch has dtype {batch.positions.dtype}, the model {self.dtype}; collate with dtype=potential.dtype, "
                "or convert the model with .to(dtype)"
            )
        if batch.cutoff < self.cutoff:
            raise ValueError(
                f"the batch was collated with a cutoff of {batch.cutoff} Å, the model needs {self.cutoff} Å; use cutoff=potential.cutoff"
            )
        if batch.head_index.numel() and int(batch.head_index.max()) >= len(self.heads):
            raise ValueError(
                f"head_index {int(batch.head_index.max())} is out of range for the {len(self.heads)} head(s) {', '.join(self.head_names)}"
            )

    def describe(self) -> dict[str, Any]:
        """JSON-able description from which `from_description` builds the same model with fresh weights."""
        return {
            "backbone": {"name": self.backbone.name, "hyperparameters": self.backbone.hyperparameters},
            "heads": self.heads.describe(),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Potential:
        """A model with fresh weights, to be followed by a strict `load_state_dict`.

        Raises:
            ValueError: the backbone, a hyperparameter or the dtype is unknown.
        """
        dtypes = {"float32": torch.float32, "float64": torch.float64}
        if description["dtype"] not in dtypes:
            raise ValueError(f"dtype {description['dtype']!r} is not known; use one of: {', '.join(dtypes)}")
        backbone = build_backbone(description["backbone"]["name"], dict(description["backbone"]["hyperparameters"]))
        heads = HeadBank.from_description(
            description["heads"], n_channels=backbone.n_channels, n_vector_channels=backbone.n_vector_channels
        )
        return cls(backbone, heads).to(dtypes[description["dtype"]])
