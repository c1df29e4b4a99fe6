"""`StoreWriter`: a whole store from one process, for libraries and tests; `unipot prepare` writes shards in parallel."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from unipot.data.quality.measurements import measure
from unipot.data.spec import check_dataset_name
from unipot.data.storage.assembly import assemble_store
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import ShardWriter
from unipot.errors import InputError
from unipot.properties import check_energy_kind, property_named
from unipot.structure import Structure

_STRUCTURES_PER_BATCH = 256


class StoreWriter:
    """Writes a store that appears at `path` only when everything in it is complete.

    Args:
        path: folder to make; its name should end in `.unipot`.
        name: of the dataset.
        level_of_theory: what produced the labels, in words that another dataset of the same level would repeat.
        labels: properties the structures may carry; a declared label that nobody carries is refused at the end. Empty where
            structures carry scalar properties only, see `unipot.data.scalar_columns`.
        energy_kind: `total`, `adsorption` or `formation`.
        precision: of positions and per-atom labels on disk, `float64` or `float32`.
        compression: None or `zstd`.
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
        energy_kind: str = "total",
        precision: str = "float64",
        compression: str | None = None,
        overwrite: bool = False,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        check_dataset_name(name)
        for label in labels:
            property_named(label)
        if not level_of_theory:
            raise InputError(f"dataset {name!r}: level_of_theory is empty; state it")
        check_energy_kind(energy_kind, f"dataset {name!r}")
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{self.path} exists already; choose another name, or allow it to be replaced with overwrite=true")
        self.name = name
        self._store = {
            "name": name,
            "level_of_theory": level_of_theory,
            "labels": tuple(labels),
            "energy_kind": energy_kind,
            "precision": precision,
            "compression": compression,
            "provenance": dict(provenance or {}),
            "overwrite": overwrite,
        }
        self._partial = self.path.parent / f".{self.path.name}.partial-{os.getpid()}"
        self._shard = ShardWriter(self._partial, "all", RecordCodec(labels, precision), compression=compression, dataset=name)
        self._stack = ExitStack()
        self._pending: list[Structure] = []
        self._ids: set[str] = set()
        self._attachments: dict[str, bytes] = {}

    def __enter__(self) -> StoreWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._stack.enter_context(self._shard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            with self._stack:  # an error while flushing reaches the shard as well
                self._flush()
            assemble_store(self.path, [self._shard.path], attachments=self._attachments, **self._store)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def __len__(self) -> int:
        return self._shard.n_structures + len(self._pending)

    def add(self, structure: Structure) -> Structure:
        """Append one structure; without an id it is called `<name>-<position>`. Returns what was stored.

        Raises:
            ValueError: the id is taken, or a label was not declared.
        """
        if not structure.id:
            structure = replace(structure, id=f"{self.name}-{len(self)}")
        if structure.id in self._ids:
            raise InputError(
                f"dataset {self.name!r}, structure {structure.id!r}: this id was used before; ids must be unique within a dataset"
            )
        self._shard.check(structure)
        self._ids.add(structure.id)
        self._pending.append(structure)
        if len(self._pending) >= _STRUCTURES_PER_BATCH:
            self._flush()
        return structure

    def extend(self, structures: Iterable[Structure]) -> None:
        """`add` for many."""
        for structure in structures:
            self.add(structure)

    def attach(self, file_name: str, content: dict[str, Any]) -> None:
        """Keep `content` as a JSON file of the store."""
        self._attachments[file_name] = (json.dumps(content, indent=1) + "\n").encode()

    def _flush(self) -> None:
        if self._pending:
            self._shard.extend(self._pending, measure(self._pending))
            self._pending = []
