"""Sixteen numbers of a geometry that rotation, reflection, permutation, translation and the choice of cell leave as they are.

Around each atom the neighbours within 6 Å are summed into scalars, vectors and second moments, weighted by smooth functions
of the distance and by fixed numbers that stand for the elements. Invariants of these sums (squares, products, v·M·v, tr M³)
are averaged over the atoms, so that a supercell has the fingerprint of its unit cell, and compressed with asinh. All of it is
continuous in the positions: an atom that crosses 6 Å comes in with weight zero and slope zero.
"""

from __future__ import annotations

import hashlib

import numpy as np

from unipot.structure import MAX_ATOMIC_NUMBER

#: Å; what lies beyond does not enter
CUTOFF = 6.0
#: numbers per fingerprint
SIZE = 16
#: edges summed at a time: the temporary arrays then stay in the processor's cache
_EDGES_AT_A_TIME = 8192


def element_weights(n_sets: int) -> np.ndarray:
    """(n_sets, 119) float64 in 0.5..1.5, one fixed number per set and element, the same on every machine.

    Example:
        >>> bool((element_weights(2)[:, 1] != element_weights(2)[:, 6]).all())
        True
    """
    table = np.ones((n_sets, MAX_ATOMIC_NUMBER + 1))
    for which in range(n_sets):
        for number in range(1, MAX_ATOMIC_NUMBER + 1):
            digest = hashlib.blake2b(f"unipot fingerprint {which} {number}".encode(), digest_size=8).digest()
            table[which, number] = 0.5 + int.from_bytes(digest, "little") / 2**64
    return table


#: two sets for neighbours, two for centres
_NEIGHBOR_WEIGHTS = element_weights(4)[:2].astype(np.float32)
_CENTRE_WEIGHTS = element_weights(4)[2:]


def fingerprints(atomic_numbers: np.ndarray, n_atoms: np.ndarray, edge_index: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n_structures, 16) float32, dimensionless.

    Args:
        atomic_numbers: (n_atoms_total,) of all structures, one after the other.
        n_atoms: (n_structures,) atoms of each.
        edge_index: (2, n_edges) all pairs within 6 Å in both directions, numbered through the batch and sorted by centre.
        vectors: (n_edges, 3) Å from centre to neighbour.
    """
    sums = _neighborhood_sums(atomic_numbers, edge_index, vectors)
    density, first, second, cross_density = sums[:, :4], sums[:, 4:10].reshape(-1, 2, 3), sums[:, 10:22].reshape(-1, 2, 6), sums[:, 22:]
    moments = second[:, :, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 2, 3, 3)  # xx yy zz yz xz xy as in Voigt
    one, two = moments[:, 0], moments[:, 1]
    centre = _CENTRE_WEIGHTS[:, atomic_numbers].T  # (n_atoms_total, 2)
    per_atom = np.stack(
        [
            np.ones(len(atomic_numbers)),
            *density.T,
            cross_density[:, 0] ** 2,
            cross_density[:, 1] * density[:, 3],
            np.einsum("ac,ac->a", first[:, 0], first[:, 0]),
            np.einsum("ac,ac->a", first[:, 1], first[:, 1]),
            np.einsum("ac,ac->a", first[:, 0], first[:, 1]),
            np.einsum("acd,acd->a", one, one),
            np.einsum("acd,acd->a", two, two),
            np.einsum("acd,acd->a", one, two),
            np.einsum("ac,acd,ad->a", first[:, 1], two, first[:, 1], optimize=True),
            np.einsum("acd,ace,ade->a", one, one, one, optimize=True),
            density[:, 2] ** 3,
        ],
        axis=1,
    )
    per_atom *= centre[:, [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]]
    starts = np.concatenate([[0], np.cumsum(n_atoms)[:-1]]).astype(np.int64)
    means = np.add.reduceat(per_atom, starts, axis=0) / np.asarray(n_atoms)[:, None]
    return np.arcsinh(means).astype(np.float32)


def _neighborhood_sums(atomic_numbers: np.ndarray, edge_index: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n_atoms_total, 24) float64: four densities, two vectors, two second moments, two densities of the other weights."""
    sums = np.zeros((len(atomic_numbers), 24))
    boundaries = np.searchsorted(edge_index[0], np.arange(len(atomic_numbers) + 1))
    first = 0
    while first < len(atomic_numbers):
        # whole atoms, at least one
        last = int(np.searchsorted(boundaries, boundaries[first] + _EDGES_AT_A_TIME, side="right")) - 1
        last = max(min(last, len(atomic_numbers)), first + 1)
        edges = slice(boundaries[first], boundaries[last])
        if edges.stop > edges.start:
            terms = _edge_terms(vectors[edges], atomic_numbers[edge_index[1, edges]])
            starts = boundaries[first:last] - boundaries[first]
            occupied = np.flatnonzero(np.diff(boundaries[first : last + 1]))  # reduceat would give an empty segment a foreign row
            sums[first + occupied] = np.add.reduceat(terms, starts[occupied], axis=1).T
        first = last
    return sums


def _edge_terms(vectors: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """(24, n_edges) float32: what each edge adds to the sums of its centre."""
    x, y, z = np.ascontiguousarray(vectors.T, dtype=np.float32)
    weight, other = _NEIGHBOR_WEIGHTS[0][neighbors], _NEIGHBOR_WEIGHTS[1][neighbors]
    terms = np.empty((24, len(x)), dtype=np.float32)
    inside = np.maximum(1.0 - (x * x + y * y + z * z) * np.float32(1 / CUTOFF**2), np.float32(0.0))
    f2 = inside * inside
    f4 = f2 * f2
    f8 = f4 * f4
    f16 = f8 * f8
    for row, radial in enumerate((f2, f4, f8, f16)):
        np.multiply(weight, radial, out=terms[row])
    np.multiply(other, f8, out=terms[22])
    np.multiply(other, f4, out=terms[23])
    for row, scale in ((4, terms[2]), (7, terms[23])):
        for axis, component in enumerate((x, y, z)):
            np.multiply(scale, component, out=terms[row + axis])
    for row, (vx, vy, vz) in ((10, terms[4:7]), (16, terms[7:10])):
        for k, (left, right) in enumerate(((vx, x), (vy, y), (vz, z), (vy, z), (vx, z), (vx, y))):
            np.multiply(left, right, out=terms[row + k])
    return terms
