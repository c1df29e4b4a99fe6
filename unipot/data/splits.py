"""Splits by group: relatives stay together, and a structure never changes sides when the dataset grows."""

from __future__ import annotations

import hashlib

import numpy as np

from unipot.data.permutation import mix64
from unipot.data.store import Store


def split_by_group(store: Store, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation structures of a store.

    A group is held out when a hash of (seed, group) falls below `fraction`; nothing else decides, so adding
    structures moves none of the old ones. A structure without a group is a group of its own. When no group falls
    below, the one with the smallest hash is held out.

    Args:
        store: the dataset.
        fraction: of groups to hold out, in [0, 1); 0 holds out none.
        seed: another seed, another split.

    Returns:
        Positions in the store of training and of validation structures, int64, ascending.

    Raises:
        ValueError: the fraction is outside [0, 1), or there is only one group and so no split.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"{store.path}: validation fraction is {fraction}; it must be in [0, 1)")
    if fraction == 0:
        return np.arange(len(store)), np.empty(0, dtype=np.int64)
    key = np.frombuffer(hashlib.blake2b(f"split/{seed}".encode(), digest_size=8).digest(), dtype="<u8")
    hashes = mix64(np.asarray(store.groups, dtype=np.uint64) ^ key)
    held_out = hashes < np.uint64(int(fraction * 2**64))
    held_out = held_out if held_out.any() else hashes == hashes.min()
    if held_out.all():
        n_groups = len(np.unique(store.groups))
        raise ValueError(
            f"{store.path}: {len(store)} structure(s) in {n_groups} group(s) cannot be split with fraction {fraction}; give a "
            "validation set of its own (validation_path), set validation_fraction=0, or prepare the store with finer groups"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
