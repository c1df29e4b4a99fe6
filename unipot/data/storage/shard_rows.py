"""`ShardRows`: finished shards as one sequence of rows, before they are a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unipot.data.storage.columns import ROWS_PER_CHUNK, TextColumn, chunks, dense_compositions, load_column
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard_reader import ShardReader
from unipot.structure import Structure

#: shards held open: rows of equal geometry are read from here and there
_OPEN_SHARDS = 64


class ShardRows:
    """Columns and records of several shards, row after row.

    Args:
        folders: of finished shards, in the order of the store.
        codec: that packed their records.
        compression: of their blocks.
    """

    def __init__(self, folders: Sequence[Path], codec: RecordCodec, compression: str | None = None) -> None:
        self.folders = [Path(folder) for folder in folders]
        self._codec, self._compression = codec, compression
        self.bounds = np.cumsum([0, *[len(load_column(folder / "n_atoms.npy")) for folder in self.folders]])
        self._columns: dict[tuple[int, str], np.ndarray] = {}
        self._open: dict[int, tuple[ShardReader, TextColumn]] = {}

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def columns(self, name: str) -> list[np.ndarray]:
        """One column of every shard, memory-mapped."""
        return [load_column(folder / f"{name}.npy") for folder in self.folders]

    def chunks(self, *names: str) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(first row, columns) of consecutive pieces; `composition` stands for dense counts (n, 119) int32."""
        for folder, first in zip(self.folders, self.bounds, strict=False):
            columns = {name: load_column(folder / f"{name}.npy") for name in names if name != "composition"}
            for start, stop in chunks(len(load_column(folder / "n_atoms.npy")), ROWS_PER_CHUNK // 8):
                rows = [_compositions(folder, start, stop) if name == "composition" else columns[name][start:stop] for name in names]
                yield int(first) + start, rows

    def place(self, row: int) -> tuple[int, int]:
        """Number of the shard, and of the record in it."""
        shard = int(np.searchsorted(self.bounds, row, side="right")) - 1
        return shard, int(row - self.bounds[shard])

    def id(self, row: int) -> str:
        """Id of a structure."""
        shard, number = self.place(row)
        return self._shard(shard)[1][number]

    def structure(self, row: int) -> Structure:
        """A structure, from its record."""
        shard, number = self.place(row)
        place = [[int(self._column(shard, name)[number])] for name in ("block", "offset", "length")]
        return self._codec.unpack(bytes(self._shard(shard)[0].records(*place)[0]))

    def rows_of_ids(self, ids: Sequence[str], id_hashes: np.ndarray) -> np.ndarray:
        """Rows of structures by id, ascending; ids that are not there are left out.

        Args:
            ids: texts.
            id_hashes: (n,) uint64, `group_hash` of each.
        """
        wanted, found = set(ids), []
        for start, (hashes,) in self.chunks("id_hash"):
            for k in np.flatnonzero(np.isin(hashes, id_hashes)).tolist():
                if self.id(start + k) in wanted:
                    found.append(start + k)
        return np.array(found, dtype=np.int64)

    def n_groups(self) -> int:
        """Different groups, counted by parts of their hashes."""
        n_parts, total = max(1, len(self) >> 23), 0
        for part in range(n_parts):
            groups = [groups[groups % np.uint64(n_parts) == part] for _, (groups,) in self.chunks("group")]
            total += len(np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *groups])))
        return total

    def _column(self, shard: int, name: str) -> np.ndarray:
        if (shard, name) not in self._columns:
            self._columns[shard, name] = load_column(self.folders[shard] / f"{name}.npy")
        return self._columns[shard, name]

    def _shard(self, number: int) -> tuple[ShardReader, TextColumn]:
        """Records and ids of one shard; the latest ones stay open."""
        if number not in self._open:
            if len(self._open) >= _OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))[0].close()
            folder = self.folders[number]
            ids = TextColumn(load_column(folder / "ids.npy"), load_column(folder / "ids_offsets.npy"))
            self._open[number] = (ShardReader(folder / "data.mdb", self._compression), ids)
        return self._open[number]

    def close(self) -> None:
        """Close the open shards."""
        while self._open:
            self._open.popitem()[1][0].close()


def _compositions(folder: Path, start: int, stop: int) -> np.ndarray:
    bounds = load_column(folder / "composition_offsets.npy")[start : stop + 1]
    items = slice(int(bounds[0]), int(bounds[-1]))
    elements, counts = load_column(folder / "composition_elements.npy"), load_column(folder / "composition_counts.npy")
    return dense_compositions(elements[items], counts[items], np.diff(bounds))
