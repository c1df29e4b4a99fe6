"""sAlex: Alexandria's PBE relaxation paths, thinned out and without the prototypes of WBM; fairchem's `.aselmdb` files.

`train.tar.gz` and `val.tar.gz` unpack into files of ASE rows: energy (eV), forces (eV/Å), stress (eV/Å³, ASE's sign), and in
each row's data `sid`, `<material>_<calculation>_<step>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.aselmdb import read_aselmdb
from unipot.structure import Structure

SOURCES = {
    "energy": LabelSource(key="energy", unit="eV"),
    "forces": LabelSource(key="forces", unit="eV/A"),
    "stress": LabelSource(key="stress", unit="eV/A^3", sign="tension"),
}
SPLITS = ("train", "val")


def parts(raw: Path, split: str = "train") -> list[str]:
    """The unpacked files of a split.

    Raises:
        ValueError: `split` is not known.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of recipe 'salex' is not known; use one of: {', '.join(SPLITS)}")
    return sorted(str(file.relative_to(raw)) for file in (raw / split).rglob("*.aselmdb"))


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; group is the material, id `<sid>:<file>-<row>`, unique whatever the sids are."""
    for item in read_aselmdb(raw / part, labels=SOURCES, group_key="sid"):
        if isinstance(item, SkippedItem):
            yield item
        else:
            yield replace(item, id=f"{item.group}:{item.id}", group=item.group.split("_")[0])
