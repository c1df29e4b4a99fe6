"""OMol25: molecules, ions, complexes and clusters with charge and spin, ωB97M-V totals and forces.

Each archive unpacks to `*.aselmdb` files whose rows hold `charge`, `spin` (the multiplicity), `source` and more in `data`. The
cell of a row has no meaning and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import ENERGY_AND_FORCES, aselmdb_parts, read_aselmdb_part
from unipot.structure import Structure

#: split -> folder that its archive unpacks into
SPLITS = {
    "train": "train",
    "train_4M": "train_4M",
    "train_neutral": "neutral_train",
    "val": "val",
    "val_neutral": "neutral_val",
    "train_omol1": "omol1/train",
}


def parts(raw: Path, split: str = "train_4M") -> list[str]:
    """The `.aselmdb` files of one split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    return aselmdb_parts(raw, SPLITS[split])


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; molecules of one composition are one group."""
    return read_aselmdb_part(raw, part, labels=ENERGY_AND_FORCES)
