"""Number of edges per structure, which the plan needs to keep micro-batches within their budget."""

from __future__ import annotations

import numpy as np

from unipot.neighbors import neighbor_list
from unipot.structure import Structure

#: Å; counted for every structure while a store is written
STORED_CUTOFFS = (4.0, 5.0, 6.0)


def count_edges(structure: Structure, cutoffs: tuple[float, ...] = STORED_CUTOFFS) -> list[int]:
    """Edges (both directions) within each cutoff, from one neighbour list at the largest.

    Args:
        structure: its positions, cell and pbc are read.
        cutoffs: Å.
    """
    edges, shifts = neighbor_list(structure.positions, structure.cell, structure.pbc, max(cutoffs))
    if len(cutoffs) == 1:
        return [edges.shape[1]]
    vectors = structure.positions[edges[1]] - structure.positions[edges[0]] + shifts @ structure.cell
    squared = np.einsum("ec,ec->e", vectors, vectors)
    return [int(np.count_nonzero(squared < cutoff**2)) if cutoff < max(cutoffs) else edges.shape[1] for cutoff in cutoffs]
