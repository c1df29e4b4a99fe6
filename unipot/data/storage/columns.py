"""The index of a store: one row of plain numbers per structure, so that questions about millions need no record.

Columns lie as `.npy` files beside the records and are memory-mapped; whatever reads them goes through in chunks.
"""

from __future__ import annotations

import math
import os
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS
from unipot.data.storage.files import open_regular, require_recorded
from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER

#: rows that are handled at once where a whole column is gone through
ROWS_PER_CHUNK = 1 << 18
FINGERPRINT_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number, or a few, per structure.

    Attributes:
        name: of the file, without `.npy`.
        dtype: NumPy's name of it.
        shape: behind the structure dimension.
        unit: canonical, "" without one.
        meaning: in words; what stands for "none" included.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    meaning: str = ""


_MEASURED = (
    Column(name="edge_counts", dtype="<i4", shape=(len(STORED_CUTOFFS),), meaning=f"edges, both directions, within {STORED_CUTOFFS} A"),
    Column(name="max_force", dtype="<f4", unit="eV/A", meaning="largest norm on an atom; NaN without forces"),
    Column(name="force_squares", dtype="<f8", unit="(eV/A)^2", meaning="sum of |F|^2 over atoms; NaN without forces"),
    Column(name="net_force", dtype="<f4", unit="eV/A", meaning="norm of the sum of forces; NaN without forces"),
    Column(name="net_torque", dtype="<f4", unit="eV", meaning="norm, about the centre; NaN without forces or with a periodic axis"),
    Column(name="max_stress", dtype="<f4", unit="eV/A^3", meaning="largest component in absolute value; NaN without stress"),
    Column(name="pressure", dtype="<f4", unit="eV/A^3", meaning="minus a third of the trace of the stress; NaN without stress"),
    Column(name="volume_per_atom", dtype="<f4", unit="A^3", meaning="NaN unless all axes are periodic"),
    Column(name="closest", dtype="<f4", meaning="smallest distance over sum of covalent radii, pairs within 6 A; inf without a pair"),
    Column(name="fingerprint", dtype="<f4", shape=(FINGERPRINT_SIZE,), meaning="see unipot.data.quality.fingerprint"),
)
_COUNTED = (
    Column(name="n_atoms", dtype="<i4", meaning="atoms"),
    Column(name="group", dtype="<u8", meaning="group_hash of the group, or of the id where there is none"),
    Column(name="formula", dtype="<u8", meaning="group_hash of the reduced formula"),
    Column(name="id_hash", dtype="<u8", meaning="group_hash of the id"),
    Column(name="label_bits", dtype="<u4", meaning="which labels there are, see unipot.data.storage.record.LABEL_BITS"),
    Column(name="energy", dtype="<f8", unit="eV", meaning="the energy label; NaN without one"),
    Column(name="block", dtype="<u4", meaning="key of the block of records in the shard"),
    Column(name="offset", dtype="<u4", unit="bytes", meaning="of the record in its block"),
    Column(name="length", dtype="<u4", unit="bytes", meaning="of the record"),
    Column(name="record_crc32", dtype="<u4", meaning="CRC-32 of the record, header included"),
)
#: what `unipot.data.quality.measurements.measure` gives
MEASURED: dict[str, Column] = {column.name: column for column in _MEASURED}
#: every fixed-width column of a store
COLUMNS: dict[str, Column] = {column.name: column for column in (*_COUNTED, *_MEASURED)}
#: columns that stores of earlier versions do not have
ADDED = ("record_crc32",)
#: columns of varying length: `<name>.npy` holds the items of all structures, `<name>_offsets.npy` (n + 1) where each begins
RAGGED: dict[str, str] = {"ids": "|u1", "composition_elements": "|u1", "composition_counts": "<i4"}
#: ragged columns that share the offsets of another
OFFSETS_OF = {"ids": "ids_offsets", "composition_elements": "composition_offsets", "composition_counts": "composition_offsets"}


