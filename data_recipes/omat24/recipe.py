"""OMat24: bulk crystals, rattled, heated and relaxed, with PBE and PBE+U totals, forces and stress.

Each archive is one sub-set and unpacks to `<sub-set>/*.aselmdb`; rows hold the uncorrected VASP energy as calculator result and the
Materials Project correction in `data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import WITH_STRESS, aselmdb_parts, read_aselmdb_part
from unipot.structure import Structure

SPLITS = ("train", "val", "1M")
SUBSETS = (
    "rattled-1000", "rattled-1000-subsampled", "rattled-500", "rattled-500-subsampled", "rattled-300", "rattled-300-subsampled",
    "aimd-from-PBE-1000-npt", "aimd-from-PBE-1000-nvt", "aimd-from-PBE-3000-npt", "aimd-from-PBE-3000-nvt", "rattled-relax",
)  # fmt: skip


def parts(raw: Path, split: str = "train", subset: str = "all") -> list[str]:
    """The `.aselmdb` files of one split, of all sub-sets or of one; `1M` is a published sample without sub-sets."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    if subset not in ("all", *SUBSETS):
        raise ValueError(f"subset {subset!r} is not known; use one of: all, {', '.join(SUBSETS)}")
    if split == "1M":
        return aselmdb_parts(raw, "omat24_1M_251210")
    return aselmdb_parts(raw, *(f"{split}/{name}" for name in SUBSETS if subset in ("all", name)))


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """Stream one file; structures made from one parent crystal are one group."""
    return read_aselmdb_part(raw, part, labels=WITH_STRESS, group_keys=("parent_id",))
