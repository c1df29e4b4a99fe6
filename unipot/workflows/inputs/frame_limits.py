"""Which of many frames are looked at where all would take too long."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from unipot.data.store import Store

#: frames that are looked at however large they are
FEWEST_FRAMES = 10


def spread(n: int, at_most: int) -> np.ndarray:
    """Ascending positions, at most so many, evenly over `n`."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(int))


def evenly(store: Store, indices: np.ndarray, n_frames: int, n_atoms: int, console: Console, use: str) -> np.ndarray:
    """At most `n_frames` of `indices` with some `n_atoms` atoms together, at least ten frames, evenly chosen; said if not all."""
    indices = np.asarray(indices)
    if not len(indices):
        return indices
    atoms = np.asarray(store.n_atoms)[indices]
    room = min(n_frames, max(int(n_atoms / max(float(atoms.mean()), 1.0)), FEWEST_FRAMES))
    if len(indices) <= room:
        return indices
    console.print(f"  error bars are {use} {room} of {len(indices)} frames, evenly chosen", highlight=False)
    return indices[spread(len(indices), room)]
