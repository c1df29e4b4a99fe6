"""AdsMT's global minimum adsorption energies: one record per surface and adsorbate, in a legacy graph LMDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.aselmdb_parts import composition
from unipot.data.readers.graph_lmdb import graph_fields, graph_records
from unipot.errors import InputError
from unipot.structure import Structure

#: tag of adsorbate atoms, as in the Open Catalyst sets (0 below the surface, 1 surface)
ADSORBATE = 2


def gmae_parts(raw: Path, folder: str) -> list[str]:
    """The `data.lmdb` of an unpacked archive, as a path below `raw`.

    Raises:
        FileNotFoundError: it is not there.
    """
    files = sorted((raw / folder).rglob("data.lmdb"))
    if not files:
        raise FileNotFoundError(f"{raw / folder}: no data.lmdb in it; unpack {folder}.tar.gz there")
    return [file.relative_to(raw).as_posix() for file in files]


def read_gmae(raw: Path, part: str, name: str) -> Iterator[Structure | SkippedItem]:
    """Stream the records: the adsorbed configuration of lowest energy (`gmae_pos`) with its adsorption energy (`y_relaxed`).

    A record without that configuration is passed over: its energy belongs to a bare surface and a SMILES text, which is no structure.

    Yields:
        Structures with the id `<name>-<key>`, the composition of the surface as group and the label `energy`; a `SkippedItem` for
        each other record.

    Raises:
        ValueError: the file is damaged.
    """
    for key, record in graph_records(raw / part):
        where = f"{name}-{key}"
        try:
            fields = graph_fields(record)
            if "gmae_pos" not in fields or "gmae_atom_numb" not in fields:
                yield SkippedItem(where=where, reason="it has a bare surface only, not the adsorbed configuration", invalid=False)
                continue
            yield _structure(fields, where)
        except ValueError as error:
            yield SkippedItem(where=where, reason=str(error).removeprefix(f"structure {where!r}: "))


def _structure(fields: dict[str, Any], name: str) -> Structure:
    missing = [key for key in ("cell", "y_relaxed") if key not in fields]
    if missing:
        raise InputError(f"it has no {missing[0]}")
    numbers = np.rint(np.ravel(fields["gmae_atom_numb"])).astype(np.int64)
    tags = np.ravel(fields.get("gmae_tags", np.zeros(len(numbers))))
    if len(tags) != len(numbers):
        raise InputError("gmae_tags and gmae_atom_numb differ in length")
    surface = numbers[tags != ADSORBATE]
    return Structure(
        atomic_numbers=numbers,
        positions=np.asarray(fields["gmae_pos"], dtype=np.float64),
        cell=np.asarray(fields["cell"], dtype=np.float64).reshape(3, 3),
        pbc=np.ones(3, dtype=bool),
        labels={"energy": np.array(float(np.ravel(fields["y_relaxed"])[0]))},
        id=name,
        group=composition(surface if len(surface) else numbers, reduced=True),
    )
