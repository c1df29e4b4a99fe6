"""OC20 IS2RE: relaxed structures of adsorbates on slabs with their adsorption energies, from the relaxation trajectories.

An archive unpacks to `system.txt` (`system_id,reference_energy`) and one `<system_id>.extxyz.xz` for each relaxation. The
other public form, LMDB files of pickled graphs, is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.open_catalyst import read_trajectories, trajectory_parts
from unipot.structure import Structure

SPLITS = ("train", "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")


def parts(raw: Path, split: str = "train") -> list[str]:
    """Blocks of 1,000 relaxations of one split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    return trajectory_parts(raw, f"is2res_{split}_trajectories")


def structures(raw: Path, part: str, frames: str = "relaxed") -> Iterator[Structure | SkippedItem]:
    """Stream one block: the last frame of each relaxation (`relaxed`), the first and the last (`ends`), or `all`."""
    return read_trajectories(raw, part, energy="adsorption", frames=frames)
