"""Neighbours as one padded block (rows, slots): plain tensor operations of two sizes, for graphs that must not need our kernel.

`NeighborSlots` has as many buckets as degrees ask for, so that its structure depends on the data. Here every atom has as many
slots as the one with most neighbours, and a sum over neighbours is one batched matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.models.native.neighbor_slots import moments_from_sums

#: smallest number of slots per row: compilers treat sizes 0 and 1 as special
SMALLEST = 2


@dataclass(frozen=True, kw_only=True)
class NeighborBlock:
    """A `Neighborhood` of n_rows · n_slots pairs; rows are atoms.

    Attributes:
        centre: (n_pairs,).
        neighbor: (n_pairs,); the centre itself in empty slots.
        vectors: (n_pairs, 3) Å, r_ij; the cutoff along x in empty slots, where every radial function is zero.
        n_slots: of a row.
    """

    compiled: ClassVar[bool] = False
    centre: Tensor
    neighbor: Tensor
    vectors: Tensor
    n_slots: int

    def to_rows(self, per_atom: Tensor) -> Tensor:
        return per_atom

    def to_atoms(self, per_row: Tensor) -> Tensor:
        return per_row

    def moments(self, radial: Tensor, angular: Tensor, features: Tensor, n_shapes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """See `Neighborhood`."""
        return moments_from_sums(self.sum_over_neighbors, radial, angular, features, n_shapes)

    def sum_over_neighbors(self, coefficients: Tensor, features: Tensor) -> Tensor:
        """Σ_j coefficients_ij ⊗ features_j, as `NeighborSlots.sum_over_neighbors`."""
        n, gathered = features.shape[0], features.index_select(0, self.neighbor)
        weights = coefficients.view(n, self.n_slots, coefficients.shape[1]).transpose(1, 2)
        return torch.bmm(weights, gathered.view(n, self.n_slots, features.shape[1]))


def block_tensors(batch: AtomBatch, vectors: Tensor, cutoff: float) -> list[Tensor]:
    """centre (n_pairs,), neighbor (n_atoms, n_slots) and vectors (n_pairs, 3) of a `NeighborBlock`.

    Args:
        batch: edges sorted by centre.
        vectors: (n_edges, 3) Å of its edges.
        cutoff: Å, length given to empty slots.
    """
    device, n_edges = vectors.device, batch.n_edges
    degree = torch.bincount(batch.edge_index[0], minlength=batch.n_atoms)
    first_edge = torch.cumsum(degree, 0) - degree
    slot = torch.arange(max(int(degree.max()), SMALLEST), device=device)
    # one edge more, which empty slots point to
    edge = torch.where(slot < degree[:, None], first_edge[:, None] + slot, n_edges)
    padded = torch.cat([vectors, vectors.new_tensor([[cutoff, 0.0, 0.0]])])
    neighbor = torch.nn.functional.pad(batch.edge_index[1], (0, 1))
    rows = torch.arange(batch.n_atoms, device=device)[:, None].expand(edge.shape)
    return [rows.reshape(-1), torch.where(edge < n_edges, neighbor[edge], rows), padded[edge.reshape(-1)]]
