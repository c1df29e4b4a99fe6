"""What one micro-batch may hold, and how structures are packed into micro-batches of similar cost."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.data.mixture.selection import CHUNK, Selection
from unipot.errors import InputError

#: predicted cost of one atom in units of one edge; only the order and balance of micro-batches depend on it
_ATOM_COST = 10
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Largest contents of one micro-batch.

    Attributes:
        max_atoms: atoms.
        max_edges: edges, both directions.
        max_cost: `structure_cost` units (edges + 10 × atoms); None for no limit.
    """

    max_atoms: int
    max_edges: int
    max_cost: float | None = None

    def __str__(self) -> str:
        cost = "" if self.max_cost is None else f", max_cost={self.max_cost:g}"
        return f"max_atoms={self.max_atoms}, max_edges={self.max_edges}{cost}"

    @property
    def limits(self) -> tuple[int, int, float]:
        """Of atoms, edges and cost."""
        return self.max_atoms, self.max_edges, np.inf if self.max_cost is None else self.max_cost


def structure_cost(n_atoms: Any, n_edges: Any) -> Any:
    """Predicted cost of structures in units of one edge: edges + 10 × atoms; integers or integer arrays."""
    return n_edges + _ATOM_COST * n_atoms


def check_budget(
    names: Sequence[str],
    n_atoms: Sequence[Any],
    n_edges: Sequence[Any],
    budget: Budget,
    *,
    selections: Sequence[Selection | np.ndarray] | None = None,
    id_of: Callable[[int, int], str] | None = None,
) -> None:
    """Refuse structures that exceed a budget on their own, with a list of them; reads the columns in chunks.

    Args:
        names: of the datasets.
        n_atoms: per dataset (n_structures,) atoms.
        n_edges: per dataset (n_structures,) edges.
        budget: of one micro-batch.
        selections: per dataset the positions that matter; None for all.
        id_of: (dataset, position) -> id.

    Raises:
        ValueError: there are some.
    """
    rows: list[str] = []
    n_over, largest = 0, np.zeros(3, dtype=np.int64)
    for dataset, (name, atoms, edges) in enumerate(zip(names, n_atoms, n_edges, strict=True)):
        for positions in position_chunks(len(atoms) if selections is None else selections[dataset]):
            sizes = sizes_at(atoms, edges, positions)
            over = np.flatnonzero((sizes > np.array(budget.limits)[:, None]).any(axis=0))
            largest = np.maximum(largest, sizes.max(axis=1))
            n_over += len(over)
            for k in over[: _LISTED - len(rows)].tolist():
                label = repr(id_of(dataset, int(positions[k]))) if id_of else f"number {positions[k]}"
                rows.append(f"dataset {name!r}, structure {label}: {sizes[0, k]} atoms, {sizes[1, k]} edges")
    if rows:
        more = f"\n  and {n_over - len(rows)} more" if n_over > len(rows) else ""
        cost = "" if budget.max_cost is None else f" max_cost>={largest[2]}"
        raise InputError(
            f"{n_over} structure(s) exceed the budget of one micro-batch ({budget}); raise it to "
            f"max_atoms>={largest[0]} max_edges>={largest[1]}{cost}, or leave them out:\n  " + "\n  ".join(rows) + more
        )


def pack_in_order(n_atoms: Any, n_edges: Any, budget: Budget, positions: Selection | np.ndarray | None = None) -> np.ndarray:
    """Where runs of consecutive structures begin that each fit the budget; a structure over the budget stands alone.

    Args:
        n_atoms: (n_structures,) column.
        n_edges: (n_structures,) column.
        budget: of one run.
        positions: in the columns; None for all.

    Returns:
        (n_runs + 1,) int64, ascending; run k is entries k to k+1 of `positions`. The columns are read in chunks.
    """
    bounds, offset = [0], 0
    pending = np.empty((3, 0), dtype=np.int64)
    for chunk in position_chunks(len(n_atoms) if positions is None else positions):
        pending = np.concatenate([pending, sizes_at(n_atoms, n_edges, chunk)], axis=1)
        starts = _run_starts(pending, budget.limits)
        bounds += [offset + start for start in starts]
        if starts:
            pending, offset = pending[:, starts[-1] :], offset + starts[-1]
    return np.array([*bounds, offset + pending.shape[1]] if pending.size else bounds, dtype=np.int64)


