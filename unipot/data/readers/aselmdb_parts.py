"""What the recipes of `.aselmdb` sets share: parts are files, ids are file and row, groups a key of the row or the composition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import gcd
from pathlib import Path, PurePosixPath

import numpy as np

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.aselmdb import RowFields, read_aselmdb_file
from unipot.structure import SYMBOLS, Structure

#: what every fairchem set stores: eV, eV/A and, where there is a stress, eV/A^3 with ASE's sign, as calculator results
ENERGY_AND_FORCES = {"energy": LabelSource(key="energy", unit="eV"), "forces": LabelSource(key="forces", unit="eV/A")}
WITH_STRESS = {**ENERGY_AND_FORCES, "stress": LabelSource(key="stress", unit="eV/A^3", sign="tension")}


def aselmdb_parts(raw: Path, *folders: str) -> list[str]:
    """The `.aselmdb` files below these folders of `raw`, as paths below `raw`, in order of path.

    Folders that are not there are passed over: sub-sets may be fetched one by one.

    Raises:
        FileNotFoundError: none of the folders is there, or they hold no `.aselmdb` file.
    """
    files = {file for folder in folders for file in (raw / folder).rglob("*.aselmdb")}
    if not files:
        where = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
        raise FileNotFoundError(f"{raw}: no .aselmdb file in {where}; unpack the archives of the card there")
    return sorted(file.relative_to(raw).as_posix() for file in files)


def read_aselmdb_part(
    raw: Path, part: str, *, labels: Mapping[str, LabelSource], group_keys: Sequence[str] = ()
) -> Iterator[Structure | SkippedItem]:
    """Stream one file.

    Args:
        raw: folder of the raw files.
        part: a name from `aselmdb_parts`.
        labels: property name -> where it is found, its unit and sign.
        group_keys: the first of these keys of a row's `data` that it has is its group; otherwise its composition is.

    Yields:
        Structures with the id `<part>-<row id>`, and a `SkippedItem` for each row that cannot be used.

    Raises:
        ValueError: the file is damaged.
    """
    # archives repeat their name as a folder: train/rattled-300/rattled-300/data.aselmdb
    prefix = "/".join(name for name, _ in groupby(PurePosixPath(part).with_suffix("").parts))

    def group(fields: RowFields) -> str:
        value = fields.first(*group_keys)
        return composition(fields.numbers, reduced=bool(fields.pbc.any())) if value is None else str(value)

    return read_aselmdb_file(raw / part, labels=labels, id_prefix=prefix, group=group)


def composition(atomic_numbers: np.ndarray, *, reduced: bool) -> str:
    """Elements and their numbers in order of atomic number; divided by their greatest common divisor when `reduced`.

    Example:
        >>> composition(np.array([8, 1, 1, 8, 1, 1]), reduced=True), composition(np.array([6, 1]), reduced=False)
        ('H2 O1', 'H1 C1')
    """
    elements, counts = np.unique(np.asarray(atomic_numbers, dtype=np.int64), return_counts=True)
    divisor = gcd(*counts.tolist()) if reduced else 1
    return " ".join(f"{SYMBOLS[z]}{n // divisor}" for z, n in zip(elements.tolist(), counts.tolist(), strict=True))
