"""Stores of earlier format versions, read once to be written anew.

Version 1 (unipot 0.1): one LMDB with one record per key, index arrays beside it; records had a 32-byte header
without checksum, labels in the order of the metadata, and no alignment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unipot.data.storage.format import FORMAT_VERSION, raw_metadata
from unipot.data.storage.lmdb_file import LmdbFile
from unipot.data.storage.writer import StoreWriter
from unipot.errors import InputError
from unipot.properties import PROPERTIES
from unipot.structure import Structure

#: n_atoms, bytes of id, bytes of group, flags (bits 0-2 pbc, bit 3 frozen atoms follow), label bits, 2S+1 (0: none), charge
_HEADER_1 = struct.Struct("<IHHBxHhxxd")
_HAS_FIXED_1 = 8


def upgrade_store(old: str | Path, new: str | Path) -> Path:
    """Write the structures of an older store to a store of the present format.

    Args:
        old: a store of version 1; it stays as it is.
        new: folder to make.

    Raises:
        FileNotFoundError: there is no store at `old`.
        FileExistsError: `new` exists.
        ValueError: `old` is not of an older version, or is damaged.
    """
    metadata = raw_metadata(Path(old))
    if metadata["format_version"] != 1:
        raise InputError(f"{old}: store format {metadata['format_version']} needs no upgrade; this unipot reads {FORMAT_VERSION}")
    provenance = {**metadata["provenance"], "upgraded_from": {"format_version": 1, "content_hash": metadata["content_hash"]}}
    with StoreWriter(
        new,
        name=metadata["name"],
        level_of_theory=metadata["level_of_theory"],
        labels=metadata["labels"],
        precision=metadata["precision"],
        provenance=provenance,
    ) as writer:
        writer.extend(_structures_1(Path(old), metadata["labels"], metadata["precision"], metadata["n_structures"]))
    return Path(new)


def _structures_1(path: Path, labels: list[str], precision: str, n_structures: int) -> Iterator[Structure]:
    try:
        records = LmdbFile(path / "data.mdb")
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: data.mdb is damaged ({error}); prepare the store again") from error
    per_atom = np.dtype("<f8" if precision == "float64" else "<f4")
    with records:
        for index in range(n_structures):
            try:
                record = records.get(index.to_bytes(8, "big"))
                if record is None:
                    raise InputError("it is missing from data.mdb")
                structure = _unpack_1(record, labels, per_atom)
            except (ValueError, struct.error, OSError) as error:
                raise InputError(f"{path}: record {index} is damaged ({error}); prepare the store again") from error
            yield structure


def _unpack_1(record: bytes, schema: list[str], per_atom: np.dtype) -> Structure:
    n_atoms, n_id, n_group, flags, present, spin, charge = _HEADER_1.unpack_from(record)
    offset = _HEADER_1.size

    def take(dtype: np.dtype, *shape: int) -> np.ndarray:
        nonlocal offset
        array = np.frombuffer(record, dtype, int(np.prod(shape)), offset).reshape(shape)
        offset += array.nbytes
        return array

    cell, positions = take(np.dtype("<f8"), 3, 3), take(per_atom, n_atoms, 3)
    labels = {}
    for bit, name in enumerate(schema):
        if present >> bit & 1:
            prop = PROPERTIES[name]
            labels[name] = take(per_atom if prop.per == "atom" else np.dtype("<f8"), *prop.label_shape(n_atoms))
    numbers = take(np.dtype("u1"), n_atoms)
    fixed = take(np.dtype("?"), n_atoms) if flags & _HAS_FIXED_1 else None
    return Structure(
        atomic_numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=[bool(flags >> axis & 1) for axis in range(3)],
        total_charge=charge,
        spin_multiplicity=spin or None,
        fixed=fixed,
        labels=labels,
        id=record[offset : offset + n_id].decode(),
        group=record[offset + n_id :].decode(),
    )
