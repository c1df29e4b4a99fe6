"""Edges as they stand in the batch, for the compiled sums over neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.models.native.neighbor_sums import neighbor_moments


@dataclass(frozen=True, kw_only=True)
class NeighborEdges:
    """A `Neighborhood` whose rows are the atoms and whose edges are those of the batch.

    Attributes:
        centre: (n_edges,) ascending.
        neighbor: (n_edges,).
        vectors: (n_edges, 3) Å, r_ij.
        first_edge: (n_atoms + 1,) position of the first edge of each centre.
    """

    compiled: ClassVar[bool] = True
    centre: Tensor
    neighbor: Tensor
    vectors: Tensor
    first_edge: Tensor

    def to_rows(self, per_atom: Tensor) -> Tensor:
        return per_atom

    def to_atoms(self, per_row: Tensor) -> Tensor:
        return per_row

    def moments(self, radial: Tensor, angular: Tensor, features: Tensor, n_shapes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of scalars or vectors, see `Neighborhood`."""
        m0, m1, m2 = neighbor_moments(radial, angular, features, self.first_edge, self.neighbor, n_shapes)
        return m0.flatten(1), m1.flatten(2), m2.flatten(2)


def make_edges(batch: AtomBatch) -> NeighborEdges:
    """The edges of a batch; positions and cell carry the autograd graph."""
    centre, neighbor = batch.edge_index[0], batch.edge_index[1]
    vectors = batch.positions.index_select(0, neighbor) - batch.positions.index_select(0, centre)
    if bool(batch.pbc.any()):
        cells = batch.cell.index_select(0, batch.structure_index[centre])
        vectors = vectors + torch.einsum("ea,eab->eb", batch.cell_shifts, cells)
    first_edge = torch.searchsorted(centre.contiguous(), torch.arange(batch.n_atoms + 1, device=centre.device))
    return NeighborEdges(centre=centre, neighbor=neighbor, vectors=vectors, first_edge=first_edge)
