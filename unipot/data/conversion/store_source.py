"""`StoreSource`: stores as the source of a conversion, to another precision or compression, with fewer labels, or as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipot.data.labels import SkippedItem
from unipot.data.readers.unipot_store import read_store, store_folders
from unipot.data.store import Store
from unipot.structure import Structure

#: structures in one part, which one worker converts
_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """The structures of one store or of several.

    Attributes:
        path: a store, a folder of stores, or a pattern with `*`.
        labels: properties to keep.
    """

    path: str
    labels: tuple[str, ...]

    def parts(self) -> list[str]:
        found = []
        for folder in store_folders(self.path):
            n = len(Store(folder))
            found += [f"{folder}#{start}-{min(start + _ROWS, n)}" for start in range(0, n, _ROWS)]
        return found

    def items(self, part: str) -> Iterator[Structure | SkippedItem]:
        folder, _, rows = part.rpartition("#")
        return read_store(Path(folder), labels=self.labels, rows=range(*[int(row) for row in rows.split("-")]))

    def fingerprint(self) -> dict[str, Any]:
        hashes = {str(folder): Store(folder).metadata["content_hash"] for folder in store_folders(self.path)}
        return {"stores": hashes, "labels": list(self.labels)}

    def size(self) -> int:
        return sum(shard["data_bytes"] for folder in store_folders(self.path) for shard in Store(folder).metadata["shards"])

    def explain_missing(self, labels: list[str]) -> str:
        return f"{self.path}: no structure has the label {labels[0]!r}; leave it out of labels"
