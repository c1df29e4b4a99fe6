"""The engines by name, and those that find the neighbors of one structure at a time; the compiled one takes whole batches (`batched`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np

from unipot.errors import InputError
from unipot.neighbors import limits

#: cells of more cutoff³ than this go to the reference engine: the others divide them into boxes, and would run out of memory
MAX_BOXES = 1e8
COMPILED = "numba"

#: edge_index (2, n_edges) int64 and cell_shifts (n_edges, 3) int64
Edges = tuple[np.ndarray, np.ndarray]

#: centres, neighbours, offsets (n_edges, 3), in any order
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def pairs_of_structure(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, engine: str, name: str) -> Pairs:
    """Pairs of one structure by an engine that is not compiled, ordered by (i, j, S_0, S_1, S_2).

    Args:
        positions: (n_atoms, 3) Å.
        cell: (3, 3) Å.
        pbc: (3,) bool.
        cutoff: Å.
        engine: one of `ONE_BY_ONE`.
        name: what messages call the structure.
    """
    limits.check_structure(positions, cell, pbc, cutoff, name)
    if len(positions) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64)
    positions = _without_gaps(positions, cell, pbc, cutoff)
    cell = complete_cell(positions, cell, pbc, cutoff)
    if abs(np.linalg.det(cell)) > MAX_BOXES * cutoff**3:
        engine = "reference"
    centre, neighbor, shifts = ONE_BY_ONE[engine](positions, cell, pbc, float(cutoff))
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], neighbor, centre))
    return centre[order], neighbor[order], shifts[order]


def chosen_engine(engine: str) -> str:
    """The name of the engine that runs.

    Raises:
        ValueError: there is no such engine, or its package is not installed.
    """
    if engine == "auto":
        return default_engine()
    if engine not in ENGINES:
        raise InputError(f"neighbour engine {engine!r} is not known; use one of: auto, {', '.join(ENGINES)}")
    if engine != "reference" and not find_spec(engine):
        raise InputError(f"neighbour engine {engine!r} needs a package that is not installed: pip install {engine}, or use engine 'auto'")
    return engine


def _without_gaps(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """Positions (n_atoms, 3) Å with the same neighbours, but without wide empty slices across the free directions.

    Engines divide space into boxes: fragments far apart would cost memory without bound.
    """
    positions = positions.copy()
    for direction in _free_directions(cell, pbc):
        along = positions @ direction
        order = np.argsort(along)
        excess = np.maximum(np.diff(along[order]) - 1.01 * cutoff, 0.0)
        if excess.any():
            shift = np.empty_like(along)
            shift[order] = np.concatenate([[0.0], np.cumsum(excess)])
            positions -= shift[:, None] * direction
    return positions


def _free_directions(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span what is orthogonal to all periodic lattice vectors."""
    periodic = np.asarray(cell, dtype=np.float64)[pbc]
    if len(periodic) == 0:
        return np.eye(3)
    return np.linalg.svd(periodic)[2][len(periodic) :]  # the null space


def complete_cell(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """`cell` with every non-periodic vector replaced by one that is orthogonal to the others and spans the atoms.

    Engines need an invertible cell; along axes that are not periodic the vector has no meaning.
    """
    complete = np.array(cell, dtype=np.float64)
    free = np.flatnonzero(~pbc)
    if len(free) == 0:
        return complete
    extent = float(np.ptp(positions, axis=0).max()) + 2 * cutoff + 1.0
    complete[free] = _free_directions(complete, pbc) * extent
    return complete


@cache
def default_engine() -> str:
    """The fastest engine that is installed."""
    return next((name for name in ENGINES if find_spec(name)), "reference")


def _matscipy(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    from matscipy.neighbours import neighbour_list

    return neighbour_list("ijS", positions=positions, cell=cell, pbc=pbc, cutoff=cutoff)


def _reference(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """Every image within reach, one by one: slow, short, and the oracle for the other engines."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # distance between opposite faces
    wraps = np.floor(positions @ np.linalg.inv(cell)).astype(int) * pbc  # cells by which an atom lies outside
    positions = positions - wraps @ cell
    reach = np.where(pbc, np.ceil(cutoff / heights).astype(int) + 1, 0)
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for image in images:
        distance = np.linalg.norm(positions[None] + image @ cell - positions[:, None], axis=-1)
        inside = distance < cutoff
        if not image.any():
            np.fill_diagonal(inside, False)
        centre, neighbor = np.nonzero(inside)
        found.append((centre, neighbor, np.broadcast_to(image, (len(centre), 3))))
    centre, neighbor, shifts = (np.concatenate(part) for part in zip(*found, strict=True))
    return centre, neighbor, shifts - wraps[neighbor] + wraps[centre]


#: engines that take one structure at a time
ONE_BY_ONE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, float], Pairs]] = {"matscipy": _matscipy, "reference": _reference}
#: the compiled engine (numba) and those, from the fastest to the oracle of the tests
ENGINES = (COMPILED, *ONE_BY_ONE)
