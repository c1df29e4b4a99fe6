"""The store: a folder `<name>.unipot/` of packed records in LMDB, with metadata and index arrays beside them.

`unipot.data.store_format` shows the folder; `StoreWriter` makes one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from unipot.data.edge_counts import count_edges
from unipot.data.record import RecordCodec
from unipot.data.spec import DatasetSpec
from unipot.data.store_format import SUFFIX, read_metadata, record_key, update_content_hash
from unipot.data.store_writer import StoreWriter
from unipot.structure import SYMBOLS, Structure

__all__ = ["SUFFIX", "Store", "StoreWriter", "open_dataset"]


class Store:
    """A finished store, read at random; safe to pickle, to fork and to open many times.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: there is no store at `path`.
        ValueError: the store is damaged, or of a newer format.

    Attributes:
        path: the folder.
        metadata: contents of `metadata.json`.
        n_atoms: (n_structures,) int64.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata = read_metadata(self.path)
        self._check_files()
        self.n_atoms = self._array("n_atoms").astype(np.int64)
        self._codec = RecordCodec(self.metadata["labels"], self.metadata["precision"])
        self._environment: lmdb.Environment | None = None
        self._process = -1
        self._open()

    def __len__(self) -> int:
        return int(self.metadata["n_structures"])

    def __getitem__(self, index: int) -> Structure:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: structure {index} was asked for, there are {len(self)}")
        index = int(index) % len(self)
        try:
            return self._codec.unpack(self._record(index))
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path}: structure {index} ({self.ids[index]!r}) cannot be read: {error}; prepare the store again"
            ) from error

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
    def labels(self) -> tuple[str, ...]:
        return tuple(self.metadata["labels"])

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(SYMBOLS.index(symbol) for symbol in self.metadata["elements"])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(text.decode() for text in self._array("ids").tolist())

    @cached_property
    def groups(self) -> np.ndarray:
        """(n_structures,) uint64, `group_hash` of each structure's group, or of its id where it has none."""
        return self._array("groups")

    def n_edges(self, cutoff: float) -> np.ndarray:
        """(n_structures,) int64 edges within `cutoff` (Å), both directions.

        Counts at cutoffs that were not stored are made once and kept in the folder where it can be written.
        """
        stored = self.metadata["edge_count_cutoffs"]
        if float(cutoff) in stored:
            return self._array("edge_counts")[:, stored.index(float(cutoff))].astype(np.int64)
        # the content hash in the name keeps counts of other contents from being reused
        file = self.path / f"n_edges_{float(cutoff)!r}_{self.metadata['content_hash'][:12]}.npy"
        if file.exists():
            return self._array(file.stem).astype(np.int64)
        counts = np.array([count_edges(structure, (float(cutoff),))[0] for structure in self], dtype=np.int64)
        _save_if_writable(file, counts)
        return counts

    def verify(self) -> None:
        """Read every record and compare with the content hash of the metadata.

        Raises:
            ValueError: they differ.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            update_content_hash(digest, self._record(index))
        if digest.hexdigest() != self.metadata["content_hash"]:
            raise ValueError(
                f"{self.path}: the contents do not match the recorded hash; the store was altered or damaged, prepare it again"
            )

    def _record(self, index: int) -> bytes:
        if self._process != os.getpid():
            self._open()  # a forked worker must not share the parent's environment
        assert self._environment is not None
        try:
            with self._environment.begin() as transaction:
                record = transaction.get(record_key(index))
        except lmdb.Error as error:
            raise ValueError(f"{self.path}: data.mdb is damaged ({error}); prepare the store again") from error
        if record is None:
            raise ValueError(f"record {index} is missing from data.mdb")
        return record

    def _open(self) -> None:
        try:
            self._environment = lmdb.open(
                str(self.path / "data.mdb"), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=4
            )
            entries = self._environment.stat()["entries"]
        except lmdb.Error as error:
            raise ValueError(f"{self.path}: data.mdb is damaged ({error}); prepare the store again") from error
        if entries != len(self):
            raise ValueError(f"{self.path}: data.mdb has {entries} records, metadata.json says {len(self)}; prepare the store again")
        self._process = os.getpid()

    def _array(self, name: str) -> np.ndarray:
        file = self.path / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self.path}: {file.name} is missing or damaged ({error}); prepare the store again") from error
        if len(array) != len(self):
            raise ValueError(f"{self.path}: {file.name} has {len(array)} rows for {len(self)} structures; prepare the store again")
        return array

    def _check_files(self) -> None:
        file = self.path / "data.mdb"
        if not file.exists():
            raise ValueError(f"{self.path}: data.mdb is missing; prepare the store again")
        # reading past the end of a truncated memory map would kill the process
        size, expected = file.stat().st_size, self.metadata["data_bytes"]
        if size != expected:
            raise ValueError(
                f"{self.path}: data.mdb has {size} bytes instead of {expected}, it is truncated or altered; prepare the store again"
            )


def open_dataset(spec: DatasetSpec) -> Store:
    """The store of `spec`, checked against what the spec relies on.

    Raises:
        FileNotFoundError: there is no store at `spec.path`.
        ValueError: the store is damaged, its level of theory is another one, or it lacks a label.
    """
    store = Store(spec.path)
    if store.level_of_theory != spec.level_of_theory:
        raise ValueError(
            f"dataset {spec.name!r}: level_of_theory is {spec.level_of_theory!r}, but {store.path} was prepared with "
            f"{store.level_of_theory!r}; correct one of them"
        )
    counts = store.metadata["label_counts"]
    for label in spec.labels:
        if not counts.get(label):
            raise ValueError(
                f"dataset {spec.name!r}: no structure in {store.path} carries the label {label!r}; it has: {', '.join(counts)}; "
                "leave it out of labels, or prepare the store with it"
            )
    return store


def _save_if_writable(file: Path, array: np.ndarray) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}.npy")
    try:
        np.save(partial, array, allow_pickle=False)
        os.replace(partial, file)
    except PermissionError:
        return  # a read-only store is counted again next time
