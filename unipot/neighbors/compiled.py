"""The compiled engine: all structures of a batch in one call, without wrapping atoms and without sorting edges.

Coordinates. Gram–Schmidt from the last periodic lattice vector to the first gives orthonormal `axes` in which lattice vector k
has no component before axis k. So the offset S_0 alone decides the first coordinate of a displacement, S_0 and S_1 the second,
and the images within a sphere are three nested ranges of integers: nearly every image that is visited is an edge. Rounding is
absorbed by `reach`, a little more than the cutoff; whether a pair is an edge is decided everywhere by
|(((R_j − R_i) + S_0 a) + S_1 b) + S_2 c|² < cutoff² in the Cartesian coordinates given, which changes sign exactly with i ↔ j.

Order. Pairs i ≤ j are found once, row by row (`half`); `expand` writes both directions. For each centre the mirrored neighbours
j < i were written before its own row is reached, so the order (i, j, S_0, S_1, S_2) needs no sort.

Legend: i, j atoms of one structure; s0 s1 s2 an offset S; u0 u1 u2 coordinates along `axes`; x y z Cartesian; `frame` (9, 3): rows
0-2 axes, 3-5 lattice vectors along the axes (1 on the diagonal of a free axis), 6-8 lattice vectors, zero along free axes.
"""

from __future__ import annotations

from math import ceil, floor, pi, sqrt
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, int64

from unipot.neighbors.compilation import array, compiled, compiled_for
from unipot.neighbors.compiled_cells import linked_cells
from unipot.neighbors.compiled_geometry import append, frame_of, grown, project, squared_distance
from unipot.neighbors.limits import FINE, FLAT_CELL, MAX_CELLS_AWAY, NOT_FINITE, TOO_FAR, TOO_MANY

#: up to this many images of an atom that can be near, looking at all of them without branches is fastest (measured)
FEW_IMAGES = 4


@compiled
def _pairs_of_structure(  # type: ignore[no-untyped-def]
    positions, cell, pbc, cutoff, max_pairs, linked_from, half, used, row_start, row_length, counts, scratch, hits
):
    """Append the pairs of one structure to `half` (returned, for it may have grown)."""
    n, frame = positions.shape[0], np.empty((9, 3))
    status, reach = _checked_frame(positions, cell, pbc, cutoff, frame)
    if status != FINE:
        return half, used, status, 0.0
    n_images, density = np.ones(3, np.int64), pi / 6
    for k in range(3):
        low, high = project(positions, frame, k, scratch)
        if pbc[k]:
            n_images[k] = int(2 * reach / frame[3 + k, k]) + 1
            density *= 2 * reach / frame[3 + k, k]
        else:
            density *= min(1.0, 2 * reach / (high - low + 1e-9))
    estimate = 0.5 * n * n * density  # as if the atoms filled space evenly
    if estimate > max_pairs:
        return half, used, TOO_MANY, estimate
    if n >= linked_from:
        return linked_cells(positions, frame, pbc, cutoff, reach, max_pairs, half, used, row_start, row_length, counts, scratch)
    images, per_pair = _combinations(n_images), n_images[0] * n_images[1] * n_images[2]
    for i in range(n):
        if used + (n - i) * per_pair + 1 > half.shape[0]:
            half = grown(half, used, used + (n - i) * per_pair + 1)
        row_start[i] = used
        if per_pair <= FEW_IMAGES:
            used = _few_images(positions, i, frame, pbc, cutoff, reach, images, half, used, counts, scratch, hits)
        else:
            used = _all_images(positions, i, frame, pbc, cutoff, reach, half, used, counts, scratch)
        row_length[i] = used - row_start[i]
        if used > max_pairs:
            return half, used, TOO_MANY, float(used)
    return half, used, FINE, float(used)


