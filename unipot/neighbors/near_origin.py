"""Positions moved near the origin before they are rounded: float32 resolves 1e-6 Å at 16 Å and 8e-3 Å at 100,000 Å.

A structure is the same wherever it lies, and whichever periodic image of an atom is written down. So that differences of positions
are differences of the unrounded ones as nearly as the size of the structure allows, atoms that lie outside the cell are folded back
and the structure is centred, both in float64. Structures near the origin stay as they are, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Å; up to there positions are left alone
NEAR = 16.0
#: structures are moved if their largest coordinate becomes smaller by this factor
GAIN = 4.0
#: cells; whole numbers beyond it are not all there in float64
_COUNTABLE = 2.0**53


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Structures of a batch near the origin.

    Attributes:
        positions: (n_atoms, 3) Å, float64.
        wraps: (n_atoms, 3) int64, lattice vectors taken off each atom; None where none was.
    """

    positions: np.ndarray
    wraps: np.ndarray | None = None

    def shifts(self, edge_index: np.ndarray, cell_shifts: np.ndarray) -> np.ndarray:
        """Offsets of the edges between the moved atoms, so that r_ij = R_j + S·cell − R_i stays what it was; their order stays, too.

        Args:
            edge_index: (2, n_edges).
            cell_shifts: (n_edges, 3), between the atoms as they were.
        """
        if self.wraps is None:
            return cell_shifts
        return cell_shifts + (self.wraps[edge_index[1]] - self.wraps[edge_index[0]]).astype(cell_shifts.dtype)


def near_origin(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, n_atoms: np.ndarray) -> Moved:
    """Move structures that lie far from the origin, or whose atoms lie many cells away, near it.

    Args:
        positions: (n_atoms, 3) Å, float64, structure after structure.
        cell: (n_structures, 3, 3) Å.
        pbc: (n_structures, 3) bool.
        n_atoms: (n_structures,) int, each at least 1.

    Example:
        >>> far = np.array([[1000.0, 0, 0], [1000.96, 0, 0]])
        >>> near_origin(far, np.zeros((1, 3, 3)), np.zeros((1, 3), bool), np.array([2])).positions[:, 0].round(6).tolist()
        [-0.48, 0.48]
    """
    if len(positions) == 0 or n_atoms.min() < 1 or not np.abs(positions).max() > NEAR:
        return Moved(positions=positions)
    starts = np.cumsum(n_atoms) - n_atoms
    far = np.flatnonzero(np.maximum.reduceat(np.abs(positions).max(axis=1), starts) > NEAR)
    moved, wraps, wrapped = positions.copy(), np.zeros(positions.shape, dtype=np.int64), False
    for k in far.tolist():
        own = slice(int(starts[k]), int(starts[k] + n_atoms[k]))
        near, cells = _folded(positions[own], cell[k][pbc[k]])
        near = near - 0.5 * (near.min(axis=0) + near.max(axis=0))
        if GAIN * np.abs(near).max() <= np.abs(positions[own]).max():
            moved[own] = near
            wraps[own][:, pbc[k]] = cells
            wrapped = wrapped or bool(cells.any())
    return Moved(positions=moved, wraps=wraps if wrapped else None)


def _folded(positions: np.ndarray, lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms in their images around the first one, and the lattice vectors (n, n_periodic) that were taken off them.

    Args:
        positions: (n, 3) Å.
        lattice: (n_periodic, 3) Å, the periodic vectors.
    """
    fractional = (positions - positions[0]) @ np.linalg.pinv(lattice) if len(lattice) else np.zeros((len(positions), 0))
    if not np.abs(fractional).max(initial=0.0) < _COUNTABLE:
        return positions, np.zeros(fractional.shape, dtype=np.int64)
    cells = np.rint(fractional).astype(np.int64)
    return positions - cells @ lattice, cells
