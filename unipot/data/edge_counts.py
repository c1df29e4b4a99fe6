"""Number of edges per structure, which the plan needs to keep micro-batches within their budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipot.neighbors import batch_edge_counts
from unipot.structure import Structure

#: Å; counted for every structure while a store is written
STORED_CUTOFFS = (4.0, 5.0, 6.0)


def count_edges(structure: Structure, cutoffs: tuple[float, ...] = STORED_CUTOFFS) -> list[int]:
    """Edges (both directions) within each cutoff.

    Args:
        structure: its positions, cell and pbc are read.
        cutoffs: Å.
    """
    return count_edges_batch([structure], cutoffs)[0].tolist()


def count_edges_batch(structures: Sequence[Structure], cutoffs: tuple[float, ...] = STORED_CUTOFFS) -> np.ndarray:
    """(n_structures, n_cutoffs) int32, edges (both directions) of each structure within each cutoff.

    Args:
        structures: their positions, cell and pbc are read.
        cutoffs: Å.

    Raises:
        ValueError: as `unipot.neighbors.batch_edge_counts`.
    """
    if len(structures) == 0:
        return np.zeros((0, len(cutoffs)), dtype=np.int32)
    counts = batch_edge_counts(
        np.concatenate([structure.positions for structure in structures]),
        np.stack([structure.cell for structure in structures]),
        np.stack([structure.pbc for structure in structures]),
        np.array([structure.n_atoms for structure in structures]),
        cutoffs,
        names=lambda k: f"structure {structures[k].id!r}",
    )
    return counts.astype(np.int32)
