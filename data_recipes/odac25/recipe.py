"""ODAC25: metal-organic frameworks with CO2, H2O, N2 and O2, PBE+D3(BJ) totals and forces.

Each archive unpacks to `<split>/<partition>/part_<number>.aselmdb`. The label is the energy of the row, a total with the
correction for k-points; adsorption energies in `data` are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import ENERGY_AND_FORCES, aselmdb_parts, read_aselmdb_part
from unipot.structure import Structure

SPLITS = ("train", "val")
PARTITIONS = ("mof_plus_adsorbate", "mof", "gcmc")


def parts(raw: Path, split: str = "train", partition: str = "all") -> list[str]:
    """The `.aselmdb` files of one split, of all partitions or of one."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    if partition not in ("all", *PARTITIONS):
        raise ValueError(f"partition {partition!r} is not known; use one of: all, {', '.join(PARTITIONS)}")
    files = aselmdb_parts(raw, f"odac25_filtered_{split}")
    return files if partition == "all" else [file for file in files if f"/{partition}/" in file]


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; structures of one framework are one group."""
    return read_aselmdb_part(raw, part, labels=ENERGY_AND_FORCES, group_keys=("mof_name",))
