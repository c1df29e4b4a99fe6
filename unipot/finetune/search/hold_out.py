"""Which of a user's few frames are trained on, and which are held out to choose the best weights."""

from __future__ import annotations

import hashlib

import numpy as np

from unipot.errors import InputError

#: below this many frames every one is needed for training
SMALLEST_SET = 20
#: held-out frames that make a comparison of weights meaningful
SMALLEST_HOLD_OUT = 5


def choose_frames(n_available: int, n_wanted: int | None, seed: int) -> np.ndarray:
    """Positions of `n_wanted` frames, drawn by `seed`, ascending; all when None.

    Raises:
        ValueError: there are fewer, or none is wanted.
    """
    if n_wanted is None:
        return np.arange(n_available)
    if not 1 <= n_wanted <= n_available:
        raise InputError(f"n_train is {n_wanted}, but there are {n_available} usable frames; give a number from 1 to {n_available}")
    return np.sort(np.random.default_rng(seed).permutation(n_available)[:n_wanted])


def hold_out(groups: np.ndarray, elements: list[frozenset[int]], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Split frames by group into training and held-out ones.

    Whole groups are taken in the order of a hash of (seed, group), until `fraction` of the frames, and at least
    `SMALLEST_HOLD_OUT`, are held out. A group larger than twice that, or with an element that no remaining frame has,
    stays in training.

    Args:
        groups: (n_frames,) group of each frame; relatives share one.
        elements: per frame, its atomic numbers.
        fraction: to hold out, 0 to 0.5.
        seed: another seed, another split.

    Returns:
        Positions for training and held-out positions, ascending, and a sentence that says what was done.

    Raises:
        ValueError: the fraction is not in [0, 0.5].
    """
    if not 0 <= fraction <= 0.5:
        raise InputError(f"validation_fraction is {fraction}; it must be from 0 to 0.5")
    n_frames, everything = len(groups), np.arange(len(groups))
    if fraction == 0:
        return everything, everything[:0], f"all {n_frames} frames are trained on (validation_fraction=0)"
    if n_frames < SMALLEST_SET:
        return everything, everything[:0], f"all {n_frames} frames are trained on: fewer than {SMALLEST_SET} are too few to hold any out"
    wanted = max(SMALLEST_HOLD_OUT, round(fraction * n_frames))
    held = np.zeros(n_frames, dtype=bool)
    for group in sorted(set(groups.tolist()), key=lambda g: hashlib.blake2b(f"{seed}/{g}".encode()).digest()):
        candidate = held | (groups == group)
        if held.sum() >= wanted:
            break
        if candidate.sum() <= 2 * wanted and _covers(elements, ~candidate, candidate):
            held = candidate
    if not held.any():
        return everything, everything[:0], f"all {n_frames} frames are trained on: their groups cannot be split"
    n_held = int(held.sum())
    sentence = f"{n_frames - n_held} frames are trained on, {n_held} held out to choose the best weights"
    return np.flatnonzero(~held), np.flatnonzero(held), sentence


def _covers(elements: list[frozenset[int]], training: np.ndarray, held: np.ndarray) -> bool:
    """Whether the training frames have every element of the held-out ones."""
    collect = lambda mask: frozenset().union(*(elements[i] for i in np.flatnonzero(mask)))  # noqa: E731
    return collect(held) <= collect(training)
