"""The index of a store: one row of plain numbers per structure, so that questions about millions need no record.

Columns lie as `.npy` files beside the records and are memory-mapped; whatever reads them goes through in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS
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
)
#: what `unipot.data.quality.measurements.measure` gives
MEASURED: dict[str, Column] = {column.name: column for column in _MEASURED}
#: every fixed-width column of a store
COLUMNS: dict[str, Column] = {column.name: column for column in (*_COUNTED, *_MEASURED)}
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
        return self._blob[self._offsets[index] : self._offsets[index + 1]].tobytes().decode()

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


def load_column(file: Path) -> np.ndarray:
    """A column file, memory-mapped where it holds anything.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        # as a plain array: every slice of a memmap object costs a microsecond more
        return np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        # an empty array cannot be mapped
        try:
            return np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise ValueError(f"{file} is missing or damaged ({error}); prepare the store again") from error
