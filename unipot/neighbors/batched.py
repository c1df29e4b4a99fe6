"""Neighbour lists, and numbers of edges, of many structures in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from unipot.errors import InputError
from unipot.neighbors import limits
from unipot.neighbors.engines import COMPILED, Edges, chosen_engine, pairs_of_structure

#: from this many atoms on, linked cells; with fcc copper at 6 Å they overtake all pairs near 1,200 atoms if periodic, 400 if not
LINKED_CELLS_FROM = 1000

#: dtypes in which the compiled engine writes offsets without a conversion
COMPILED_SHIFTS = (np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64))


def prepare_engine(engine: str = "auto") -> str:
    """Load, and the first time on a machine compile, what the engine needs; returns the engine's name.

    Call it before worker processes start: forked workers inherit the machine code, and others find it on disk, instead of each
    compiling for itself.
    """
    name = chosen_engine(engine)
    if name == COMPILED:
        _kernels()
    return name


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


def batch_neighbor_list(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    n_atoms: np.ndarray,
    cutoff: float,
    engine: str = "auto",
    *,
    shift_dtype: Any = np.int64,
    names: Callable[[int], str] | None = None,
) -> Edges:
    """All pairs within `cutoff` in each of many structures side by side.

    Args:
        positions: (n_atoms, 3) Å, structure after structure; atoms may lie outside their cell.
        cell: (n_structures, 3, 3) Å, rows are lattice vectors; ignored along axes that are not periodic.
        pbc: (n_structures, 3) bool.
        n_atoms: (n_structures,) int.
        cutoff: Å, positive.
        engine: one of `ENGINES`, or `auto` for the fastest that is installed.
        shift_dtype: of cell_shifts; a float type spares the conversion that a batch needs anyway.
        names: what messages call structure k; "structure k of the batch" by default.

    Returns:
        edge_index (2, n_edges) int64, row 0 centre i, row 1 neighbour j, numbered through the batch; cell_shifts (n_edges, 3).
        Ordered by (i, j, S_0, S_1, S_2), whichever engine.

    Raises:
        ValueError: the cutoff is not positive; the engine is unknown or not installed; shapes do not fit; a number is not
            finite; periodic vectors span no volume; or the list would not fit into memory.
    """
    positions, cell, pbc, n_atoms = _arrays(positions, cell, pbc, n_atoms)
    limits.check_cutoff(cutoff)
    engine = chosen_engine(engine)
    if engine == COMPILED:
        return _compiled_list(positions, cell, pbc, n_atoms, float(cutoff), shift_dtype, names)
    stops = np.cumsum(n_atoms)
    found = []
    for k, (start, stop) in enumerate(zip(stops - n_atoms, stops, strict=True)):
        name = limits.name_of_structure(k, len(n_atoms), names)
        centre, neighbor, shifts = pairs_of_structure(positions[start:stop], cell[k], pbc[k], cutoff, engine, name)
        found.append((np.stack([centre, neighbor]) + start, shifts))
    edges = np.concatenate([edge_index for edge_index, _ in found], axis=1) if found else np.empty((2, 0))
    shifts = np.concatenate([part for _, part in found]) if found else np.empty((0, 3))
    return edges.astype(np.int64, copy=False), shifts.astype(shift_dtype, copy=False)


def batch_edge_counts(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    n_atoms: np.ndarray,
    cutoffs: Sequence[float],
    engine: str = "auto",
    *,
    names: Callable[[int], str] | None = None,
) -> np.ndarray:
    """Edges of each structure within each cutoff, (n_structures, n_cutoffs) int64.

    The compiled engine keeps no edges: memory does not grow with the batch. Arguments and errors as `batch_neighbor_list`.
    """
    positions, cell, pbc, n_atoms = _arrays(positions, cell, pbc, n_atoms)
    if len(cutoffs) == 0:
        raise InputError("cutoffs are empty; state at least one length in Å")
    for cutoff in cutoffs:
        limits.check_cutoff(cutoff)
    order = np.argsort(cutoffs)
    ascending = np.asarray(cutoffs, dtype=np.float64)[order]
    counts = np.zeros((len(n_atoms), len(cutoffs)), dtype=np.int64)
    engine = chosen_engine(engine)
    if engine == COMPILED:
        found = np.zeros_like(counts)
        status = _kernels().count_pairs(positions, cell, pbc, n_atoms, ascending, limits.max_edges() // 2, LINKED_CELLS_FROM, found)
        _raise_for(*status, cell, pbc, n_atoms, float(ascending[-1]), names)
        counts[:, order] = found
        return counts
    starts = np.cumsum(n_atoms) - n_atoms
    for k, (start, n) in enumerate(zip(starts, n_atoms, strict=True)):
        own, name = positions[start : start + n], limits.name_of_structure(k, len(n_atoms), names)
        centre, neighbor, shifts = pairs_of_structure(own, cell[k], pbc[k], float(ascending[-1]), engine, name)
        vectors = own[neighbor] - own[centre] + shifts @ np.where(pbc[k][:, None], cell[k], 0.0)
        squared = np.einsum("ec,ec->e", vectors, vectors)
        counts[k] = [len(squared) if c == ascending[-1] else np.count_nonzero(squared < c**2) for c in cutoffs]
    return counts


def _arrays(positions: Any, cell: Any, pbc: Any, n_atoms: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    dtypes = (np.float64, np.float64, np.bool_, np.int64)
    arrays = tuple(np.require(array, dtype, "CA") for array, dtype in zip((positions, cell, pbc, n_atoms), dtypes, strict=True))
    limits.check_shapes(*arrays)
    return arrays


def _compiled_list(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    n_atoms: np.ndarray,
    cutoff: float,
    shift_dtype: Any,
    names: Callable[[int], str] | None,
) -> Edges:
    compiled = _kernels()
    max_pairs = limits.max_edges() // 2
    *half, counts, status, k, estimate = compiled.half_pairs(positions, cell, pbc, n_atoms, cutoff, max_pairs, LINKED_CELLS_FROM)
    _raise_for(status, k, estimate, cell, pbc, n_atoms, cutoff, names)
    n_edges = int(counts.sum())
    written = np.dtype(shift_dtype) if np.dtype(shift_dtype) in COMPILED_SHIFTS else np.dtype(np.int64)
    edge_index, shifts = np.empty((2, n_edges), dtype=np.int64), np.empty((n_edges, 3), dtype=written)
    compiled.expand(*half, counts, n_atoms, edge_index, shifts)
    return edge_index, shifts.astype(shift_dtype, copy=False)


def _raise_for(
    status: int,
    k: int,
    estimate: float,
    cell: np.ndarray,
    pbc: np.ndarray,
    n_atoms: np.ndarray,
    cutoff: float,
    names: Callable[[int], str] | None,
) -> None:
    if status == limits.FINE:
        return
    name = limits.name_of_structure(k, len(n_atoms), names)
    if status == limits.NOT_FINITE:
        raise limits.not_finite(name)
    if status == limits.FLAT_CELL:
        raise limits.flat_cell(name, cell[k], pbc[k])
    if status == limits.TOO_FAR:
        raise limits.too_far(name)
    raise limits.too_many(name, 2 * estimate, cutoff, int(n_atoms[k]))


@cache
def _kernels() -> ModuleType:
    """The compiled engine; importing it takes a second, the first time on a machine well over ten."""
    started = perf_counter()
    from unipot.neighbors import compiled

    logging.getLogger(__name__).info("compiled neighbour engine ready after %.1f s", perf_counter() - started)
    return compiled
