"""Numbers of a dataset that models need before training: compositions, energies, force scale, neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unipot.data.store import Store
from unipot.structure import MAX_ATOMIC_NUMBER


def composition_counts(store: Store, indices: Iterable[int] | None = None) -> np.ndarray:
    """(n_structures, 119) int64 atoms of each element, column = atomic number.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.
    """
    rows = [np.bincount(store[i].atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1) for i in _positions(store, indices)]
    return np.array(rows, dtype=np.int64).reshape(-1, MAX_ATOMIC_NUMBER + 1)


def labelled_energies(store: Store, indices: Iterable[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compositions and energies of the structures that have an energy, in one pass over the records.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.

    Returns:
        (n_labelled, 119) int64 and (n_labelled,) float64 eV.
    """
    counts: list[np.ndarray] = []
    energies: list[float] = []
    for i in _positions(store, indices):
        structure = store[i]
        if "energy" in structure.labels:
            counts.append(np.bincount(structure.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1))
            energies.append(float(structure.labels["energy"]))
    return np.array(counts, dtype=np.int64).reshape(-1, MAX_ATOMIC_NUMBER + 1), np.array(energies, dtype=np.float64)


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


def force_statistics(store: Store, indices: Iterable[int] | None = None) -> ForceStatistics:
    """Root mean square and largest force of the structures that have forces.

    Args:
        store: the dataset.
        indices: positions in the store; None takes all.
    """
    total, largest, n_atoms = 0.0, 0.0, 0
    for i in _positions(store, indices):
        forces = store[i].labels.get("forces")
        if forces is not None:
            total += float(np.square(forces).sum())
            largest = max(largest, float(np.linalg.norm(forces, axis=1).max()))
            n_atoms += len(forces)
    return ForceStatistics(rms=float(np.sqrt(total / max(3 * n_atoms, 1))), largest=largest, n_atoms=n_atoms)


def mean_neighbors(store: Store, cutoff: float, indices: Iterable[int] | None = None) -> float:
    """Neighbours within `cutoff` (Å) of an atom, averaged over all atoms.

    Args:
        store: the dataset.
        cutoff: Å.
        indices: positions in the store; None takes all.
    """
    chosen = np.asarray(list(_positions(store, indices)), dtype=np.int64)
    return float(store.n_edges(cutoff)[chosen].sum() / max(store.n_atoms[chosen].sum(), 1))


def _positions(store: Store, indices: Iterable[int] | None) -> Iterable[int]:
    return range(len(store)) if indices is None else (int(i) for i in indices)
