"""The strict test behind a duplicate: do two structures have the same distances, element pair by element pair?

Compared are the sorted lists of all distances within 6 Å for every pair of elements, per formula unit. Mirror images count
as equal (chirality is ignored), and so do the rare different structures that have all distances in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from unipot.data.quality.fingerprint import CUTOFF
from unipot.neighbors import batch_neighbor_list
from unipot.structure import Structure

#: Å by which sorted distances of duplicates may differ; displacements of 1e-4 Å change a distance by 2e-4 Å at most
DISTANCE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Distances:
    """What is compared of a structure.

    Attributes:
        atomic_numbers: sorted.
        pairs: element pairs (119·Z₁ + Z₂, Z₁ ≤ Z₂) that have distances, ascending.
        bounds: (n_pairs + 1,) where each pair's distances begin.
        lengths: Å, ascending within each pair; both directions of an edge.
        total_charge, spin_multiplicity: see `Structure`.
    """

    atomic_numbers: np.ndarray
    pairs: np.ndarray
    bounds: np.ndarray
    lengths: np.ndarray
    total_charge: float
    spin_multiplicity: int | None


def distances_of(structures: Sequence[Structure]) -> list[Distances]:
    """The distance lists of each structure, from one neighbour list."""
    if not structures:
        return []
    n_atoms = np.array([structure.n_atoms for structure in structures])
    positions = np.concatenate([structure.positions for structure in structures])
    numbers = np.concatenate([structure.atomic_numbers for structure in structures])
    cells, pbc = np.stack([s.cell for s in structures]), np.stack([s.pbc for s in structures])
    edges, shifts = batch_neighbor_list(positions, cells, pbc, n_atoms, CUTOFF, names=lambda k: f"structure {structures[k].id!r}")
    of_edge = np.repeat(np.arange(len(structures)), n_atoms)[edges[0]]
    cuts = np.searchsorted(of_edge, np.arange(len(structures) + 1))
    found = []
    for k, structure in enumerate(structures):
        part = slice(cuts[k], cuts[k + 1])
        vectors = positions[edges[1, part]] - positions[edges[0, part]] + shifts[part] @ structure.cell
        lengths = np.linalg.norm(vectors, axis=1)
        elements = np.sort(numbers[edges[:, part]], axis=0)
        pairs = 119 * elements[0] + elements[1]
        order = np.lexsort((lengths, pairs))
        kinds, starts = np.unique(pairs[order], return_index=True)
        found.append(
            Distances(
                atomic_numbers=np.sort(structure.atomic_numbers),
                pairs=kinds,
                bounds=np.append(starts, len(order)),
                lengths=lengths[order],
                total_charge=structure.total_charge,
                spin_multiplicity=structure.spin_multiplicity,
            )
        )
    return found


def same_geometry(a: Distances, b: Distances, tolerance: float = DISTANCE_TOLERANCE) -> bool:
    """Whether two structures are the same but for rotation, reflection, translation, order of atoms and choice of cell.

    Charges must agree, and spin multiplicities where both are stated.

    Args:
        a: the one.
        b: the other; may be a supercell of it.
        tolerance: Å.
    """
    spins = {a.spin_multiplicity, b.spin_multiplicity} - {None}
    if a.total_charge != b.total_charge or len(spins) > 1:
        return False
    n_a, n_b = len(a.atomic_numbers), len(b.atomic_numbers)
    common = lcm(n_a, n_b)
    times_a, times_b = common // n_a, common // n_b
    if not np.array_equal(_repeated(a.atomic_numbers, times_a), _repeated(b.atomic_numbers, times_b)):
        return False
    for pair in np.union1d(a.pairs, b.pairs).tolist():
        of_a, of_b = _repeated(_of_pair(a, pair), times_a), _repeated(_of_pair(b, pair), times_b)
        shared = min(len(of_a), len(of_b))
        if shared and np.abs(of_a[:shared] - of_b[:shared]).max() > tolerance:
            return False
        # what only one of them has must lie at the cutoff, where rounding decides
        if (of_a[shared:] < CUTOFF - tolerance).any() or (of_b[shared:] < CUTOFF - tolerance).any():
            return False
    return True


def _of_pair(distances: Distances, pair: int) -> np.ndarray:
    place = int(np.searchsorted(distances.pairs, pair))
    if place == len(distances.pairs) or distances.pairs[place] != pair:
        return np.empty(0)
    return distances.lengths[distances.bounds[place] : distances.bounds[place + 1]]


def _repeated(values: np.ndarray, times: int) -> np.ndarray:
    return values if times == 1 else np.repeat(values, times)
