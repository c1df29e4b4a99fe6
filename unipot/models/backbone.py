"""What a backbone is: the one interface between message passing and everything that belongs to a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unipot.batch import AtomBatch


@dataclass(frozen=True, kw_only=True)
class AtomFeatures:
    """What a backbone says about each atom.

    An atom without neighbours has all features exactly zero if its structure is neutral and states no spin; heads have
    no bias, so that its energy is its reference energy.

    Attributes:
        scalars: (n_atoms, n_channels), invariant.
        vectors: (n_atoms, 3, n_vector_channels) in xyz order, or None when the backbone has no vectors.
    """

    scalars: Tensor
    vectors: Tensor | None = None


@runtime_checkable
class Backbone(Protocol):
    """A `torch.nn.Module` that turns a batch into atom features.

    Positions and cells of the batch carry the autograd graph; a backbone must form every distance from them, must
    not write to the batch and must not remember anything about it.

    Attributes:
        name: the name it is registered under, see `unipot.models.registry`.
        hyperparameters: JSON-able constructor arguments, enough to build it again.
        cutoff: Å, of the edges it wants.
        n_channels, n_vector_channels: feature sizes; 0 vector channels means `vectors` is None.
        elements: atomic numbers it has embeddings for.
        conditions: what features depend on besides elements and geometry, out of the fields `total_charge` and
            `spin_multiplicity` of `AtomBatch`.
        parity: True when features are O(3)-equivariant, False when SO(3) only.
        equivariance_tolerance: dtype -> relative deviation that its contracts allow.

    A backbone may also have `least_bytes_per_edge`, bytes of memory that an edge takes in any pass: batches that cannot fit are
    then refused with a sentence; and `activation_checkpointing`, a bool that a run sets.
    """

    name: str
    hyperparameters: dict[str, Any]
    cutoff: float
    n_channels: int
    n_vector_channels: int
    elements: tuple[int, ...]
    conditions: tuple[str, ...]
    parity: bool
    equivariance_tolerance: dict[torch.dtype, float]

    def __call__(self, batch: AtomBatch) -> AtomFeatures: ...

    def layer_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """(group name, prefixes of parameter names), ordered from input to output and covering every parameter."""
        ...

    def no_decay_names(self) -> set[str]:
        """Names of parameters that weight decay must leave alone (embeddings, scales)."""
        ...

    def element_tables(self) -> dict[str, tuple[int, ...]]:
        """Every parameter and buffer with learned or fitted numbers per element: name -> axes indexed by atomic number.

        A table of elements is (0,), a table of pairs (0, 1). Fine-tuning starts the rows of elements that the model has never
        seen from those of their neighbours in the periodic table.
        """
        ...
