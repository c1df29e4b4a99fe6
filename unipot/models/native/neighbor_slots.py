"""Edges laid out in padded slots, so that sums over neighbours become batched matrix products.

A sum over neighbours of (edge coefficient) ⊗ (neighbour feature) is, for one atom, a matrix product over its
neighbours. Atoms of similar degree are put in one bucket and padded to a common number of slots: every sum is then one
`bmm` per bucket, forward and in every derivative, with no edge-sized product ever written to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.models.native.geometry import trace_and_traceless

#: relative width of a bucket: atoms whose degrees lie within this factor share one padded size
_GROWTH = 1.25


@dataclass(frozen=True, kw_only=True)
class NeighborSlots:
    """A `Neighborhood` of padded slots: atoms sorted by degree, buckets one after the other.

    Attributes:
        order: (n_atoms,) atom index of each row; rows are what the layers work on.
        row_of_atom: (n_atoms,) inverse of `order`.
        buckets: (first row, n_rows, slots per row, first slot) of each bucket with neighbours.
        n_rows: n_atoms.
        centre: (n_slots,) row of the centre atom.
        neighbor: (n_slots,) row of the neighbour; the centre itself in empty slots.
        vectors: (n_slots, 3) Å, r_ij; the cutoff along x in empty slots, so that their envelope is zero.
    """

    compiled: ClassVar[bool] = False
    order: Tensor
    row_of_atom: Tensor
    buckets: tuple[tuple[int, int, int, int], ...]
    n_rows: int
    centre: Tensor
    neighbor: Tensor
    vectors: Tensor

    def to_rows(self, per_atom: Tensor) -> Tensor:
        return per_atom.index_select(0, self.order)

    def to_atoms(self, per_row: Tensor) -> Tensor:
        return per_row.index_select(0, self.row_of_atom)

    def moments(self, radial: Tensor, angular: Tensor, features: Tensor, n_shapes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """See `Neighborhood`."""
        return moments_from_sums(self.sum_over_neighbors, radial, angular, features, n_shapes)

    def sum_over_neighbors(self, coefficients: Tensor, features: Tensor) -> Tensor:
        """Σ_j coefficients_ij ⊗ features_j.

        Args:
            coefficients: (n_slots, n_coefficients), zero in empty slots.
            features: (n_rows, n_features).

        Returns:
            (n_rows, n_coefficients, n_features)
        """
        parts, row = [], 0
        for first_row, n_rows, n_slots, first_slot in self.buckets:
            own = slice(first_slot, first_slot + n_rows * n_slots)
            weights = coefficients[own].view(n_rows, n_slots, -1).transpose(1, 2)
            gathered = features.index_select(0, self.neighbor[own]).view(n_rows, n_slots, -1)
            parts.append(torch.bmm(weights, gathered))
            row = first_row + n_rows
        if row < self.n_rows:  # atoms without neighbours come last
            parts.append(coefficients.new_zeros(self.n_rows - row, coefficients.shape[1], features.shape[1]))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def moments_from_sums(
    sum_over_neighbors: Callable[[Tensor, Tensor], Tensor],
    radial: Tensor,
    angular: Tensor,
    features: Tensor,
    n_shapes: tuple[int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Neighborhood.moments`; the coefficients R Y of all pairs are written out."""
    (k0, k1, k2), (n, *_, f) = n_shapes, features.shape
    radial0, radial1, radial2 = radial[:, : k0 + k1 + k2].split(n_shapes, dim=1)
    degree1 = (angular[:, :3, None] * radial1[:, None]).flatten(1)  # (n_slots, 3·K1), m slow
    degree2 = (angular[:, 3:, None] * radial2[:, None]).flatten(1)
    sums = sum_over_neighbors(torch.cat([radial0, degree1, degree2], dim=1), features.flatten(1))
    m0, m1, m2 = sums.split([k0, 3 * k1, 5 * k2], dim=1)
    if features.dim() == 2:
        return m0.reshape(n, k0 * f), m1.reshape(n, 3, k1 * f), m2.reshape(n, 5, k2 * f)
    plain = m0.reshape(n, k0, 3, f).transpose(1, 2).reshape(n, 3, k0 * f)
    outer = m1.reshape(n, 3, k1, 3, f).transpose(2, 3).reshape(n, 9, k1 * f)
    coupled = torch.einsum("pq,nqx->npx", trace_and_traceless(outer.dtype, outer.device), outer)
    return coupled[:, 0], plain, coupled[:, 1:]


def make_slots(batch: AtomBatch, cutoff: float) -> NeighborSlots:
    """Sort atoms by degree, choose buckets, and place every edge in a slot.

    Args:
        batch: edges sorted by centre; positions and cell carry the autograd graph.
        cutoff: Å, length given to empty slots.
    """
    degree = torch.bincount(batch.edge_index[0], minlength=batch.n_atoms)
    order = torch.argsort(degree, descending=True, stable=True)
    row_of_atom = torch.empty_like(order)
    row_of_atom[order] = torch.arange(batch.n_atoms, device=order.device)
    sorted_degree = degree[order]
    buckets = _choose_buckets(sorted_degree.tolist())
    slots_of_row = torch.zeros_like(sorted_degree)
    for first_row, n_rows, n_slots, _ in buckets:
        slots_of_row[first_row : first_row + n_rows] = n_slots
    first_edge = (torch.cumsum(degree, 0) - degree)[order]
    first_slot = torch.cumsum(slots_of_row, 0) - slots_of_row
    centre = torch.repeat_interleave(slots_of_row)
    rank = torch.arange(centre.shape[0], device=centre.device) - first_slot[centre]
    filled = rank < sorted_degree[centre]
    edge = torch.where(filled, first_edge[centre] + rank, 0)
    neighbor_atom = torch.where(filled, batch.edge_index[1][edge], order[centre]) if batch.n_edges else order[centre]
    return NeighborSlots(
        order=order,
        row_of_atom=row_of_atom,
        buckets=buckets,
        n_rows=batch.n_atoms,
        centre=centre,
        neighbor=row_of_atom[neighbor_atom],
        vectors=_slot_vectors(batch, order[centre], neighbor_atom, edge, filled, cutoff),
    )


def _slot_vectors(batch: AtomBatch, centre: Tensor, neighbor: Tensor, edge: Tensor, filled: Tensor, cutoff: float) -> Tensor:
    if batch.n_edges == 0:
        return batch.positions.new_zeros(0, 3)
    vectors = batch.positions.index_select(0, neighbor) - batch.positions.index_select(0, centre)
    if bool(batch.pbc.any()):
        cells = batch.cell.index_select(0, batch.structure_index[centre])
        vectors = vectors + torch.einsum("ea,eab->eb", batch.cell_shifts[edge], cells)
    empty = vectors.new_tensor([cutoff, 0.0, 0.0])
    return torch.where(filled[:, None], vectors, empty)


def _choose_buckets(degrees: list[int]) -> tuple[tuple[int, int, int, int], ...]:
    """Greedy over degrees in descending order: a bucket ends where its size would exceed the degree by `_GROWTH`."""
    buckets: list[tuple[int, int, int, int]] = []
    row, slot = 0, 0
    while row < len(degrees) and degrees[row] > 0:
        size = degrees[row]
        last = row
        while last < len(degrees) and degrees[last] > 0 and degrees[last] * _GROWTH + 2 >= size:
            last += 1
        buckets.append((row, last - row, size, slot))
        slot += (last - row) * size
        row = last
    return tuple(buckets)