@compiled
def _checked_frame(positions, cell, pbc, cutoff, frame):  # type: ignore[no-untyped-def]
    """Fill `frame`; returns the status and the reach."""
    extent, longest = 0.0, 0.0
    for i in range(positions.shape[0]):
        for c in range(3):
            if not np.isfinite(positions[i, c]):
                return NOT_FINITE, 0.0
            extent = max(extent, abs(positions[i, c]))
    for k in range(3):
        for c in range(3):
            if pbc[k] and not np.isfinite(cell[k, c]):
                return NOT_FINITE, 0.0
            longest = max(longest, abs(cell[k, c]) if pbc[k] else 0.0)
    if not frame_of(cell, pbc, frame):
        return FLAT_CELL, 0.0
    for k in range(3):
        if pbc[k] and (4 * extent + cutoff) / frame[3 + k, k] > MAX_CELLS_AWAY:  # such offsets lose the digits that decide
            return TOO_FAR, 0.0
    return FINE, cutoff * (1 + 1e-9) + 1e-13 * (extent + longest)


@compiled
def _combinations(n_images):  # type: ignore[no-untyped-def]
    """(at most FEW_IMAGES, 3): all (q_0, q_1, q_2) below n_images, the last fastest."""
    total = min(FEW_IMAGES, n_images[0] * n_images[1] * n_images[2])
    images = np.empty((total, 3))
    for q in range(total):
        rest, images[q, 2] = q // n_images[2], q % n_images[2]
        images[q, 0], images[q, 1] = rest // n_images[1], rest % n_images[1]
    return images


@compiled
def _few_images(positions, i, frame, pbc, cutoff, reach, images, half, used, counts, scratch, hits):  # type: ignore[no-untyped-def]
    """Row i of a structure where few images of an atom can be near: all of them for all atoms, without branches, then the hits."""
    inverse = (pbc[0] / frame[3, 0], pbc[1] / frame[4, 1], pbc[2] / frame[5, 2])
    x0, x1, x2 = scratch[0, i:], scratch[1, i:], scratch[2, i:]
    n, total = positions.shape[0] - i, images.shape[0]
    for q in range(total):
        squared, q0, q1, q2 = scratch[3 + q], images[q, 0], images[q, 1], images[q, 2]
        for j in range(n):
            squared[j] = _image(x0[j] - x0[0], x1[j] - x1[0], x2[j] - x2[0], q0, q1, q2, frame, inverse, reach)[0]
    n_hits, limit = 0, reach * reach
    for j in range(n):
        for q in range(total):
            hits[n_hits] = j * FEW_IMAGES + q
            n_hits += scratch[3 + q, j] < limit
    for h in range(n_hits):
        j, q = hits[h] // FEW_IMAGES, hits[h] % FEW_IMAGES
        q0, q1, q2 = images[q, 0], images[q, 1], images[q, 2]
        _, s0, s1, s2 = _image(x0[j] - x0[0], x1[j] - x1[0], x2[j] - x2[0], q0, q1, q2, frame, inverse, reach)
        squared_exactly = squared_distance(positions, i, i + j, s0, s1, s2, frame)
        if squared_exactly < cutoff * cutoff and not (j == 0 and squared_exactly == 0.0):  # not its own neighbour at distance zero
            append(half, used, i + j, s0, s1, s2)
            used += 1
            counts[i] += 1
            counts[i + j] += j > 0
    return used


@compiled
def _image(u0, u1, u2, q0, q1, q2, frame, inverse, reach):  # type: ignore[no-untyped-def]
    """Squared distance and offset of the image that is number q_k of those not below −reach along each axis."""
    s0 = np.ceil((-reach - u0) * inverse[0]) + q0
    u0, u1, u2 = u0 + s0 * frame[3, 0], u1 + s0 * frame[3, 1], u2 + s0 * frame[3, 2]
    s1 = np.ceil((-reach - u1) * inverse[1]) + q1
    u1, u2 = u1 + s1 * frame[4, 1], u2 + s1 * frame[4, 2]
    s2 = np.ceil((-reach - u2) * inverse[2]) + q2
    u2 = u2 + s2 * frame[5, 2]
    return u0 * u0 + u1 * u1 + u2 * u2, s0, s1, s2


