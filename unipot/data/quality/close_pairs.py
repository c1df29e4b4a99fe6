"""`closest_pairs`: how close the atoms of each pair of elements come, where that is closer than bonds are."""

from __future__ import annotations

import numpy as np

from unipot.data.quality.measurements import covalent_radii, neighbor_vectors
from unipot.data.statistics import Indices, index_chunks
from unipot.data.store import Store
from unipot.structure import MAX_ATOMIC_NUMBER

#: structures read at most, evenly spread over those with a close pair
MOST_READ = 20_000
#: structures whose pairs are held at a time
_AT_A_TIME = 256


def closest_pairs(store: Store, below: float, indices: Indices | None = None) -> dict[tuple[int, int], float]:
    """Shortest distance of every pair of elements that comes closer than `below`.

    Structures without such a pair are told from a column of the store and not read; of more than `MOST_READ` others as many are,
    evenly spread.

    Args:
        store: the dataset.
        below: of the sum of covalent radii.
        indices: positions in the store; None takes all.

    Returns:
        Atomic numbers, the smaller first -> Å.

    Example:
        >>> import tempfile
        >>> from unipot.data.store import StoreWriter
        >>> from unipot.structure import Structure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with StoreWriter(f"{folder}/cr2.unipot", name="cr2", level_of_theory="PBE", labels=("energy",)) as writer:
        ...         for d in (1.61, 2.4):
        ...             positions = [[0, 0, 0], [0, 0, d]]
        ...             _ = writer.add(Structure(id=f"{d}", atomic_numbers=[24, 24], positions=positions, labels={"energy": -19.0}))
        ...     closest_pairs(Store(f"{folder}/cr2.unipot"), below=0.65)
        {(24, 24): 1.61}
    """
    ratios = store.column("closest")
    close = np.concatenate([chunk[np.asarray(ratios[chunk]) < below] for chunk in index_chunks(store, indices)] or [np.zeros(0, np.int64)])
    chosen = close if len(close) <= MOST_READ else close[np.linspace(0, len(close) - 1, MOST_READ).astype(np.int64)]
    shortest = np.full((MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1), np.inf)
    for start in range(0, len(chosen), _AT_A_TIME):
        _take_shortest(store, chosen[start : start + _AT_A_TIME], below, shortest)
    first, second = np.nonzero(np.triu(np.isfinite(shortest)))
    return {(int(a), int(b)): float(shortest[a, b]) for a, b in zip(first, second, strict=True)}


def _take_shortest(store: Store, indices: np.ndarray, below: float, shortest: np.ndarray) -> None:
    """Lower `shortest`, (119, 119) Å and symmetric, by the close pairs of some structures."""
    structures = [store[int(index)] for index in indices]
    radii = covalent_radii()
    widest = max(float(radii[structure.atomic_numbers].max()) for structure in structures)
    numbers, _, (centre, neighbor), vectors = neighbor_vectors(structures, 2 * below * widest)
    lengths = np.sqrt(np.einsum("ec,ec->e", vectors, vectors))
    first, second = numbers[centre], numbers[neighbor]
    close = lengths < below * (radii[first] + radii[second])
    np.minimum.at(shortest, (first[close], second[close]), lengths[close])
