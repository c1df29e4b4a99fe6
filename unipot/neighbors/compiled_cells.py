"""Kernels for large structures: linked cells, in time and memory linear in the atoms however far apart they lie.

Boxes are parallel to the cell, at least `reach` high, and kept in a hash table, so that empty space costs nothing.
See `unipot.neighbors.compiled` for the coordinates and the letters.
"""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import Any

import numpy as np

from unipot.neighbors.compilation import compiled
from unipot.neighbors.compiled_geometry import append, grown, squared_distance
from unipot.neighbors.limits import FINE, TOO_MANY

#: boxes per axis, at most, so that three numbers fit one key
MAX_BOXES_PER_AXIS = 1 << 20


@compiled
def linked_cells(  # type: ignore[no-untyped-def]
    positions, frame, pbc, cutoff, reach, max_pairs, half, used, row_start, row_length, counts, scratch
) -> Any:
    """Rows of a large structure: atoms in boxes at least `reach` wide, each compared with those of the boxes around it."""
    n = positions.shape[0]
    boxes, wraps, n_boxes, around = _boxed(frame, pbc, reach, n, scratch)
    keys = (boxes[:, 0] * n_boxes[1] + boxes[:, 1]) * n_boxes[2] + boxes[:, 2]
    table, box_keys, box_start, box_atoms = _grouped(keys)
    near = np.empty(((2 * around[0] + 1) * (2 * around[1] + 1) * (2 * around[2] + 1), 4), np.int64)
    where, offsets = np.empty((4, 256)), np.empty((5, 256), np.int64)
    for b in range(box_start.shape[0] - 1):
        n_near, n_candidates = _boxes_around(boxes[box_atoms[box_start[b]]], pbc, n_boxes, around, table, box_keys, box_start, near)
        if n_candidates > where.shape[1]:
            where, offsets = np.empty((4, 2 * n_candidates)), np.empty((5, 2 * n_candidates), np.int64)
        _gather(near[:n_near], box_start, box_atoms, frame, scratch, where, offsets)
        if used + (box_start[b + 1] - box_start[b]) * n_candidates > half.shape[0]:
            half = grown(half, used, used + (box_start[b + 1] - box_start[b]) * n_candidates)
        for i in box_atoms[box_start[b] : box_start[b + 1]]:
            row_start[i] = used
            used = _linked_row(positions, i, frame, cutoff, reach, wraps, where, offsets, n_candidates, half, used, counts, scratch)
            row_length[i] = used - row_start[i]
        if used > max_pairs:
            return half, used, TOO_MANY, float(used)
    return half, used, FINE, float(used)


@compiled
def _boxed(frame, pbc, reach, n, scratch):  # type: ignore[no-untyped-def]
    """Wrap scratch[0:3] into the cell; returns boxes (n, 3), wraps (n, 3), boxes per axis and how many boxes the reach spans."""
    l00, l01, l02, l11, l12, l22 = frame[3, 0], frame[3, 1], frame[3, 2], frame[4, 1], frame[4, 2], frame[5, 2]
    inverse1, inverse2 = sqrt(1 + (l01 / l00) ** 2) / l11, (l01 * l12 - l02 * l11) / (l00 * l11 * l22)
    heights = (l00, 1 / inverse1, 1 / sqrt(inverse2**2 + (l12 / (l11 * l22)) ** 2 + 1 / l22**2))
    boxes, wraps = np.empty((n, 3), np.int64), np.zeros((n, 3), np.int64)
    n_boxes, around, fractional = np.ones(3, np.int64), np.ones(3, np.int64), np.empty((3, n))
    for i in range(n):
        fractional[0, i] = scratch[0, i] / l00
        fractional[1, i] = (scratch[1, i] - fractional[0, i] * l01) / l11
        fractional[2, i] = (scratch[2, i] - fractional[0, i] * l02 - fractional[1, i] * l12) / l22
    for k in range(3):
        low, high = 0.0, 0.0
        if not pbc[k]:
            low, high = np.inf, -np.inf
            for i in range(n):
                low, high = min(low, fractional[k, i]), max(high, fractional[k, i])
        length = heights[k] if pbc[k] else high - low + reach
        n_boxes[k] = max(1, min(MAX_BOXES_PER_AXIS, int(length / reach)))
        around[k] = int(ceil(reach * n_boxes[k] / length))
        scale = n_boxes[k] if pbc[k] else n_boxes[k] / length
        for i in range(n):
            wraps[i, k] = floor(fractional[k, i]) if pbc[k] else 0
            boxes[i, k] = min(n_boxes[k] - 1, int((fractional[k, i] - wraps[i, k] - low) * scale))
            for m in range(k, 3):
                scratch[m, i] -= wraps[i, k] * frame[3 + k, m]
    return boxes, wraps, n_boxes, around


@compiled
def _slot(key, table, box_keys):  # type: ignore[no-untyped-def]
    """Where `key` is in the hash table, or the free slot where it belongs (linear probing)."""
    slot = (key * 0x9E3779B97F4A7C1 >> 20) & (table.shape[0] - 1)
    while table[slot] >= 0 and box_keys[table[slot]] != key:
        slot = (slot + 1) & (table.shape[0] - 1)
    return slot


