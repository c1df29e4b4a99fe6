"""One structure as bytes and back: a packed header and raw little-endian numbers, no pickle.

Layout, all little-endian: header (below), cell (9 float64), positions (n_atoms, 3), then per label of the store's
schema that is present its numbers, then atomic numbers (uint8), frozen atoms (uint8, if any), id and group (UTF-8).
Positions and per-atom labels have the store's precision; cell and per-structure labels are float64 always.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from unipot.properties import PROPERTIES
from unipot.structure import Structure

#: n_atoms, bytes of id, bytes of group, flags (bits 0-2 pbc, bit 3 frozen atoms follow), label bits, 2S+1 (0: none), charge
_HEADER = struct.Struct("<IHHBxHhxxd")
_HAS_FIXED = 8
_FLOAT64, _UINT8 = np.dtype("<f8"), np.dtype("u1")


class RecordCodec:
    """Packs structures for one schema.

    Args:
        labels: properties in the order of their bits.
        precision: `float64` or `float32`, of positions and per-atom labels.

    Raises:
        ValueError: the precision is unknown.
    """

    def __init__(self, labels: Sequence[str], precision: str = "float64") -> None:
        if precision not in ("float64", "float32"):
            raise ValueError(f"precision {precision!r} is not known; use float64 or float32")
        self.labels = tuple(labels)
        self.precision = precision
        self._per_atom = _FLOAT64 if precision == "float64" else np.dtype("<f4")
        # per label: bit, name, per atom?, shape, numbers per atom or structure
        self._plan = [
            (1 << bit, name, PROPERTIES[name].per == "atom", PROPERTIES[name].shape, int(np.prod(PROPERTIES[name].shape)))
            for bit, name in enumerate(self.labels)
        ]

    def pack(self, structure: Structure) -> bytes:
        """The record of `structure`; labels outside the schema are the caller's fault."""
        flags = sum(1 << axis for axis in range(3) if structure.pbc[axis])
        flags |= _HAS_FIXED if structure.fixed.any() else 0
        present = sum(bit for bit, name, *_ in self._plan if name in structure.labels)
        id_bytes, group_bytes = structure.id.encode(), structure.group.encode()
        parts = [
            _HEADER.pack(
                structure.n_atoms,
                len(id_bytes),
                len(group_bytes),
                flags,
                present,
                structure.spin_multiplicity or 0,
                structure.total_charge,
            ),
            structure.cell.astype("<f8").tobytes(),
            structure.positions.astype(self._per_atom).tobytes(),
        ]
        for _, name, per_atom, *_ in self._plan:
            if name in structure.labels:
                parts.append(structure.labels[name].astype(self._per_atom if per_atom else "<f8").tobytes())
        parts.append(structure.atomic_numbers.astype(np.uint8).tobytes())
        if flags & _HAS_FIXED:
            parts.append(structure.fixed.astype(np.uint8).tobytes())
        return b"".join([*parts, id_bytes, group_bytes])

    def unpack(self, record: bytes) -> Structure:
        """The structure of a record this codec packed; arrays are read-only views where the precision allows.

        Raises:
            ValueError: the record's length does not fit its header.
        """
        try:
            n_atoms, n_id, n_group, flags, present, spin, charge = _HEADER.unpack_from(record)
            cell = np.frombuffer(record, _FLOAT64, 9, _HEADER.size).reshape(3, 3)
            positions, offset = self._rows(record, _HEADER.size + 72, 3 * n_atoms, (n_atoms, 3))
            labels = {}
            for bit, name, per_atom, shape, size in self._plan:
                if not present & bit:
                    continue
                if per_atom:
                    labels[name], offset = self._rows(record, offset, n_atoms * size, (n_atoms, *shape))
                else:
                    labels[name] = np.frombuffer(record, _FLOAT64, size, offset).reshape(shape)
                    offset += 8 * size
            numbers = np.frombuffer(record, _UINT8, n_atoms, offset).astype(np.int64)
            offset += n_atoms
            if flags & _HAS_FIXED:
                fixed = np.frombuffer(record, np.bool_, n_atoms, offset)
                offset += n_atoms
            else:
                fixed = np.zeros(n_atoms, dtype=bool)
        except struct.error as error:
            raise ValueError(f"record is damaged: {error}") from error
        if offset + n_id + n_group != len(record):
            raise ValueError(f"record is damaged: it has {len(record)} bytes, its header says {offset + n_id + n_group}")
        return _trusted_structure(
            atomic_numbers=numbers,
            positions=positions,
            cell=cell,
            pbc=_PBC[flags & 7],
            total_charge=charge,
            spin_multiplicity=spin or None,
            fixed=fixed,
            labels=labels,
            id=record[offset : offset + n_id].decode(),
            group=record[offset + n_id :].decode(),
        )

    def _rows(self, record: bytes, offset: int, count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """`count` per-atom numbers at `offset` in the given shape, and the offset behind them."""
        rows = np.frombuffer(record, self._per_atom, count, offset).reshape(shape)
        end = offset + count * self._per_atom.itemsize
        return (rows if self._per_atom is _FLOAT64 else rows.astype(np.float64)), end


def _trusted_structure(**fields: object) -> Structure:
    """A `Structure` without validation: what the writer validated is not validated at every read."""
    structure = object.__new__(Structure)
    structure.__dict__.update(fields)
    return structure


_PBC = [np.array([bool(flags >> axis & 1) for axis in range(3)]) for flags in range(8)]
for _pbc in _PBC:
    _pbc.setflags(write=False)  # shared by every structure that is read
