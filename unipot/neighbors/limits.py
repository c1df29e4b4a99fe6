"""What a neighbour list refuses, and the sentences that say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import numpy as np

from unipot.errors import InputError

#: bytes an edge takes while a list is made: two int64 atoms, three int64 offsets, and its half of a pair of four int32
BYTES_PER_EDGE = 48

#: cells by which atoms may lie apart or outside; beyond, offsets lose the digits that decide whether a pair is an edge
MAX_CELLS_AWAY = 1e8

#: a periodic vector that rises less than this fraction of its length above the others spans no volume
FLAT = 1e-6

#: what the compiled engine finds about a structure
FINE, NOT_FINITE, FLAT_CELL, TOO_FAR, TOO_MANY = range(5)


@cache
def machine_memory() -> int:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return 16 * 2**30


@cache
def max_edges() -> int:
    """Edges that fit half of this machine's memory."""
    return machine_memory() // 2 // BYTES_PER_EDGE


def check_cutoff(cutoff: float) -> None:
    """Raises:
    ValueError: the cutoff is not a positive, finite length.
    """
    if not 0 < cutoff < np.inf:
        raise InputError(f"cutoff is {cutoff}; it must be a positive length in Å")


def check_shapes(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, n_atoms: np.ndarray) -> None:
    """Raises:
    ValueError: the arrays of a batch do not belong together.
    """
    n_structures = len(n_atoms)
    expected = {"positions": (int(n_atoms.sum()), 3), "cell": (n_structures, 3, 3), "pbc": (n_structures, 3)}
    for name, array in (("positions", positions), ("cell", cell), ("pbc", pbc)):
        if array.shape != expected[name]:
            raise InputError(f"{name} has shape {array.shape}; n_atoms says {n_structures} structures, so it must be {expected[name]}")


def check_structure(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, name: str) -> None:
    """The checks of the compiled engine, for the others.

    Raises:
        ValueError: a number is not finite, the periodic vectors span no volume, or the list would not fit into memory.
    """
    if not (np.isfinite(positions).all() and np.isfinite(cell[pbc]).all()):
        raise not_finite(name)
    heights = np.abs(np.diagonal(np.linalg.qr(cell[pbc].T, mode="r")))
    if (heights <= FLAT * np.linalg.norm(cell[pbc], axis=1)).any():
        raise flat_cell(name, cell, pbc)
    if len(heights) and (4 * np.abs(positions).max(initial=0.0) + cutoff) / heights.min() > MAX_CELLS_AWAY:
        raise too_far(name)
    estimate = estimated_edges(positions, cell, pbc, cutoff)
    if estimate > max_edges():
        raise too_many(name, estimate, cutoff, len(positions))


def estimated_edges(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> float:
    """Edges as if the atoms filled the cell, or along free directions the space they span, evenly."""
    volume = float(np.sqrt(np.linalg.det(cell[pbc] @ cell[pbc].T))) if pbc.any() else 1.0
    periodic_part = (2 * cutoff) ** int(pbc.sum()) / volume
    free = np.linalg.svd(cell[pbc])[2][pbc.sum() :] if pbc.any() else np.eye(3)
    spans = np.ptp(positions @ free.T, axis=0) if len(positions) else np.zeros(len(free))
    return np.pi / 6 * len(positions) ** 2 * periodic_part * float(np.prod(np.minimum(1.0, 2 * cutoff / (spans + 1e-9))))


def not_finite(name: str) -> ValueError:
    return InputError(f"{name}: positions or cell contain a number that is not finite; correct or drop the structure")


def flat_cell(name: str, cell: np.ndarray, pbc: np.ndarray) -> ValueError:
    return InputError(
        f"{name}: the lattice vectors along the periodic axes (pbc {pbc.tolist()}) span no volume: cell {cell.tolist()}; "
        "correct the cell, or set pbc to False where there is no lattice"
    )


def too_far(name: str) -> ValueError:
    return InputError(
        f"{name}: atoms lie more than {MAX_CELLS_AWAY / 4:.0e} cells outside the periodic cell; "
        "wrap them, or correct positions and cell (Å)"
    )


def too_many(name: str, edges: float, cutoff: float, n_atoms: int) -> ValueError:
    return InputError(
        f"{name}: {n_atoms} atoms have about {edges:.1e} pairs within the cutoff of {cutoff:g} Å, "
        f"which need {edges * BYTES_PER_EDGE / 1e9:.0f} GB; at most {max_edges():.1e} fit this machine; "
        f"check that positions and cell are in Å, or lower the cutoff"
    )


def name_of_structure(k: int, n_structures: int, names: Callable[[int], str] | None) -> str:
    """How messages call structure k."""
    if names is not None:
        return names(k)
    return "structure" if n_structures == 1 else f"structure {k} of the batch"
