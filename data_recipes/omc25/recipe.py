"""OMC25: relaxation paths of molecular crystals, PBE+D3 totals, forces and stress.

An archive unpacks to `<archive>/<split>/*.aselmdb`; energy, forces and stress are the rows' calculator results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import WITH_STRESS, aselmdb_parts, read_aselmdb_part
from unipot.structure import Structure

SPLITS = ("train", "val")


def parts(raw: Path, split: str = "train") -> list[str]:
    """The `.aselmdb` files of one split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    return aselmdb_parts(raw, f"omc_{split}_250802")


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; crystals of one reduced composition (all packings of a molecule) are one group."""
    return read_aselmdb_part(raw, part, labels=WITH_STRESS)