class TextColumn(Sequence[str]):
    """Texts in one memory-mapped blob, decoded when asked for.

    Args:
        blob: (n_bytes,) uint8, UTF-8.
        offsets: (n + 1,) int64.
    """

    def __init__(self, blob: np.ndarray, offsets: np.ndarray) -> None:
        self._blob, self._offsets = blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} was asked for, there are {len(self)}")
        index = int(index) % len(self)
        try:
            return self._blob[self._offsets[index] : self._offsets[index + 1]].tobytes().decode()
        except UnicodeDecodeError as error:
            raise InputError(f"text {index} of the index is damaged ({error}); prepare the store again") from error

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS_PER_CHUNK):
            yield from self[start : start + ROWS_PER_CHUNK]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def dense_compositions(elements: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n_structures, 119) int32 atoms of each element, column = atomic number.

    Args:
        elements: (n_items,) atomic numbers, structure by structure.
        counts: (n_items,) atoms of that element.
        lengths: (n_structures,) items of each structure.
    """
    dense = np.zeros((len(lengths), MAX_ATOMIC_NUMBER + 1), dtype=np.int32)
    dense[np.repeat(np.arange(len(lengths)), lengths), elements] = counts
    return dense


def chunks(n: int, size: int = ROWS_PER_CHUNK) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces of 0..n."""
    for start in range(0, n, size):
        yield start, min(start + size, n)


def load_column(file: Path, recorded: Mapping[str, int] | None = None) -> np.ndarray:
    """A column file, memory-mapped where it holds anything.

    Args:
        file: in NumPy's format.
        recorded: its size and checksum, which the file must have; None where none were recorded (stores of earlier versions):
            then its numbers are looked at as far as damage could lead outside of an array.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        with open_regular(file) as handle:
            if recorded is not None:
                require_recorded(handle, recorded)
                handle.seek(0)
            shape, dtype = _header(handle)
            start, size = handle.tell(), os.fstat(handle.fileno()).st_size
            # as Python's integers: a damaged shape may hold any number
            if start + math.prod(shape) * dtype.itemsize > size:
                raise InputError(f"it has {size} bytes, too few for its shape {shape}")
            _check_kind(file.stem, shape, dtype)
            if math.prod(shape) == 0:
                return np.empty(shape, dtype=dtype)  # nothing can be mapped
            # as a plain array: every slice of a memmap object costs a microsecond more
            column = np.memmap(handle, dtype=dtype, mode="r", offset=start, shape=shape).view(np.ndarray)
        if recorded is None:
            _check_numbers(file.stem, column)
        return column
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{file} is missing or damaged ({reason}); prepare the store again") from error


def _header(handle: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one number, from the beginning of a file in NumPy's format."""
    try:
        if np.lib.format.read_magic(handle) != (1, 0):
            raise InputError("it is of another version of NumPy's format")
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(handle)
    except (EOFError, SyntaxError, TypeError, RecursionError, tokenize.TokenError) as error:
        raise InputError(f"its first bytes are damaged: {error}") from error
    if in_columns or not shape or any(n < 0 for n in shape) or dtype.kind not in "fiu":
        raise InputError("its first bytes do not describe a column of numbers")
    return shape, dtype


def _check_kind(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Whether type and shape are those of the column `name`; columns that are not known here may have any."""
    if name in COLUMNS:
        wanted = (np.dtype(COLUMNS[name].dtype), COLUMNS[name].shape)
    elif name in RAGGED or name in OFFSETS_OF.values():
        wanted = (np.dtype(RAGGED.get(name, "<i8")), ())
    else:
        return
    if (dtype, shape[1:]) != wanted:
        raise InputError(f"it holds {dtype} of shape {shape[1:]} per row; a column {name!r} holds {wanted[0]} of shape {wanted[1]}")


def _check_numbers(name: str, column: np.ndarray) -> None:
    """Refuse what would lead outside of an array, in a column whose checksum is not known."""
    is_offsets, last = name in OFFSETS_OF.values(), 0
    if is_offsets and column[:1].any():
        raise InputError("its first offset is not 0")
    if name not in ("n_atoms", "edge_counts", "composition_counts", "composition_elements") and not is_offsets:
        return
    for start, stop in chunks(len(column)):
        part = column[start:stop]
        if is_offsets and ((np.diff(part) < 0).any() or part[0] < last):
            raise InputError(f"its offsets fall between rows {start} and {stop}")
        if (part < 0).any() or (name == "composition_elements" and (part > MAX_ATOMIC_NUMBER).any()):
            raise InputError(f"a number between rows {start} and {stop} is not possible")
        last = part[-1] if is_offsets else 0
