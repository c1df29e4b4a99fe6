"""OC20 S2EF: single points on relaxation paths of adsorbates on slabs, with the total energies of the DFT code.

An archive unpacks to pairs `<number>.extxyz.xz` (frames) and `<number>.txt.xz` (`system_id,frame_number,reference_energy`).
The frames hold total energies; `oc20_s2ef_adsorption` reads the same files and subtracts the reference energy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.open_catalyst import read_s2ef, s2ef_parts
from unipot.structure import Structure

TRAIN = ("200K", "2M", "20M", "all")
SPLITS = (*TRAIN, "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both", "rattled", "md")


def parts(raw: Path, split: str = "200K") -> list[str]:
    """The `.extxyz.xz` files of one split, about 5,000 frames each."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    return s2ef_parts(raw, f"s2ef_train_{split}" if split in TRAIN else f"s2ef_{split}")


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file with its reference energies."""
    return read_s2ef(raw, part, energy="total")
