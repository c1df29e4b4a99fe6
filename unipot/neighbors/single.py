"""The neighbour list of one structure."""

from __future__ import annotations

import numpy as np

from unipot.neighbors.batched import batch_neighbor_list
from unipot.neighbors.engines import Edges


def neighbor_list(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, engine: str = "auto") -> Edges:
    """All pairs within `cutoff`.

    Args:
        positions: (n_atoms, 3) Å; may lie outside the cell.
        cell: (3, 3) Å, rows are lattice vectors; ignored along axes that are not periodic.
        pbc: (3,) bool.
        cutoff: Å, positive.
        engine: one of `ENGINES`, or `auto` for the fastest that is installed.

    Returns:
        edge_index (2, n_edges) int64, row 0 centre i, row 1 neighbour j; cell_shifts (n_edges, 3) int64; ordered by
        (i, j, S_0, S_1, S_2), whichever engine.

    Raises:
        ValueError: the cutoff is not positive, the engine is unknown or not installed, a number is not finite, the periodic
            vectors span no volume, or the list would not fit into memory.
    """
    positions, cell, pbc = np.asarray(positions), np.asarray(cell), np.asarray(pbc)
    return batch_neighbor_list(positions, cell[None], pbc[None], np.array([len(positions)]), cutoff, engine)
