"""Transition1x: configurations on and around the paths of 10,000 organic reactions, at wB97x/6-31G(d).

One HDF5 file: split / sum formula / reaction / `atomic_numbers`, `positions` (Å), `wB97x_6-31G(d).energy` (eV) and `.forces`
(eV/Å) of all path images, and the groups `reactant`, `product`, `transition_state` with one configuration each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.hdf5 import group_parts, read_array, read_groups
from unipot.structure import Structure

FILE = "Transition1x.h5"
REACTIONS_PER_PART = 20  # about 20,000 configurations
SPLITS = {"all": ("train", "val", "test"), "train": ("train",), "val": ("val",), "test": ("test",)}
CONFIGURATIONS = ("all", "stationary")
STATIONARY = ("reactant", "transition_state", "product")


def parts(raw: Path, split: str = "all", reactions_per_part: int = REACTIONS_PER_PART) -> list[str]:
    """Ranges of the reactions of each split; the group `data` of the file repeats the splits and is not read.

    Raises:
        ValueError: the split is not known.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of recipe 'transition1x' is not known; use one of: {', '.join(SPLITS)}")
    return [
        part for folder in SPLITS[split] for part in group_parts(raw, FILE, groups_per_part=reactions_per_part, folder=folder, depth=2)
    ]


def structures(raw: Path, part: str, configurations: str = "all") -> Iterator[Structure | SkippedItem]:
    """The configurations of the reactions of one part.

    Args:
        raw: folder with the HDF5 file.
        part: one of `parts`.
        configurations: `all`, or `stationary` for reactant, transition state and product only.

    Raises:
        ValueError: `configurations` is not known, or the file is damaged.
    """
    if configurations not in CONFIGURATIONS:
        allowed = ", ".join(CONFIGURATIONS)
        raise ValueError(f"configurations {configurations!r} of recipe 'transition1x' is not known; use one of: {allowed}")
    for name, group in read_groups(raw, part, depth=2):
        path = read_array(group, "positions").astype(np.float64)
        for point in STATIONARY:
            if point in group:
                repeats = configurations == "all" and _in_path(read_array(group[point], "positions"), path)
                # not twice under two ids
                skipped = SkippedItem(where=f"{name}#{point}", reason="the stationary point is an image of the path", invalid=False)
                yield from [skipped] if repeats else _configurations(group[point], name, [f"{name}#{point}"])
        if configurations == "all":
            yield from _configurations(group, name, [f"{name}#{k}" for k in range(len(path))])


def _in_path(positions: np.ndarray, path: np.ndarray) -> bool:
    """Whether one configuration is, number for number, an image of the path."""
    return path.size > 0 and bool((path == positions.reshape(path.shape[1:])).all(axis=(1, 2)).any())


def _configurations(group: Any, name: str, ids: list[str]) -> Iterator[Structure | SkippedItem]:
    atomic_numbers = read_array(group, "atomic_numbers")
    return conformers(
        atomic_numbers=atomic_numbers,
        positions=read_array(group, "positions").reshape(-1, len(atomic_numbers), 3),
        energy=read_array(group, "wB97x_6-31G(d).energy"),
        forces=read_array(group, "wB97x_6-31G(d).forces").reshape(-1, len(atomic_numbers), 3),
        ids=ids,
        group=name,
    )
