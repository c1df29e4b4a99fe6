"""Numbers of a dataset that models need before training: compositions, energies, force scale, neighbours.

Everything comes from the columns of the store, chunk by chunk: no record is read, and memory does not grow with the
number of structures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unipot.data.store import Store
from unipot.structure import MAX_ATOMIC_NUMBER

#: structures handled at a time: 31 MB of compositions
CHUNK = 1 << 16


class Indices(Protocol):
    """Positions in a store: a range, a list, an array, or anything that is cut like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Sequence[int] | np.ndarray: ...


def index_chunks(store: Store, indices: Indices | None = None, size: int = CHUNK) -> Iterator[np.ndarray]:
    """(at most `size`,) int64 positions in `store`, in order; None takes all of them."""
    chosen: Indices = range(len(store)) if indices is None else indices
    for start in range(0, len(chosen), size):
        yield np.asarray(chosen[start : start + size], dtype=np.int64)


def labelled_compositions(store: Store, indices: Indices | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compositions and energies of the structures that have an energy, chunk by chunk.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.

    Yields:
        (n, 119) int32 atoms of each element and (n,) float64 eV, n possibly 0.
    """
    energies = store.column("energy")
    for chunk in index_chunks(store, indices):
        own = np.asarray(energies[chunk], dtype=np.float64)
        labelled = ~np.isnan(own)
        yield store.composition_counts_of(chunk[labelled]), own[labelled]


def elements_present(store: Store, indices: Indices | None = None) -> np.ndarray:
    """(119,) bool elements that occur; looks no further once all of the store's have been seen.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.
    """
    present = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
    for chunk in index_chunks(store, indices):
        present |= store.composition_counts_of(chunk).any(axis=0)
        if present[list(store.elements)].all():
            break
    return present


@dataclass(frozen=True, kw_only=True)
class ForceStatistics:
    """Of all labelled force components.

    Attributes:
        rms: eV/Å, root mean square of the components; 0 when there are none.
        largest: eV/Å, largest norm on one atom.
        n_atoms: atoms with a force.
    """

    rms: float
    largest: float
    n_atoms: int

    @classmethod
    def together(cls, parts: Iterable[ForceStatistics]) -> ForceStatistics:
        """Of several datasets as one."""
        parts = list(parts)
        n_atoms = sum(part.n_atoms for part in parts)
        squares = sum(part.rms**2 * part.n_atoms for part in parts)
        return cls(rms=(squares / max(n_atoms, 1)) ** 0.5, largest=max((part.largest for part in parts), default=0.0), n_atoms=n_atoms)


def force_statistics(store: Store, indices: Indices | None = None) -> ForceStatistics:
    """Root mean square and largest force of the structures that have forces.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.
    """
    squares, largest_forces = store.column("force_squares"), store.column("max_force")
    total, largest, n_atoms = 0.0, 0.0, 0
    for chunk in index_chunks(store, indices):
        own = np.asarray(largest_forces[chunk])
        labelled = ~np.isnan(own)
        total += float(np.asarray(squares[chunk])[labelled].sum())
        largest = max(largest, float(own[labelled].max(initial=0.0)))
        n_atoms += int(np.asarray(store.n_atoms[chunk])[labelled].sum(dtype=np.int64))
    return ForceStatistics(rms=float(np.sqrt(total / max(3 * n_atoms, 1))), largest=largest, n_atoms=n_atoms)


def mean_neighbors(store: Store, cutoff: float, indices: Indices | None = None) -> float:
    """Neighbours within `cutoff` (Å) of an atom, averaged over all atoms.

    Args:
        store: the dataset.
        cutoff: Å.
        indices: positions in the store; None takes all.
    """
    counts = store.n_edges(cutoff)
    n_edges, n_atoms = 0, 0
    for chunk in index_chunks(store, indices):
        n_edges += int(np.asarray(counts[chunk]).sum(dtype=np.int64))
        n_atoms += int(np.asarray(store.n_atoms[chunk]).sum(dtype=np.int64))
    return n_edges / max(n_atoms, 1)
