"""One structure as bytes and back: a packed header and raw little-endian numbers, no pickle.

Layout, all little-endian: header (32 bytes, below), cell (9 float64), per-structure labels (float64), positions
(n_atoms, 3), per-atom labels, atomic numbers (uint8), frozen atoms (uint8, if any), id and group (UTF-8), zeros up to
a multiple of 8 bytes. Labels come in the order of their bits. Positions and per-atom labels have the record's
precision; everything else is float64. Every number lies at a multiple of its size, so that many records side by side
can be read as one array (see `unipot.data.storage.decode`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from unipot.errors import InputError
from unipot.neighbors.near_origin import near_origin
from unipot.properties import PROPERTIES
from unipot.structure import Structure

#: bit of each property in `label_bits`; part of the format, so entries are only ever appended
LABEL_BITS: dict[str, int] = {"energy": 0, "forces": 1, "stress": 2, "weight": 3, "atom_weights": 4}
#: n_atoms, bytes of id, bytes of group, label bits, 2S+1 (0: none), flags, pad, charge, CRC-32 of what follows, zeros
_HEADER = struct.Struct("<IHHIHBxdII")
#: the same as a structured array, for many headers at once
HEADER_DTYPE = np.dtype(
    {
        "names": ["n_atoms", "n_id", "n_group", "label_bits", "spin", "flags", "charge", "crc"],
        "formats": ["<u4", "<u2", "<u2", "<u4", "<u2", "u1", "<f8", "<u4"],
        "offsets": [0, 4, 6, 8, 12, 14, 16, 24],
        "itemsize": _HEADER.size,
    }
)
#: of an atom's coordinates and element, at the least
BYTES_PER_ATOM = 13
_CRC_OFFSET = HEADER_DTYPE.fields["crc"][1]
#: bits 0-2 of flags: pbc
HAS_FIXED, SINGLE_PRECISION = 8, 16
CELL_OFFSET, LABELS_OFFSET = _HEADER.size, _HEADER.size + 72
PRECISIONS = ("float64", "float32")
_FLOAT64, _FLOAT32, _UINT8 = np.dtype("<f8"), np.dtype("<f4"), np.dtype("u1")


class RecordCodec:
    """Packs structures for one schema, and unpacks any record.

    Args:
        labels: properties the structures may carry.
        precision: `float64` or `float32`, of positions and per-atom labels. Before positions are rounded to float32, a structure far
            from the origin is moved near it.

    Raises:
        ValueError: the precision, or a label, is unknown.
    """

    def __init__(self, labels: Sequence[str], precision: str = "float64") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not known; use {' or '.join(PRECISIONS)}")
        unknown = [label for label in labels if label not in LABEL_BITS]
        if unknown:
            raise InputError(f"label {unknown[0]!r} has no place in a record; known are: {', '.join(LABEL_BITS)}")
        self.labels, self.precision = tuple(labels), precision

    def pack(self, structure: Structure) -> bytes:
        """The record of `structure`; labels outside the schema are the caller's fault."""
        per_atom = _FLOAT64 if self.precision == "float64" else _FLOAT32
        flags = sum(1 << axis for axis in range(3) if structure.pbc[axis])
        flags |= HAS_FIXED if structure.fixed.any() else 0
        flags |= SINGLE_PRECISION if per_atom is _FLOAT32 else 0
        id_bytes, group_bytes = structure.id.encode(), structure.group.encode()
        parts = [structure.cell.astype("<f8").tobytes()]
        parts += [structure.labels[name].astype("<f8").tobytes() for name in STRUCTURE_LABELS if name in structure.labels]
        parts.append(self._positions(structure).astype(per_atom).tobytes())
        parts += [structure.labels[name].astype(per_atom).tobytes() for name in ATOM_LABELS if name in structure.labels]
        parts.append(structure.atomic_numbers.astype(np.uint8).tobytes())
        if flags & HAS_FIXED:
            parts.append(structure.fixed.astype(np.uint8).tobytes())
        content = b"".join([*parts, id_bytes, group_bytes])
        content += bytes(-len(content) % 8)
        header = _HEADER.pack(
            structure.n_atoms,
            len(id_bytes),
            len(group_bytes),
            label_bits(structure),
            structure.spin_multiplicity or 0,
            flags,
            structure.total_charge,
            zlib.crc32(content),
            0,
        )
        return header + content

    def _positions(self, structure: Structure) -> np.ndarray:
        """Near the origin where they are rounded: the same structure, with more of its digits."""
        if self.precision == "float64":
            return structure.positions
        return near_origin(structure.positions, structure.cell[None], structure.pbc[None], np.array([structure.n_atoms])).positions

    def unpack(self, record: bytes | memoryview) -> Structure:
        """The structure of a record; arrays are read-only views where the precision allows.

        Raises:
            ValueError: the record's length or checksum does not fit.
        """
        try:
            n_atoms, n_id, n_group, bits, spin, flags, charge, crc, _ = _HEADER.unpack_from(record)
        except struct.error as error:
            raise InputError(f"record is damaged: {error}") from error
        length = record_length(n_atoms, n_id, n_group, bits, flags)
        if length != len(record):
            raise InputError(f"record is damaged: it has {len(record)} bytes, its header says {length}")
        if zlib.crc32(memoryview(record)[CELL_OFFSET:]) != crc:
            raise InputError("record is damaged: its checksum differs")
        reader = _Reader(record, LABELS_OFFSET, _FLOAT32 if flags & SINGLE_PRECISION else _FLOAT64)
        labels = {name: reader.structure_row(PROPERTIES[name].shape) for name in STRUCTURE_LABELS if bits >> LABEL_BITS[name] & 1}
        positions = reader.atom_rows(n_atoms, (3,))
        for name in ATOM_LABELS:
            if bits >> LABEL_BITS[name] & 1:
                labels[name] = reader.atom_rows(n_atoms, PROPERTIES[name].shape)
        numbers = reader.bytes(n_atoms).astype(np.int64)
        fixed = reader.bytes(n_atoms).view(np.bool_) if flags & HAS_FIXED else np.zeros(n_atoms, dtype=bool)
        texts = bytes(memoryview(record)[reader.offset : reader.offset + n_id + n_group])
        return _trusted_structure(
            atomic_numbers=numbers,
            positions=positions,
            cell=np.frombuffer(record, _FLOAT64, 9, CELL_OFFSET).reshape(3, 3),
            pbc=_PBC[flags & 7],
            total_charge=charge,
            spin_multiplicity=spin or None,
            fixed=fixed,
            labels={name: labels[name] for name in LABEL_BITS if name in labels},
            id=texts[:n_id].decode(),
            group=texts[n_id:].decode(),
        )


