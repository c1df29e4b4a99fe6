"""The store: a folder `<name>.unipot/` of packed records in LMDB shards, with a memory-mapped index beside them.

`unipot.data.storage.format` shows the folder; `StoreWriter` and `unipot prepare` make one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS, count_edges_batch
from unipot.data.scalar_columns import read_scalars, scalar_column
from unipot.data.spec import DatasetSpec
from unipot.data.storage.columns import COLUMNS, TextColumn, chunks, dense_compositions, load_column
from unipot.data.storage.format import SUFFIX, read_metadata, update_content_hash
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard_reader import ShardReader
from unipot.data.storage.writer import StoreWriter
from unipot.structure import SYMBOLS, Structure

__all__ = ["SUFFIX", "Store", "StoreWriter", "open_dataset"]

#: environments that stay open; each costs a file descriptor
_OPEN_SHARDS = 128
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
        self._bounds = np.cumsum([0] + [shard["n_structures"] for shard in self.metadata["shards"]])
        self._check_files()
        self._codec = RecordCodec(self.metadata["labels"], self.metadata["precision"])
        self._columns: dict[str, np.ndarray] = {}
        self.scalars = read_scalars(self.path)
        self._shards: dict[int, ShardReader] = {}
        self._process = os.getpid()
        self._shard(0).check()

    def __len__(self) -> int:
        return int(self.metadata["n_structures"])

    def __getitem__(self, index: int) -> Structure:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: structure {index} was asked for, there are {len(self)}")
        index = int(index) % len(self)
        try:
            # a copy: the structure may outlive the memory map
            return self._codec.unpack(bytes(self.record(index)))
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
        return TextColumn(self._file("ids"), self._file("ids_offsets", 1))

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
            raise KeyError(f"column {name!r} is not known; known are: {', '.join(COLUMNS)}")
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
            raise KeyError(f"{self.path}: property {name!r} is not there; it has: {', '.join(self.scalars) or 'none'}")
        column = f"scalar_{name}"
        if column not in self._columns:
            self._columns[column] = scalar_column(self.path, name, len(self))
        return self._columns[column]

    def n_edges(self, cutoff: float) -> np.ndarray:
        """(n_structures,) int32 edges within `cutoff` (Å), both directions.

        Counts at cutoffs that were not stored are made once and kept in the folder where it can be written.
        """
        if float(cutoff) in STORED_CUTOFFS:
            return self.column("edge_counts")[:, STORED_CUTOFFS.index(float(cutoff))]
        # the content hash in the name keeps counts of other contents from being reused
        file = self.path / f"n_edges_{float(cutoff)!r}_{self.metadata['content_hash'][:12]}.npy"
        if not file.exists():
            counts = self._count_edges(float(cutoff))
            if not _saved(file, counts):
                return counts
        counts = load_column(file)
        if len(counts) != len(self):
            raise ValueError(f"{file} has {len(counts)} rows for {len(self)} structures; delete it")
        return counts

    def composition_counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop − start, 119) int32 atoms of each element of consecutive structures, column = atomic number."""
        stop = len(self) if stop is None else min(stop, len(self))
        bounds = self._composition_offsets[start : stop + 1]
        items = slice(int(bounds[0]), int(bounds[-1])) if len(bounds) else slice(0, 0)
        return dense_compositions(self._composition_elements[items], self._composition_counts[items], np.diff(bounds))

    def composition_counts_of(self, indices: np.ndarray) -> np.ndarray:
        """(n, 119) int32 atoms of each element of any structures; keep n to some 10⁵ at a time."""
        indices = np.asarray(indices, dtype=np.int64)
        starts = self._composition_offsets[indices]
        lengths = self._composition_offsets[indices + 1] - starts
        items = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
        return dense_compositions(self._composition_elements[items], self._composition_counts[items], lengths)

    def shard_of(self, index: int) -> tuple[str, int]:
        """File name of the shard that holds a structure, and its number there."""
        shard = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return self.metadata["shards"][shard]["file"], int(index - self._bounds[shard])

    def record(self, index: int) -> memoryview:
        """The bytes of one record, without a copy where blocks are not compressed; valid until the next read.

        Raises:
            ValueError: it cannot be read.
        """
        return self.records(np.array([index]))[0]

    def records(self, indices: np.ndarray) -> list[memoryview]:
        """The bytes of several records; see `record`."""
        if self._process != os.getpid():
            self._shards, self._process = {}, os.getpid()  # a forked worker must not share the parent's environments
        while len(self._shards) > _OPEN_SHARDS:
            self._shards.pop(next(iter(self._shards))).close()
        indices = np.asarray(indices, dtype=np.int64)
        blocks, offsets, lengths = (self.column(name)[indices].tolist() for name in ("block", "offset", "length"))
        if len(self._bounds) == 2:
            return self._read(0, indices, blocks, offsets, lengths)
        shards = np.searchsorted(self._bounds, indices, side="right") - 1
        found: list[memoryview] = []
        for k, shard in enumerate(shards.tolist()):
            found += self._read(shard, indices[k : k + 1], blocks[k : k + 1], offsets[k : k + 1], lengths[k : k + 1])
        return found

    def unreadable(self, index: int, error: Exception) -> ValueError:
        """The sentence for a structure that cannot be read; names shard and id."""
        shard, number = self.shard_of(index)
        return ValueError(
            f"{self.path}, shard {shard}, structure {index} ({self.ids[index]!r}, number {number} of the shard) cannot be read: {error}; "
            "prepare the store again, or copy it again from where it came"
        )

    def verify(self) -> None:
        """Read every record and compare with the hashes of the metadata.

        Raises:
            ValueError: they differ.
        """
        for number, shard in enumerate(self.metadata["shards"]):
            digest = hashlib.sha256()
            for record in self._shard(number).all_records():
                update_content_hash(digest, record)
            if digest.hexdigest() != shard["sha256"]:
                raise ValueError(
                    f"{self.path}: the contents of shard {shard['file']} do not match the recorded hash; the store was altered or damaged, "
                    "prepare it again"
                )

    @cached_property
    def _composition_offsets(self) -> np.ndarray:
        return self._file("composition_offsets", 1)

    @cached_property
    def _composition_elements(self) -> np.ndarray:
        return load_column(self.path / "index" / "composition_elements.npy")

    @cached_property
    def _composition_counts(self) -> np.ndarray:
        return load_column(self.path / "index" / "composition_counts.npy")

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
                raise ValueError(f"{self.path}: shard {error}; prepare the store again") from error
        return self._shards[number]

    def _count_edges(self, cutoff: float) -> np.ndarray:
        counts = np.empty(len(self), dtype=np.int32)
        for first, last in chunks(len(self), _STRUCTURES_PER_COUNT):
            counts[first:last] = count_edges_batch([self[i] for i in range(first, last)], (cutoff,))[:, 0]
        return counts

    def _file(self, name: str, extra: int = 0) -> np.ndarray:
        array = load_column(self.path / "index" / f"{name}.npy")
        if name != "ids" and len(array) != len(self) + extra:
            raise ValueError(f"{self.path}: {name}.npy has {len(array)} rows for {len(self)} structures; prepare the store again")
        return array

    def _check_files(self) -> None:
        for shard in self.metadata["shards"]:
            file = self.path / "shards" / shard["file"]
            if not file.exists():
                raise ValueError(f"{self.path}: shard {shard['file']} is missing; prepare the store again")
            # reading past the end of a truncated memory map would kill the process
            size, expected = file.stat().st_size, shard["data_bytes"]
            if size != expected:
                raise ValueError(
                    f"{self.path}: shard {shard['file']} has {size} bytes instead of {expected}, it is truncated or altered; "
                    "prepare the store again"
                )
        if self._bounds[-1] != len(self):
            raise ValueError(
                f"{self.path}: shards hold {self._bounds[-1]} structures, metadata.json says {len(self)}; prepare the store again"
            )