@compiled
def _range(periodic, u, height, inverse, span):  # type: ignore[no-untyped-def]
    """First and last s with |u + s·height| ≤ span."""
    if not periodic:
        return (0, 0) if abs(u) <= span else (0, -1)
    return ceil((-span - u) * inverse), floor((span - u) * inverse)


@compiled
def _all_images(positions, i, frame, pbc, cutoff, reach, half, used, counts, scratch):  # type: ignore[no-untyped-def]
    """Row i of a small cell: for every j, the images in the sphere as nested ranges."""
    l00, l01, l02, l11, l12, l22 = frame[3, 0], frame[3, 1], frame[3, 2], frame[4, 1], frame[4, 2], frame[5, 2]
    a, b, c = (frame[6, 0], frame[6, 1], frame[6, 2]), (frame[7, 0], frame[7, 1], frame[7, 2]), (frame[8, 0], frame[8, 1], frame[8, 2])
    i00, i11, i22, far = 1 / l00, 1 / l11, 1 / l22, cutoff * cutoff
    for j in range(i, positions.shape[0]):
        d0, d1, d2 = scratch[0, j] - scratch[0, i], scratch[1, j] - scratch[1, i], scratch[2, j] - scratch[2, i]
        dx, dy, dz = positions[j, 0] - positions[i, 0], positions[j, 1] - positions[i, 1], positions[j, 2] - positions[i, 2]
        before, near = used, 0.0 if i == j else -1.0  # an atom is not its own neighbour at distance zero
        first0, last0 = _range(pbc[0], d0, l00, i00, reach)
        for s0 in range(first0, last0 + 1):
            u0, u1, v2 = d0 + s0 * l00, d1 + s0 * l01, d2 + s0 * l02
            x0, y0, z0 = dx + s0 * a[0], dy + s0 * a[1], dz + s0 * a[2]
            left = max(0.0, reach * reach - u0 * u0)
            first1, last1 = _range(pbc[1], u1, l11, i11, sqrt(left))
            for s1 in range(first1, last1 + 1):
                w1, u2 = u1 + s1 * l11, v2 + s1 * l12
                x1, y1, z1 = x0 + s1 * b[0], y0 + s1 * b[1], z0 + s1 * b[2]
                first2, last2 = _range(pbc[2], u2, l22, i22, sqrt(max(0.0, left - w1 * w1)))
                for s2 in range(first2, last2 + 1):
                    x, y, z = x1 + s2 * c[0], y1 + s2 * c[1], z1 + s2 * c[2]
                    squared = x * x + y * y + z * z
                    append(half, used, j, s0, s1, s2)  # overwritten by the next one when it is not near
                    used += (squared < far) & (squared > near)
        counts[i] += used - before
        counts[j] += used - before if i != j else 0
    return used


_BATCH = (array(float64, 2), array(float64, 3), array(boolean, 2), array(int64, 1))  # positions, cell, pbc, n_atoms


_PAIRS = (int32[:, ::1], int64[::1], int64[::1], int64[::1], array(int64, 1), int64[:, ::1])


@compiled_for((*_BATCH, float64, int64, int64))
def half_pairs(positions, cell, pbc, n_atoms, cutoff, max_pairs, linked_from) -> Any:  # type: ignore[no-untyped-def]
    """Pairs i ≤ j of every structure.

    Returns:
        half (≥ n_pairs, 4) int32, j and S of each pair, in rows; row_start, row_length and counts (edges per centre), each
        (n_atoms,) int64; status, the structure it is about, and an estimate of its pairs.
    """
    total = positions.shape[0]
    row_start, row_length, counts = np.zeros(total, np.int64), np.zeros(total, np.int64), np.zeros(total, np.int64)
    half = np.empty((32 * total + 64, 4), np.int32)
    largest = 1
    for k in range(n_atoms.shape[0]):
        largest = max(largest, n_atoms[k])
    scratch, hits = np.empty((3 + FEW_IMAGES, largest)), np.empty(FEW_IMAGES * largest + 1, np.int64)
    used, start = 0, 0
    for k in range(n_atoms.shape[0]):
        stop = start + n_atoms[k]
        half, used, status, estimate = _pairs_of_structure(
            positions[start:stop], cell[k], pbc[k], cutoff, max_pairs, linked_from, half, used,
            row_start[start:stop], row_length[start:stop], counts[start:stop], scratch, hits,
        )  # fmt: skip
        if status != FINE:
            return half, row_start, row_length, counts, status, k, estimate
        start = stop
    return half, row_start, row_length, counts, FINE, 0, float(used)