class _Reader:
    """Goes through a record from the labels on."""

    def __init__(self, record: bytes | memoryview, offset: int, per_atom: np.dtype) -> None:
        self.record, self.offset, self.per_atom = record, offset, per_atom

    def structure_row(self, shape: tuple[int, ...]) -> np.ndarray:
        row = np.frombuffer(self.record, _FLOAT64, int(np.prod(shape)), self.offset).reshape(shape)
        self.offset += row.nbytes
        return row

    def atom_rows(self, n_atoms: int, shape: tuple[int, ...]) -> np.ndarray:
        rows = np.frombuffer(self.record, self.per_atom, n_atoms * int(np.prod(shape)), self.offset).reshape(n_atoms, *shape)
        self.offset += rows.nbytes
        return rows if self.per_atom is _FLOAT64 else rows.astype(np.float64)

    def bytes(self, n: int) -> np.ndarray:
        row = np.frombuffer(self.record, _UINT8, n, self.offset)
        self.offset += n
        return row


def checksum_in(record: bytes | memoryview) -> int:
    """The CRC-32 that a record's header holds, of what follows the header."""
    return int.from_bytes(record[_CRC_OFFSET : _CRC_OFFSET + 4], "little")


def label_bits(structure: Structure) -> int:
    """Which labels the structure carries, one bit each."""
    return sum(1 << bit for name, bit in LABEL_BITS.items() if name in structure.labels)


@cache
def label_size(name: str) -> int:
    """Numbers of a label per structure or per atom."""
    return int(np.prod(PROPERTIES[name].shape))


def record_length(n_atoms: Any, n_id: Any, n_group: Any, bits: Any, flags: Any) -> Any:
    """Bytes of a record with this header; numbers or arrays."""
    structure_numbers = sum((bits >> LABEL_BITS[name] & 1) * label_size(name) for name in STRUCTURE_LABELS)
    atom_numbers = 3 + sum((bits >> LABEL_BITS[name] & 1) * label_size(name) for name in ATOM_LABELS)
    item_bytes = 8 - 4 * (flags // SINGLE_PRECISION & 1)
    length = LABELS_OFFSET + 8 * structure_numbers + n_atoms * (atom_numbers * item_bytes + 1 + (flags // HAS_FIXED & 1)) + n_id + n_group
    return (length + 7) // 8 * 8


def _trusted_structure(**fields: object) -> Structure:
    """A `Structure` without validation: what the writer validated is not validated at every read."""
    structure = object.__new__(Structure)
    structure.__dict__.update(fields)
    return structure


#: labels per structure and per atom, each in the order of their bits
STRUCTURE_LABELS = tuple(name for name in sorted(LABEL_BITS, key=LABEL_BITS.__getitem__) if PROPERTIES[name].per == "structure")
ATOM_LABELS = tuple(name for name in sorted(LABEL_BITS, key=LABEL_BITS.__getitem__) if PROPERTIES[name].per == "atom")
_PBC = [np.array([bool(flags >> axis & 1) for axis in range(3)]) for flags in range(8)]
for _pbc in _PBC:
    _pbc.setflags(write=False)  # shared by every structure that is read
