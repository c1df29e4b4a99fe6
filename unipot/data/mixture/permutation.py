"""A keyed permutation of 0..n−1 without a table: random access in O(1) memory for any n.

A balanced Feistel network over the next even power of two; values that fall outside n walk their cycle until they
are inside (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
"""

from __future__ import annotations

import hashlib

import numpy as np

#: rounds of the network; one 64-bit key each
N_ROUNDS = 6
#: so few values walk on as Python integers, faster than by some 80 calls of NumPy per step (measured: best from 6 to 24)
_FEW = 12
_MASK64 = (1 << 64) - 1
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def permute(positions: np.ndarray, n: int, key: str) -> np.ndarray:
    """Images of `positions` under the permutation of 0..n−1 that `key` names.

    Args:
        positions: (m,) integers in 0..n−1.
        n: size of the permuted set, below 2^53.
        key: any text; different texts give unrelated permutations.

    Returns:
        (m,) int64.
    """
    positions = np.asarray(positions)
    return permute_each(positions, np.full(len(positions), n, dtype=np.uint64), round_keys(key)[:, None])


def permute_each(positions: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """As `permute`, each value under a permutation of its own, in one go.

    Args:
        positions: (m,) integers, each below its size.
        sizes: (m,) sizes of the permuted sets, below 2^53.
        keys: (6, m) uint64, `round_keys` of each value's key, or (6, 1) for one key.

    Returns:
        (m,) int64.
    """
    values, sizes = np.array(positions, dtype=np.uint64), np.asarray(sizes, dtype=np.uint64)
    halves = _half_bits(sizes)
    keys = np.broadcast_to(keys, (N_ROUNDS, len(values)))
    walking = np.arange(len(values))
    while len(walking) > _FEW:
        chosen = slice(None) if len(walking) == len(values) else walking
        values[chosen] = images = _feistel(values[chosen], keys[:, chosen], halves[chosen])
        walking = walking[images >= sizes[chosen]]
    for k in walking.tolist():
        # a value that has not been moved yet is inside: it must take at least one step
        values[k] = _walk(int(values[k]), int(sizes[k]), keys[:, k].tolist(), int(halves[k]))
    return values.astype(np.int64)


def round_keys(key: str) -> np.ndarray:
    """(6,) uint64 that a text stands for."""
    digest = hashlib.blake2b(key.encode(), digest_size=8 * N_ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def mix64(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: a bijection of uint64 that looks random (Steele et al., OOPSLA 2014)."""
    mixed, shifted = np.array(values, dtype=np.uint64), np.empty_like(values, dtype=np.uint64)
    _mix_in_place(mixed, shifted)
    return mixed


def _half_bits(sizes: np.ndarray) -> np.ndarray:
    """Half the bits, rounded up, of the largest value 0..n−1; at least 1."""
    _, bits = np.frexp(np.maximum(sizes.astype(np.float64) - 1, 1))  # exact below 2^53
    return ((bits + 1) // 2).astype(np.uint64)


def _feistel(values: np.ndarray, keys: np.ndarray, halves: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << halves) - np.uint64(1)
    left, right = values >> halves, values & mask
    mixed, shifted = np.empty_like(values), np.empty_like(values)
    for key in keys:
        np.add(right, key, out=mixed)
        _mix_in_place(mixed, shifted)
        mixed &= mask
        left ^= mixed
        left, right = right, left
    return (left << halves) | right


def _mix_in_place(values: np.ndarray, shifted: np.ndarray) -> None:
    for shift, factor in ((_SHIFTS[0], _MULTIPLIERS[0]), (_SHIFTS[1], _MULTIPLIERS[1])):
        np.right_shift(values, shift, out=shifted)
        values ^= shifted
        values *= factor
    np.right_shift(values, _SHIFTS[2], out=shifted)
    values ^= shifted


_SHIFTS = tuple(np.uint64(shift) for shift in (30, 27, 31))
_MULTIPLIERS = tuple(np.uint64(factor) for factor in _FACTORS)


def _walk(value: int, size: int, keys: list[int], half: int) -> int:
    """`_feistel` of one Python integer, until it is below `size`."""
    mask = (1 << half) - 1
    while True:
        left, right = value >> half, value & mask
        for key in keys:
            mixed = (right + key) & _MASK64
            mixed = ((mixed ^ (mixed >> 30)) * _FACTORS[0]) & _MASK64
            mixed = ((mixed ^ (mixed >> 27)) * _FACTORS[1]) & _MASK64
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        value = (left << half) | right
        if value < size:
            return value