@compiled_for((*_PAIRS, int64[:, ::1]), (*_PAIRS, float32[:, ::1]), (*_PAIRS, float64[:, ::1]))
def expand(half, row_start, row_length, counts, n_atoms, edge_index, shifts) -> Any:  # type: ignore[no-untyped-def]
    """Write both directions of every pair, ordered by (i, j, S_0, S_1, S_2), into edge_index (2, n_edges) and shifts (n_edges, 3)."""
    cursor, centres, neighbors = np.empty(counts.shape[0], np.uint64), edge_index[0], edge_index[1]
    e = np.uint64(0)
    for i in range(counts.shape[0]):
        cursor[i] = e
        for _ in range(counts[i]):
            centres[e] = i
            e += np.uint64(1)
    start = 0
    for k in range(n_atoms.shape[0]):
        for i in range(start, start + n_atoms[k]):
            own = cursor[i]
            p, end = np.uint64(row_start[i]), np.uint64(row_start[i] + row_length[i])
            while p < end:
                j, q = half[p, 0], p + np.uint64(1)
                while q < end and half[q, 0] == j:
                    q += np.uint64(1)
                mirrored = cursor[start + j] + (q - p)
                if start + j != i:
                    cursor[start + j] = mirrored
                while p < q:
                    neighbors[own] = start + j
                    shifts[own, 0], shifts[own, 1], shifts[own, 2] = half[p, 1], half[p, 2], half[p, 3]
                    own += np.uint64(1)
                    if start + j != i:
                        mirrored -= np.uint64(1)  # backwards, so that −S ascends too
                        neighbors[mirrored] = i
                        shifts[mirrored, 0], shifts[mirrored, 1], shifts[mirrored, 2] = -half[p, 1], -half[p, 2], -half[p, 3]
                    p += np.uint64(1)
        start += n_atoms[k]


@compiled_for((*_BATCH, array(float64, 1), int64, int64, int64[:, ::1]))
def count_pairs(positions, cell, pbc, n_atoms, cutoffs, max_pairs, linked_from, edge_counts) -> Any:  # type: ignore[no-untyped-def]
    """Add the edges of structure k within cutoffs[c] (ascending) to edge_counts (n_structures, n_cutoffs); nothing is kept."""
    largest = 1
    for k in range(n_atoms.shape[0]):
        largest = max(largest, n_atoms[k])
    scratch, hits = np.empty((3 + FEW_IMAGES, largest)), np.empty(FEW_IMAGES * largest + 1, np.int64)
    half = np.empty((32 * largest + 64, 4), np.int32)
    row_start, row_length, counts = np.empty(largest, np.int64), np.empty(largest, np.int64), np.empty(largest, np.int64)
    frame, start = np.empty((9, 3)), 0
    for k in range(n_atoms.shape[0]):
        n, stop = n_atoms[k], start + n_atoms[k]
        for i in range(n):
            counts[i] = 0
        half, _, status, estimate = _pairs_of_structure(
            positions[start:stop], cell[k], pbc[k], cutoffs[-1], max_pairs, linked_from, half, 0,
            row_start[:n], row_length[:n], counts[:n], scratch, hits,
        )  # fmt: skip
        if status != FINE:
            return status, k, estimate
        frame_of(cell[k], pbc[k], frame)
        for i in range(n):
            for p in range(row_start[i], row_start[i] + row_length[i]):
                j = half[p, 0]
                squared = squared_distance(positions, start + i, start + j, half[p, 1], half[p, 2], half[p, 3], frame)
                for c in range(cutoffs.shape[0]):
                    if squared < cutoffs[c] * cutoffs[c]:
                        edge_counts[k, c] += 1 if i == j else 2
        start = stop
    return FINE, 0, 0.0
