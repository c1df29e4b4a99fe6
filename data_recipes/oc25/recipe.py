"""OC25: solid-liquid interfaces, RPBE+D3 totals and forces.

The files are `<split>/data<number>.aselmdb`; rows hold `source` (the calculation), `fid` (the frame in it) and `total_drift` in
`data`, energy and forces as calculator results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import ENERGY_AND_FORCES, aselmdb_parts, read_aselmdb_part
from unipot.structure import Structure

SPLITS = ("train", "val")


def parts(raw: Path, split: str = "train") -> list[str]:
    """The `.aselmdb` files of one split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    return aselmdb_parts(raw, split)


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; frames of one calculation are one group."""
    return read_aselmdb_part(raw, part, labels=ENERGY_AND_FORCES, group_keys=("source",))