def open_dataset(spec: DatasetSpec) -> Store:
    """The store of `spec`, checked against what the spec relies on.

    Raises:
        FileNotFoundError: there is no store at `spec.path`.
        ValueError: the store is damaged, its level of theory or kind of energy is another one, or it lacks a label.
    """
    store = Store(spec.path)
    if store.level_of_theory != spec.level_of_theory:
        raise ValueError(
            f"dataset {spec.name!r}: level_of_theory is {spec.level_of_theory!r}, but {store.path} was prepared with "
            f"{store.level_of_theory!r}; correct one of them"
        )
    if spec.energy_kind not in (None, store.energy_kind):
        raise ValueError(
            f"dataset {spec.name!r}: energy_kind is {spec.energy_kind!r}, but {store.path} was prepared with {store.energy_kind!r}; "
            "correct one of them"
        )
    counts = store.metadata["label_counts"]
    for label in spec.labels:
        if not counts.get(label):
            raise ValueError(
                f"dataset {spec.name!r}: no structure in {store.path} carries the label {label!r}; it has: {', '.join(counts)}; "
                "leave it out of labels, or prepare the store with it"
            )
    for name in spec.scalars:
        if not store.scalars.get(name, {}).get("n"):
            raise ValueError(
                f"dataset {spec.name!r}: no structure in {store.path} has the property {name!r}; it has: "
                f"{', '.join(store.scalars) or 'none'}; attach it with unipot.data.scalar_columns.attach_scalars, or leave it out"
            )
    return store


def _saved(file: Path, array: np.ndarray) -> bool:
    partial = file.with_name(f".{file.name}.{os.getpid()}.npy")
    try:
        np.save(partial, array, allow_pickle=False)
        os.replace(partial, file)
    except PermissionError:
        return False  # a read-only store is counted again next time
    return True
