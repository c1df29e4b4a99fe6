"""Nearest-neighbour distances per pair of elements, from a sample of structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipot.neighbors import batch_neighbor_list
from unipot.structure import MAX_ATOMIC_NUMBER, Structure

#: Å; pairs farther apart than this in a structure count as absent
CUTOFF = 5.0
_BATCH_ATOMS = 10_000
_SIZE = MAX_ATOMIC_NUMBER + 1


@dataclass(frozen=True, kw_only=True)
class PairDistances:
    """The smallest distance of each pair of elements in each structure.

    Attributes:
        n_structures: that were looked at.
        pairs: (n, 2) atomic numbers, the smaller first.
        distances: (n,) Å, one entry per structure and pair that comes within the cutoff.
    """

    n_structures: int
    pairs: np.ndarray
    distances: np.ndarray

    def of_pair(self, first: int, second: int) -> np.ndarray:
        """(n_structures with that pair,) Å."""
        chosen = (self.pairs[:, 0] == min(first, second)) & (self.pairs[:, 1] == max(first, second))
        return self.distances[chosen]

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(119, 119) Å smallest distance over all structures (inf: none), and (119, 119) structures; both symmetric."""
        smallest, counts = np.full((_SIZE, _SIZE), np.inf), np.zeros((_SIZE, _SIZE), dtype=np.int64)
        np.minimum.at(smallest, (self.pairs[:, 0], self.pairs[:, 1]), self.distances)
        np.add.at(counts, (self.pairs[:, 0], self.pairs[:, 1]), 1)
        return np.minimum(smallest, smallest.T), np.maximum(counts, counts.T)


def pair_distances(structures: Sequence[Structure]) -> PairDistances:
    """Smallest distances of every pair of elements, periodic images included.

    Args:
        structures: the sample.
    """
    keys, minima = [], []
    for batch in _batches(structures):
        numbers = np.concatenate([s.atomic_numbers for s in batch])
        positions = np.concatenate([s.positions for s in batch])
        n_atoms = np.array([s.n_atoms for s in batch])
        cells = np.stack([s.cell for s in batch])
        pbc, names = np.stack([s.pbc for s in batch]), [f"structure {s.id!r}" for s in batch]
        edges, shifts = batch_neighbor_list(positions, cells, pbc, n_atoms, CUTOFF, names=names.__getitem__)
        owner = np.repeat(np.arange(len(batch)), n_atoms)[edges[0]]
        half = numbers[edges[0]] <= numbers[edges[1]]  # every pair comes in both directions
        (centre, neighbor), shifts, owner = edges[:, half], shifts[half], owner[half]
        vectors = positions[neighbor] - positions[centre] + np.einsum("eb,ebc->ec", shifts.astype(np.float64), cells[owner])
        key = (owner * _SIZE + numbers[centre]) * _SIZE + numbers[neighbor]
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        keys.append(key[order][starts])
        minima.append(np.sqrt(np.minimum.reduceat((vectors**2).sum(axis=1)[order], starts)) if len(starts) else np.empty(0))
    key = np.concatenate([np.empty(0, dtype=np.int64), *keys])
    pairs = np.stack([key // _SIZE % _SIZE, key % _SIZE], axis=1)
    return PairDistances(n_structures=len(structures), pairs=pairs, distances=np.concatenate([np.empty(0), *minima]))


def _batches(structures: Sequence[Structure]) -> list[list[Structure]]:
    batches: list[list[Structure]] = []
    filled = _BATCH_ATOMS
    for structure in structures:
        if filled >= _BATCH_ATOMS:
            batches.append([])
            filled = 0
        batches[-1].append(structure)
        filled += structure.n_atoms
    return batches
