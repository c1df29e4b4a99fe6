"""Draws of several steps at once, with the sizes of what was drawn: what `MixturePlan` keeps for the next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from unipot.data.mixture.budget import structure_cost
from unipot.data.mixture.permutation import permute_each, round_keys
from unipot.data.mixture.selection import Selection


@dataclass(frozen=True)
class Span:
    """Consecutive draws `first`..`last`−1 of one dataset, all in one step."""

    step: int
    dataset: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The draws of some steps, dataset by dataset.

    Attributes:
        steps: (m,) int64.
        datasets: (m,) int64.
        positions: (m,) int64 in the store.
        atoms: (m,) int64.
        edges: (m,) int64.
        order: (m,) the draws by step, costliest first, ties by dataset and position.
        begin: step -> where its draws begin and end in `order`.
    """

    steps: np.ndarray
    datasets: np.ndarray
    positions: np.ndarray
    atoms: np.ndarray
    edges: np.ndarray
    order: np.ndarray
    begin: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Source:
    """One dataset: its training structures and the columns of its store.

    Attributes:
        name: of the dataset; its order depends on (seed, name, pass).
        selection: training structures among the rows of the columns.
        n_atoms: column.
        n_edges: column.
    """

    name: str
    selection: Selection
    n_atoms: Any
    n_edges: Any


def draw(sources: Sequence[Source], seed: int, spans: Sequence[Span]) -> Drawn:
    """Which structures the spans are, and how large.

    Args:
        sources: the datasets.
        seed: of the orders.
        spans: dataset after dataset.
    """
    lengths = np.array([span.last - span.first for span in spans], dtype=np.int64)
    counters = _ragged(np.array([span.first for span in spans], dtype=np.int64), lengths)
    datasets = np.repeat(np.array([span.dataset for span in spans], dtype=np.int64), lengths)
    steps = np.repeat(np.array([span.step for span in spans], dtype=np.int64), lengths)
    sizes = np.array([len(source.selection) for source in sources], dtype=np.int64)[datasets]
    passes, ranks = np.divmod(counters, sizes)
    images = permute_each(ranks, sizes, _keys(sources, seed, datasets, passes))

    positions, atoms, edges = (np.empty(len(images), dtype=np.int64) for _ in range(3))
    bounds = np.searchsorted(datasets, np.arange(len(sources) + 1))
    for source, start, stop in zip(sources, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if start < stop:
            positions[start:stop] = chosen = source.selection.take(images[start:stop])
            atoms[start:stop], edges[start:stop] = source.n_atoms[chosen], source.n_edges[chosen]
    order = np.lexsort((positions, datasets, -structure_cost(atoms, edges), steps))
    first = np.flatnonzero(np.diff(steps[order], prepend=-1)).tolist()
    begin = {int(steps[order[a]]): (a, b) for a, b in zip(first, [*first[1:], len(order)], strict=True)}
    return Drawn(steps=steps, datasets=datasets, positions=positions, atoms=atoms, edges=edges, order=order, begin=begin)


def _ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start+1, … for each length, concatenated."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(starts - offsets, lengths)


def _keys(sources: Sequence[Source], seed: int, datasets: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """(6, m) round keys of the pass that each draw belongs to."""
    new = np.flatnonzero((np.diff(datasets, prepend=-1) != 0) | (np.diff(passes, prepend=-1) != 0))
    keys = [_pass_keys(seed, sources[d].name, number) for d, number in zip(datasets[new].tolist(), passes[new].tolist(), strict=True)]
    return np.repeat(np.stack(keys, axis=1), np.diff(new, append=len(datasets)), axis=1)


@lru_cache(maxsize=4096)
def _pass_keys(seed: int, name: str, number: int) -> np.ndarray:
    return round_keys(f"{seed}/{name}/{number}")
