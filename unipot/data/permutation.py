"""A keyed permutation of 0..n−1 without a table: random access in O(1) memory for any n.

A balanced Feistel network over the next even power of two; values that fall outside n walk their cycle until they
are inside (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6


def permute(positions: np.ndarray, n: int, key: str) -> np.ndarray:
    """Images of `positions` under the permutation of 0..n−1 that `key` names.

    Args:
        positions: (m,) integers in 0..n−1.
        n: size of the permuted set.
        key: any text; different texts give unrelated permutations.

    Returns:
        (m,) int64.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest(), dtype="<u8").astype(np.uint64)
    values = _feistel(np.asarray(positions, dtype=np.uint64), keys, half)
    outside = values >= n
    while outside.any():
        values[outside] = _feistel(values[outside], keys, half)
        outside = values >= n
    return values.astype(np.int64)


def mix64(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: a bijection of uint64 that looks random (Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _feistel(values: np.ndarray, keys: np.ndarray, half: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mix64(right + key) & mask)
    return (left << half) | right
