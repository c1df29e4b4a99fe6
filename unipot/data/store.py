"""The store: a folder `<name>.unipot/` of packed records in LMDB shards, with a memory-mapped index beside them.

`unipot.data.storage.format` shows the folder; `StoreWriter` and `unipot prepare` make one.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS, count_edges_batch
from unipot.data.scalar_columns import read_scalars, scalar_column
from unipot.data.spec import DatasetSpec
from unipot.data.storage.columns import COLUMNS, OFFSETS_OF, RAGGED, TextColumn, chunks, dense_compositions, load_column
from unipot.data.storage.files import file_inside, open_regular, require_recorded
from unipot.data.storage.format import SUFFIX, read_metadata, update_content_hash
from unipot.data.storage.kept_counts import keep_counts, kept_counts
from unipot.data.storage.metadata_checks import check_metadata
from unipot.data.storage.record import BYTES_PER_ATOM, CELL_OFFSET, RecordCodec, checksum_in
from unipot.data.storage.shard_reader import ShardReader
from unipot.data.storage.writer import StoreWriter
from unipot.errors import InputError, UnknownName
from unipot.structure import SYMBOLS, Structure

__all__ = ["SUFFIX", "Store", "StoreWriter", "open_dataset"]

#: shards that stay open; each costs a file descriptor
_OPEN_SHARDS = 128
#: counts of edges of stores that cannot be written, by the name that their file would have
_COUNTED: dict[Path, np.ndarray] = {}
_STRUCTURES_PER_COUNT = 256


class Store:
    """A finished store, read at random; safe to pickle, to fork and to open many times.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: there is no store at `path`.
        ValueError: the store is damaged, or of another format version.

    Attributes:
        path: the folder.
        metadata: contents of `metadata.json`.
        scalars: scalar properties by name: key, unit and number of values, see `unipot.data.scalar_columns`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata = read_metadata(self.path)
        check_metadata(self.path, self.metadata)
        self._recorded: dict[str, dict[str, int]] = self.metadata.get("files", {})
        self._bounds = np.cumsum([0] + [shard["n_structures"] for shard in self.metadata["shards"]])
        self._check_files()
        self._codec = RecordCodec(self.metadata["labels"], self.metadata["precision"])
        self._columns: dict[str, np.ndarray] = {}
        self.scalars = read_scalars(self.path)
        self._shards: dict[int, ShardReader] = {}
        self._shard(0).check()

    def __len__(self) -> int:
        return int(self.metadata["n_structures"])

    def __getitem__(self, index: int) -> Structure:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: structure {index} was asked for, there are {len(self)}")
        index = int(index) % len(self)
        record = self.record(index)
        try:
            return self._codec.unpack(bytes(record))  # a copy: a compressed record is a piece of its whole block
        except (ValueError, UnicodeDecodeError) as error:
            raise self.unreadable(index, error) from error

    def __iter__(self) -> Iterator[Structure]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} structures, {self.level_of_theory})"

    @property
    def name(self) -> str:
        return self.metadata["name"]

    @property
    def level_of_theory(self) -> str:
        return self.metadata["level_of_theory"]

    @property
    def energy_kind(self) -> str:
        """`total`, `adsorption` or `formation`."""
        return self.metadata["energy_kind"]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.metadata["labels"])

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(SYMBOLS.index(symbol) for symbol in self.metadata["elements"])

    @cached_property
    def ids(self) -> TextColumn:
        """Ids, decoded one by one when asked for."""
        return TextColumn(self._file("ids"), self._offsets("ids"))

    @property
    def n_atoms(self) -> np.ndarray:
        """(n_structures,) int32, memory-mapped."""
        return self.column("n_atoms")

    @property
    def groups(self) -> np.ndarray:
        """(n_structures,) uint64, memory-mapped: `group_hash` of each structure's group, or of its id where it has none."""
        return self.column("group")

    def column(self, name: str) -> np.ndarray:
        """A column of `unipot.data.storage.columns.COLUMNS`, memory-mapped.

        Raises:
            KeyError: there is no such column.
            ValueError: its file is missing or damaged.
        """
        if name not in COLUMNS:
            raise UnknownName(f"column {name!r} is not known; known are: {', '.join(COLUMNS)}")
        if name not in self._columns:
            self._columns[name] = self._file(name)
        return self._columns[name]

    def scalar(self, name: str) -> np.ndarray:
        """(n_structures,) float64 values of a scalar property in its unit, memory-mapped; NaN without a value.

        Raises:
            KeyError: the store has no such property.
            ValueError: its column is damaged.
        """
        if name not in self.scalars:
            raise UnknownName(f"{self.path}: property {name!r} is not there; it has: {', '.join(self.scalars) or 'none'}")
        column = f"scalar_{name}"
        if column not in self._columns:
            self._columns[column] = scalar_column(self.path, name, len(self))
        return self._columns[column]

    def n_edges(self, cutoff: float) -> np.ndarray:
        """(n_structures,) int32 edges within `cutoff` (Å), both directions.

        Counts at cutoffs that were not stored are made once and kept in the folder, or in memory where it cannot be written.
        """
        if float(cutoff) in STORED_CUTOFFS:
            return self.column("edge_counts")[:, STORED_CUTOFFS.index(float(cutoff))]
        # the content hash in the name keeps counts of other contents from being reused
        file = self.path / f"n_edges_{float(cutoff)!r}_{self.metadata['content_hash'][:12]}.npy"
        counts = _COUNTED.get(file.absolute())
        if counts is None or len(counts) != len(self):
            counts = kept_counts(file, len(self))
        if counts is None:
            counts = self._count_edges(float(cutoff))
            if not keep_counts(file, counts):
                _COUNTED[file.absolute()] = counts
        return counts

    @cached_property
    def composition_elements(self) -> np.ndarray:
        """(n_items,) uint8, memory-mapped: the elements of each structure, structure by structure."""
        return self._file("composition_elements")

    def composition_counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop − start, 119) int32 atoms of each element of consecutive structures, column = atomic number."""
        stop = len(self) if stop is None else min(stop, len(self))
        bounds = self._composition_offsets[start : stop + 1]
        items = slice(int(bounds[0]), int(bounds[-1])) if len(bounds) else slice(0, 0)
        return dense_compositions(self.composition_elements[items], self._composition_counts[items], np.diff(bounds))

    def composition_counts_of(self, indices: np.ndarray) -> np.ndarray:
        """(n, 119) int32 atoms of each element of any structures; keep n to some 10⁵ at a time."""
        indices = np.asarray(indices, dtype=np.int64)
        starts = self._composition_offsets[indices]
        lengths = self._composition_offsets[indices + 1] - starts
        items = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
        return dense_compositions(self.composition_elements[items], self._composition_counts[items], lengths)

    def shard_of(self, index: int) -> tuple[str, int]:
        """File name of the shard that holds a structure, and its number there."""
        shard = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return self.metadata["shards"][shard]["file"], int(index - self._bounds[shard])

    def record(self, index: int) -> memoryview:
        """The bytes of one record.

        Raises:
            ValueError: it cannot be read, or its checksum differs.
        """
        return self.records(np.array([index]))[0]

    def records(self, indices: np.ndarray) -> list[memoryview]:
        """The bytes of several records; see `record`."""
        if len(self._shards) > _OPEN_SHARDS:
            for shard in [shard for shard in self._shards.values() if shard.is_open][:-_OPEN_SHARDS]:
                shard.close()
        indices = np.asarray(indices, dtype=np.int64)
        blocks, offsets, lengths = (self.column(name)[indices].tolist() for name in ("block", "offset", "length"))
        if len(self._bounds) == 2:
            found = self._read(0, indices, blocks, offsets, lengths)
        else:
            found = []
            shards = np.searchsorted(self._bounds, indices, side="right") - 1
            for k, shard in enumerate(shards.tolist()):
                found += self._read(shard, indices[k : k + 1], blocks[k : k + 1], offsets[k : k + 1], lengths[k : k + 1])
        self._check_records(indices, found)
        return found

    def unreadable(self, index: int, error: Exception) -> ValueError:
        """The sentence for a structure that cannot be read; names shard and id."""
        shard, number = self.shard_of(index)
        return InputError(
            f"{self.path}, shard {shard}, structure {index} ({self.ids[index]!r}, number {number} of the shard) cannot be read: {error}; "
            "prepare the store again, or copy it again from where it came"
        )

    def attachment(self, name: str) -> bytes | None:
        """The contents of a file that was kept with the store, such as `census.json`; None where there is none.

        Raises:
            ValueError: it is damaged.
        """
        if not (self.path / name).exists():
            return None
        return self._checked(name).read_bytes()

    def verify(self) -> None:
        """Read every file and every record, and compare with the checksums and hashes of the metadata.

        Raises:
            ValueError: they differ.
        """
        for name in self._recorded:
            self._checked(name)
        for name in self.scalars:
            self.scalar(name)
        for number, shard in enumerate(self.metadata["shards"]):
            digest = hashlib.sha256()
            for record in self._shard(number).all_records():
                update_content_hash(digest, record)
            if digest.hexdigest() != shard["sha256"]:
                raise InputError(
                    f"{self.path}: the contents of shard {shard['file']} do not match the recorded hash; the store was altered or damaged, "
                    "prepare it again"
                )

    def _checked(self, name: str) -> Path:
        """A file of the store, after a look at all of it where its checksum was recorded."""
        file = file_inside(self.path, name)
        if name in self._recorded:
            try:
                with open_regular(file) as handle:
                    require_recorded(handle, self._recorded[name])
            except (ValueError, OSError) as error:
                raise InputError(
                    f"{self.path}: {name} does not match the recorded hash ({error}); the store was altered or damaged, "
                    "prepare it again"
                ) from error
        return file

    def _check_records(self, indices: np.ndarray, records: list[memoryview]) -> None:
        """Compare records with their checksums: 1 µs for each kB, beside some 60 µs that a structure takes to be read with neighbours."""
        if self._record_checksums is not None:
            wanted = self._record_checksums[indices].tolist()
            damaged = [zlib.crc32(record) != crc for record, crc in zip(records, wanted, strict=True)]
        else:  # a store of an earlier version: the record's own checksum, of all but its header
            damaged = [zlib.crc32(record[CELL_OFFSET:]) != checksum_in(record) for record in records]
        if any(damaged):
            raise self.unreadable(int(indices[damaged.index(True)]), InputError("record is damaged: its checksum differs"))

    @cached_property
    def _record_checksums(self) -> np.ndarray | None:
        """(n_structures,) CRC-32 of each record; None in a store of an earlier version."""
        there = "index/record_crc32.npy" in self._recorded or (self.path / "index" / "record_crc32.npy").exists()
        return self.column("record_crc32") if there else None

    @cached_property
    def _composition_offsets(self) -> np.ndarray:
        return self._offsets("composition_elements")

    @cached_property
    def _composition_counts(self) -> np.ndarray:
        return self._file("composition_counts")

    def _read(self, shard: int, indices: Iterable[int], blocks: list[int], offsets: list[int], lengths: list[int]) -> list[memoryview]:
        try:
            return self._shard(shard).records(blocks, offsets, lengths)
        except ValueError as error:
            for index, *place in zip(indices, blocks, offsets, lengths, strict=True):  # which one was it?
                try:
                    self._shard(shard).records(*[[value] for value in place])
                except ValueError:
                    raise self.unreadable(int(index), error) from error
            raise

    def _shard(self, number: int) -> ShardReader:
        if number not in self._shards:
            file = self.path / "shards" / self.metadata["shards"][number]["file"]
            try:
                self._shards[number] = ShardReader(file, self.metadata["compression"])
            except ValueError as error:
                raise InputError(f"{self.path}: shard {error}; prepare the store again") from error
        return self._shards[number]

    def _count_edges(self, cutoff: float) -> np.ndarray:
        counts = np.empty(len(self), dtype=np.int32)
        for first, last in chunks(len(self), _STRUCTURES_PER_COUNT):
            counts[first:last] = count_edges_batch([self[i] for i in range(first, last)], (cutoff,))[:, 0]
        return counts

    def _file(self, name: str) -> np.ndarray:
        """A column of the index, compared with its checksum where that was recorded."""
        file = file_inside(self.path, f"index/{name}.npy")
        array = load_column(file, self._recorded.get(f"index/{name}.npy"))
        if name not in RAGGED and len(array) != len(self) + (name in OFFSETS_OF.values()):
            raise InputError(f"{self.path}: {name}.npy has {len(array)} rows for {len(self)} structures; prepare the store again")
        if name == "n_atoms" and f"index/{name}.npy" not in self._recorded and (array * BYTES_PER_ATOM > self.column("length")).any():
            raise InputError(f"{self.path}: n_atoms.npy counts more atoms than a record has room for; prepare the store again")
        return array

    def _offsets(self, name: str) -> np.ndarray:
        """(n_structures + 1,) int64, where the items of each structure begin in the column `name`."""
        offsets, n_items = self._file(OFFSETS_OF[name]), len(self._file(name))
        if offsets[-1] != n_items:
            raise InputError(f"{self.path}: {OFFSETS_OF[name]}.npy ends at {offsets[-1]}, {name}.npy at {n_items}; prepare the store again")
        return offsets

    def _check_files(self) -> None:
        for shard in self.metadata["shards"]:
            # a shard that was cut short would be noticed only when a record is read
            size, expected = file_inside(self.path, f"shards/{shard['file']}").stat().st_size, shard["data_bytes"]
            if size != expected:
                raise InputError(
                    f"{self.path}: shard {shard['file']} has {size} bytes instead of {expected}, it is truncated or altered; "
                    "prepare the store again"
                )


def open_dataset(spec: DatasetSpec) -> Store:
    """The store of `spec`, checked against what the spec relies on.

    Raises:
        FileNotFoundError: there is no store at `spec.path`.
        ValueError: the store is damaged, its level of theory or kind of energy is another one, or it lacks a label.
    """
    store = Store(spec.path)
    if store.level_of_theory != spec.level_of_theory:
        raise InputError(
            f"dataset {spec.name!r}: level_of_theory is {spec.level_of_theory!r}, but {store.path} was prepared with "
            f"{store.level_of_theory!r}; correct one of them"
        )
    if spec.energy_kind not in (None, store.energy_kind):
        raise InputError(
            f"dataset {spec.name!r}: energy_kind is {spec.energy_kind!r}, but {store.path} was prepared with {store.energy_kind!r}; "
            "correct one of them"
        )
    counts = store.metadata["label_counts"]
    for label in spec.labels:
        if not counts.get(label):
            raise InputError(
                f"dataset {spec.name!r}: no structure in {store.path} carries the label {label!r}; it has: {', '.join(counts)}; "
                "leave it out of labels, or prepare the store with it"
            )
    for name in spec.scalars:
        if not store.scalars.get(name, {}).get("n"):
            raise InputError(
                f"dataset {spec.name!r}: no structure in {store.path} has the property {name!r}; it has: "
                f"{', '.join(store.scalars) or 'none'}; attach it with unipot.data.scalar_columns.attach_scalars, or leave it out"
            )
    return store