def deal(atoms: np.ndarray, edges: np.ndarray, budget: Budget, multiple: int) -> list[list[int]]:
    """Bins of similar cost, each within the budget: longest first, each to the cheapest bin that still holds it.

    Args:
        atoms: (m,) of the structures in descending order of cost.
        edges: (m,) of the same.
        budget: of a bin; every structure fits alone.
        multiple: there are this many bins, or the first multiple of it that works.

    Returns:
        Bins of positions in the arrays; none is empty.
    """
    costs = structure_cost(atoms, edges)
    needed = max(-(-int(sizes.sum()) // limit) for sizes, limit in zip((atoms, edges, costs), budget.limits, strict=True))
    n_bins = max(1, -(-int(needed) // multiple)) * multiple
    if n_bins == 1:
        return [list(range(len(costs)))] if len(costs) else []
    sizes = atoms.tolist(), edges.tolist(), costs.tolist()  # one by one, Python's integers are faster
    while (bins := _dealt_into_bins(*sizes, n_bins, budget.limits)) is None:
        n_bins += multiple
    return [contents for contents in bins if contents]


def position_chunks(positions: int | Selection | np.ndarray) -> Iterator[np.ndarray]:
    """All of 0..n−1 or the given positions, in order, in pieces of bounded size."""
    if isinstance(positions, int | Selection):
        chunks = (Selection.everything(positions) if isinstance(positions, int) else positions).chunks()
    else:
        chunks = (positions[k : k + CHUNK] for k in range(0, len(positions), CHUNK))
    return (chunk for chunk in chunks if len(chunk))


def sizes_at(n_atoms: Any, n_edges: Any, positions: np.ndarray) -> np.ndarray:
    """(3, m) int64 atoms, edges and cost of the structures at (m,) positions."""
    # consecutive positions are read as a slice, which is several times faster and goes through a file in order
    first, last = int(positions[0]), int(positions[-1])
    consecutive = last - first + 1 == len(positions) and bool((np.diff(positions) == 1).all())
    where = slice(first, last + 1) if consecutive else positions
    sizes = np.empty((3, len(positions)), dtype=np.int64)
    sizes[0], sizes[1] = n_atoms[where], n_edges[where]
    sizes[2] = structure_cost(sizes[0], sizes[1])
    return sizes


def _run_starts(sizes: np.ndarray, limits: tuple[int, int, float]) -> list[int]:
    """Where the second and later runs begin among (3, n) sizes; the last run may go on behind them."""
    sums = np.concatenate([np.zeros((3, 1), dtype=np.int64), np.cumsum(sizes, axis=1)], axis=1)
    starts, start, n = [], 0, sizes.shape[1]
    while True:
        stop = min(int(row.searchsorted(row[start] + limit, side="right")) - 1 for row, limit in zip(sums, limits, strict=True))
        start = max(stop, start + 1)
        if start >= n:
            return starts
        starts.append(start)


def _dealt_into_bins(
    atoms: list[int], edges: list[int], costs: list[int], n_bins: int, limits: tuple[int, int, float]
) -> list[list[int]] | None:
    """Contents of `n_bins` bins; None when a structure fits nowhere."""
    max_atoms, max_edges, max_cost = limits
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    room = [[max_atoms, max_edges] for _ in range(n_bins)]
    cheapest = [(0, b) for b in range(n_bins)]  # a heap
    for k, (n_atoms, n_edges, cost) in enumerate(zip(atoms, edges, costs, strict=True)):
        passed = []
        while cheapest:
            sum_of_costs, chosen = cheapest[0]
            left = room[chosen]
            if n_atoms <= left[0] and n_edges <= left[1]:
                break
            passed.append(heapq.heappop(cheapest))
        if not cheapest or sum_of_costs + cost > max_cost:
            return None  # the cost of the other bins is larger still
        heapq.heapreplace(cheapest, (sum_of_costs + cost, chosen))
        bins[chosen].append(k)
        left[0] -= n_atoms
        left[1] -= n_edges
        for item in passed:
            heapq.heappush(cheapest, item)
    return bins