@compiled
def _grouped(keys):  # type: ignore[no-untyped-def]
    """Hash table of the occupied boxes, their keys, and their atoms in ascending order (start of each, atoms)."""
    n, size = keys.shape[0], 16
    while size < 2 * n:
        size *= 2
    table, box_keys, box_of = np.empty(size, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for slot in range(size):
        table[slot] = -1
    occupied = 0
    for i in range(n):
        slot = _slot(keys[i], table, box_keys)
        if table[slot] < 0:
            table[slot], box_keys[occupied] = occupied, keys[i]
            occupied += 1
        box_of[i] = table[slot]
    start, atoms = np.zeros(occupied + 1, np.int64), np.empty(n, np.int64)
    for i in range(n):
        start[box_of[i] + 1] += 1
    for b in range(occupied):
        start[b + 1] += start[b]
    cursor = np.empty(occupied, np.int64)
    for b in range(occupied):
        cursor[b] = start[b]
    for i in range(n):
        atoms[cursor[box_of[i]]] = i
        cursor[box_of[i]] += 1
    return table, box_keys, start, atoms


@compiled
def _boxes_around(box, pbc, n_boxes, around, table, box_keys, box_start, near):  # type: ignore[no-untyped-def]
    """Occupied boxes around `box` and their offsets into near (n, 4), and the number of atoms in them."""
    n_near, n_candidates = 0, 0
    for o0 in range(box[0] - around[0], box[0] + around[0] + 1):
        s0 = o0 // n_boxes[0]
        if s0 != 0 and not pbc[0]:
            continue
        for o1 in range(box[1] - around[1], box[1] + around[1] + 1):
            s1 = o1 // n_boxes[1]
            if s1 != 0 and not pbc[1]:
                continue
            for o2 in range(box[2] - around[2], box[2] + around[2] + 1):
                s2 = o2 // n_boxes[2]
                if s2 != 0 and not pbc[2]:
                    continue
                key = ((o0 - s0 * n_boxes[0]) * n_boxes[1] + o1 - s1 * n_boxes[1]) * n_boxes[2] + o2 - s2 * n_boxes[2]
                found = table[_slot(key, table, box_keys)]
                if found >= 0:
                    near[n_near, 0], near[n_near, 1], near[n_near, 2], near[n_near, 3] = found, s0, s1, s2
                    n_near += 1
                    n_candidates += box_start[found + 1] - box_start[found]
    return n_near, n_candidates


@compiled
def _gather(near, box_start, box_atoms, frame, scratch, where, offsets):  # type: ignore[no-untyped-def]
    """Atoms of the boxes `near`, side by side: coordinates along the axes in where[:3], atom and offset in offsets[:4]."""
    c = 0
    for b in range(near.shape[0]):
        s0, s1, s2 = near[b, 1], near[b, 2], near[b, 3]
        for j in box_atoms[box_start[near[b, 0]] : box_start[near[b, 0] + 1]]:
            where[0, c] = scratch[0, j] + s0 * frame[3, 0]
            where[1, c] = scratch[1, j] + s0 * frame[3, 1] + s1 * frame[4, 1]
            where[2, c] = scratch[2, j] + s0 * frame[3, 2] + s1 * frame[4, 2] + s2 * frame[5, 2]
            offsets[0, c], offsets[1, c], offsets[2, c], offsets[3, c] = j, s0, s1, s2
            c += 1


@compiled
def _linked_row(  # type: ignore[no-untyped-def]
    positions, i, frame, cutoff, reach, wraps, where, offsets, n_candidates, half, used, counts, scratch
):
    """Row i from the candidates of its box, sorted by (j, S)."""
    first, limit, x, y, z = used, reach * reach, scratch[0, i], scratch[1, i], scratch[2, i]
    xs, ys, zs, squared, atoms, hits = where[0], where[1], where[2], where[3], offsets[0], offsets[4]
    for c in range(n_candidates):
        squared[c] = (xs[c] - x) ** 2 + (ys[c] - y) ** 2 + (zs[c] - z) ** 2
    n_hits = 0
    for c in range(n_candidates):
        hits[n_hits] = c
        n_hits += (squared[c] <= limit) & (atoms[c] >= i)
    for h in range(n_hits):
        c = hits[h]
        j = atoms[c]
        s0 = offsets[1, c] - wraps[j, 0] + wraps[i, 0]
        s1 = offsets[2, c] - wraps[j, 1] + wraps[i, 1]
        s2 = offsets[3, c] - wraps[j, 2] + wraps[i, 2]
        squared_exactly = squared_distance(positions, i, j, s0, s1, s2, frame)
        if squared_exactly < cutoff * cutoff and not (j == i and squared_exactly == 0.0):  # not its own neighbour at distance zero
            append(half, used, j, s0, s1, s2)
            used += 1
            counts[i] += 1
            counts[j] += j != i
    _sort_row(half, first, used)
    return used


@compiled
def _sort_row(half, first, last):  # type: ignore[no-untyped-def]
    """Shell sort of rows first..last by (j, S_0, S_1, S_2): short, in place, and no quadratic worst case that matters."""
    gap = 1
    while 3 * gap + 1 < last - first:
        gap = 3 * gap + 1
    while gap > 0:
        for p in range(first + gap, last):
            j, s0, s1, s2 = half[p, 0], half[p, 1], half[p, 2], half[p, 3]
            q = p
            while q - gap >= first and (half[q - gap, 0], half[q - gap, 1], half[q - gap, 2], half[q - gap, 3]) > (j, s0, s1, s2):
                append(half, q, half[q - gap, 0], half[q - gap, 1], half[q - gap, 2], half[q - gap, 3])
                q -= gap
            append(half, q, j, s0, s1, s2)
        gap //= 3
