"""Kernels about one structure's geometry; see `unipot.neighbors.compiled` for the coordinates and the letters."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from unipot.neighbors.compilation import compiled
from unipot.neighbors.limits import FLAT


@compiled
def frame_of(cell, pbc, frame) -> Any:  # type: ignore[no-untyped-def]
    """Fill `frame`; False when the periodic vectors span no volume."""
    for k in range(9):
        for c in range(3):
            frame[k, c] = 0.0
    for k in range(2, -1, -1):
        if pbc[k]:
            for c in range(3):
                frame[6 + k, c] = frame[k, c] = cell[k, c]
            _orthogonalize(frame, k, k + 1, True)
            height = _length(frame, k)
            if not height > FLAT * _length(frame, 6 + k):
                return False
            frame[3 + k, k] = height
            for c in range(3):
                frame[k, c] /= height
    for k in range(3):
        if not pbc[k]:
            chosen, best = 0, 2.0
            for step in range(3):  # the Cartesian axis that the others cover least; a row of zeros is an axis not there yet
                c = (k + step) % 3
                covered = frame[0, c] ** 2 + frame[1, c] ** 2 + frame[2, c] ** 2
                if covered < best - 1e-9:
                    best, chosen = covered, c
            frame[3 + k, k] = 1.0
            frame[k, chosen] = 1.0
            _orthogonalize(frame, k, 0, False)
            height = _length(frame, k)
            for c in range(3):
                frame[k, c] /= height
    return True


@compiled
def _length(frame, k):  # type: ignore[no-untyped-def]
    return sqrt(frame[k, 0] ** 2 + frame[k, 1] ** 2 + frame[k, 2] ** 2)


@compiled
def _orthogonalize(frame, k, first, keep):  # type: ignore[no-untyped-def]
    """Row k less its parts along the axes first..2, which are kept as the lattice vector's; twice is enough for rounding."""
    for _ in range(2):
        for m in range(first, 3):
            if m != k:
                along = frame[k, 0] * frame[m, 0] + frame[k, 1] * frame[m, 1] + frame[k, 2] * frame[m, 2]
                frame[3 + k, m] += along if keep else 0.0
                for c in range(3):
                    frame[k, c] -= along * frame[m, c]


@compiled
def project(positions, frame, k, scratch) -> Any:  # type: ignore[no-untyped-def]
    """Coordinates along axis k into scratch[k]; returns the smallest and the largest."""
    low, high = np.inf, -np.inf
    for i in range(positions.shape[0]):
        u = positions[i, 0] * frame[k, 0] + positions[i, 1] * frame[k, 1] + positions[i, 2] * frame[k, 2]
        low, high = min(low, u), max(high, u)
        scratch[k, i] = u
    return low, high


@compiled
def squared_distance(positions, i, j, s0, s1, s2, frame) -> Any:  # type: ignore[no-untyped-def]
    x = (((positions[j, 0] - positions[i, 0]) + s0 * frame[6, 0]) + s1 * frame[7, 0]) + s2 * frame[8, 0]
    y = (((positions[j, 1] - positions[i, 1]) + s0 * frame[6, 1]) + s1 * frame[7, 1]) + s2 * frame[8, 1]
    z = (((positions[j, 2] - positions[i, 2]) + s0 * frame[6, 2]) + s1 * frame[7, 2]) + s2 * frame[8, 2]
    return x * x + y * y + z * z


@compiled
def grown(half, used, needed) -> Any:  # type: ignore[no-untyped-def]
    larger = np.empty((max(needed, half.shape[0] + half.shape[0] // 2), 4), np.int32)
    for p in range(used):
        for c in range(4):
            larger[p, c] = half[p, c]
    return larger


@compiled
def append(half, used, j, s0, s1, s2) -> Any:  # type: ignore[no-untyped-def]
    half[used, 0], half[used, 1], half[used, 2], half[used, 3] = j, s0, s1, s2
