"""`StoreWriter`: writes a store that appears under its name only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS, count_edges
from unipot.data.record import RecordCodec
from unipot.data.spec import check_dataset_name
from unipot.data.store_format import FORMAT, FORMAT_VERSION, group_hash, record_key, update_content_hash
from unipot.properties import property_named
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure

_RECORDS_PER_COMMIT = 2000
_LONGEST_TEXT = 2**16 - 1  # bytes of an id or group


class StoreWriter:
    """Writes a store that appears at `path` only when everything in it is complete.

    Args:
        path: folder to make; its name should end in `.unipot`.
        name: of the dataset.
        level_of_theory: what produced the labels, in words that another dataset of the same level would repeat.
        labels: properties the structures may carry; a declared label that nobody carries is refused at the end.
        precision: of positions and per-atom labels on disk, `float64` or `float32`.
        overwrite: replace an existing store; it stays in place until the new one is complete.
        provenance: anything JSON-able to keep in the metadata, for example label units and a licence.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        ValueError: a name, label or the level of theory is not allowed.

    Example:
        >>> import tempfile
        >>> from unipot.data.store import Store
        >>> water = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], labels={"energy": -14.2})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with StoreWriter(f"{folder}/water.unipot", name="water", level_of_theory="PBE", labels=("energy",)) as writer:
        ...         _ = writer.add(water)
        ...     len(Store(f"{folder}/water.unipot"))
        1
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        level_of_theory: str,
        labels: Sequence[str],
        precision: str = "float64",
        overwrite: bool = False,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        check_dataset_name(name)
        for label in labels:
            property_named(label)
        if not labels or not level_of_theory:
            raise ValueError(f"dataset {name!r}: {'level_of_theory is empty' if labels else 'labels are empty'}; state them")
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{self.path} exists already; choose another name, or allow it to be replaced with overwrite=true")
        self.name, self.level_of_theory, self.labels = name, level_of_theory, tuple(labels)
        self._provenance = dict(provenance or {})
        self._codec = RecordCodec(self.labels, precision)
        self._partial = self.path.parent / f".{self.path.name}.partial-{os.getpid()}"
        self._environment: lmdb.Environment | None = None
        self._pending: list[bytes] = []
        self._hash = hashlib.sha256()
        self._ids: dict[str, None] = {}
        self._groups: list[int] = []
        self._n_atoms: list[int] = []
        self._edge_counts: list[list[int]] = []
        self._label_counts: Counter[str] = Counter()
        self._elements = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)

    def __enter__(self) -> StoreWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._environment = lmdb.open(
            str(self._partial / "data.mdb"), subdir=False, lock=False, sync=False, meminit=False, map_size=1 << 28
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._environment is not None:
                self._environment.close()
                self._environment = None
            shutil.rmtree(self._partial, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._n_atoms)

    def add(self, structure: Structure) -> Structure:
        """Append one structure; without an id it is called `<name>-<position>`. Returns what was stored.

        Raises:
            ValueError: the id is taken, or a label was not declared.
        """
        if self._environment is None:
            raise RuntimeError("StoreWriter.add was called outside its with-block")
        if not structure.id:
            structure = _with_id(structure, f"{self.name}-{len(self)}")
        self._check(structure)
        edge_counts = count_edges(structure)
        record = self._codec.pack(structure)
        self._ids[structure.id] = None
        self._groups.append(group_hash(structure.group or structure.id))
        self._n_atoms.append(structure.n_atoms)
        self._edge_counts.append(edge_counts)
        self._label_counts.update(structure.labels.keys())
        self._elements += np.bincount(structure.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1)
        update_content_hash(self._hash, record)
        self._pending.append(record)
        if len(self._pending) >= _RECORDS_PER_COMMIT:
            self._commit()
        return structure

    def attach(self, file_name: str, content: dict[str, Any]) -> None:
        """Keep `content` as a JSON file of the store."""
        (self._partial / file_name).write_text(json.dumps(content, indent=1) + "\n")

    def _check(self, structure: Structure) -> None:
        where = f"dataset {self.name!r}, structure {structure.id!r}"
        if structure.id in self._ids:
            raise ValueError(f"{where}: this id was used before; ids must be unique within a dataset")
        for text in (structure.id, structure.group):
            if len(text.encode()) > _LONGEST_TEXT or "\0" in text:
                raise ValueError(f"{where}: id and group must be shorter than {_LONGEST_TEXT} bytes and have no zero byte")
        extra = [label for label in structure.labels if label not in self.labels]
        if extra:
            raise ValueError(f"{where}: label {extra[0]!r} was not declared; declared are: {', '.join(self.labels)}")
        for label, values in structure.labels.items():  # arrays can be written to after Structure looked at them
            if not np.isfinite(values).all():
                raise ValueError(f"{where}: {label} contain {int((~np.isfinite(values)).sum())} non-finite value(s); drop or repair it")

    def _commit(self) -> None:
        assert self._environment is not None
        first = len(self) - len(self._pending)
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for offset, record in enumerate(self._pending):
                        transaction.put(record_key(first + offset), record, append=True)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._pending.clear()

    def _finish(self) -> None:
        if len(self) == 0:
            raise ValueError(
                f"dataset {self.name!r}: there are no structures to store in {self.path}; see the skipped items for the reasons"
            )
        unused = [label for label in self.labels if not self._label_counts[label]]
        if unused:
            raise ValueError(
                f"dataset {self.name!r}: no structure carries the label {unused[0]!r}; leave it out of labels or correct its key"
            )
        self._commit()
        assert self._environment is not None
        self._environment.sync(True)
        self._environment.close()
        self._environment = None
        arrays = {
            "ids": np.array([text.encode() for text in self._ids]),
            "groups": np.array(self._groups, dtype=np.uint64),
            "n_atoms": np.array(self._n_atoms, dtype=np.int32),
            "edge_counts": np.array(self._edge_counts, dtype=np.int64),
        }
        for name, array in arrays.items():
            np.save(self._partial / f"{name}.npy", array, allow_pickle=False)
        # last, so that a folder with metadata has everything else
        (self._partial / "metadata.json").write_text(json.dumps(self._metadata(), indent=1) + "\n")
        _replace_folder(self._partial, self.path)

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "level_of_theory": self.level_of_theory,
            "labels": list(self.labels),
            "units": {label: property_named(label).unit for label in self.labels},
            "label_counts": {label: self._label_counts[label] for label in self.labels},
            "n_structures": len(self),
            "n_atoms": int(sum(self._n_atoms)),
            "elements": {SYMBOLS[z]: int(self._elements[z]) for z in np.flatnonzero(self._elements)},
            "precision": self._codec.precision,
            "edge_count_cutoffs": list(STORED_CUTOFFS),
            "data_bytes": (self._partial / "data.mdb").stat().st_size,
            "content_hash": self._hash.hexdigest(),
            "provenance": self._provenance,
        }


def _with_id(structure: Structure, id: str) -> Structure:
    from dataclasses import replace

    return replace(structure, id=id)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what was there is removed once the new folder stands."""
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    if old.is_dir():
        shutil.rmtree(old)
    elif old.exists():
        old.unlink()
