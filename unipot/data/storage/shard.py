"""`ShardWriter`: one piece of a store, which appears under its name only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from unipot.data.storage.checksums import describe_files
from unipot.data.storage.columns import COLUMNS, MEASURED
from unipot.data.storage.compression import compressor
from unipot.data.storage.format import BLOCK_BYTES, block_key, group_hash, reduced_formula, update_content_hash
from unipot.data.storage.record import RecordCodec, label_bits
from unipot.errors import InputError
from unipot.structure import Structure

_BLOCKS_PER_COMMIT = 64
_PLACES = ("block", "offset", "length", "record_crc32")
_LONGEST_TEXT = 2**16 - 1  # bytes of an id or group


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What `shard.json` says.

    Attributes:
        name: of the shard's folder.
        n_structures: records in it.
        data_bytes: size of `data.mdb`.
        sha256: over the records in order.
        label_counts: structures with each label.
        extra: what the writer's caller wanted to keep.
        files: size and checksum of each other file, none in shards of earlier versions.
    """

    name: str
    n_structures: int
    data_bytes: int
    sha256: str
    label_counts: dict[str, int]
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, int]] = field(default_factory=dict)


class ShardWriter:
    """Writes `folder/name/` with `data.mdb`, columns and `shard.json`; after an error nothing of it is left.

    Args:
        folder: where the shard's folder appears.
        name: of the shard.
        codec: packs records.
        compression: None or `zstd`.
        dataset: name for messages.
        extra: JSON-able, kept in `shard.json`; may be changed until the block ends.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        codec: RecordCodec,
        *,
        compression: str | None = None,
        dataset: str = "",
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.name, self.dataset = Path(folder) / name, name, dataset or name
        self.extra = dict(extra or {})
        self.n_structures, self.data_bytes = 0, 0
        self._codec = codec
        self._compress, self._block_bytes = compressor(compression), BLOCK_BYTES[compression]
        self._partial = self.path.with_name(f".{name}.partial-{os.getpid()}")
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._ids: list[bytes] = []
        self._compositions: list[tuple[np.ndarray, np.ndarray]] = []
        self._label_counts: Counter[str] = Counter()
        self._hash = hashlib.sha256()
        self._block: list[bytes] = []
        self._filled = 0  # bytes in the open block
        self._blocks: list[bytes] = []  # full ones that wait for a commit
        self._n_blocks = 0
        self._environment: lmdb.Environment | None = None

    def __enter__(self) -> ShardWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._environment = lmdb.open(
            str(self._partial / "data.mdb"), subdir=False, lock=False, sync=False, map_size=1 << 24
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

    def extend(self, structures: Sequence[Structure], measurements: Mapping[str, np.ndarray]) -> None:
        """Append structures that have ids.

        Args:
            structures: n of them.
            measurements: the columns of `unipot.data.storage.columns.MEASURED`, n rows each.

        Raises:
            ValueError: a structure cannot be stored, or a measurement is missing.
        """
        if self._environment is None:
            raise RuntimeError("ShardWriter.extend was called outside its with-block")
        missing = [name for name in MEASURED if name not in measurements or len(measurements[name]) != len(structures)]
        if missing:
            raise InputError(f"measurement {missing[0]!r} is missing or has another length than the {len(structures)} structures")
        for structure in structures:
            self.check(structure)
        places = np.array([self._append(structure) for structure in structures], dtype=np.int64).reshape(-1, 4)
        rows = {**measurements, **_counted(structures), **dict(zip(_PLACES, places.T, strict=True))}
        for name, column in COLUMNS.items():
            self._columns[name].append(np.ascontiguousarray(rows[name], dtype=column.dtype).reshape(len(structures), *column.shape))
        self._ids += [structure.id.encode() for structure in structures]
        self._compositions += [np.unique(structure.atomic_numbers, return_counts=True) for structure in structures]
        for structure in structures:
            self._label_counts.update(structure.labels.keys())
        self.n_structures += len(structures)

    def check(self, structure: Structure) -> None:
        """Refuse what cannot be stored.

        Raises:
            ValueError: no id, a text that is too long, a label that was not declared, or a number that is not finite.
        """
        where = f"dataset {self.dataset!r}, structure {structure.id!r}"
        if not structure.id:
            raise InputError(f"dataset {self.dataset!r}: a structure has no id; give every structure one")
        for text in (structure.id, structure.group):
            if len(text.encode()) > _LONGEST_TEXT or "\0" in text:
                raise InputError(f"{where}: id and group must be shorter than {_LONGEST_TEXT} bytes and have no zero byte")
        extra = [label for label in structure.labels if label not in self._codec.labels]
        if extra:
            raise InputError(f"{where}: label {extra[0]!r} was not declared; declared are: {', '.join(self._codec.labels)}")
        for label, values in structure.labels.items():  # arrays can be written to after Structure looked at them
            if not np.isfinite(values).all():
                raise InputError(f"{where}: {label} contain {int((~np.isfinite(values)).sum())} non-finite value(s); drop or repair it")

    def _append(self, structure: Structure) -> tuple[int, int, int, int]:
        """Block, offset, length and checksum of the new record."""
        record = self._codec.pack(structure)
        update_content_hash(self._hash, record)
        if self._filled and self._filled + len(record) > self._block_bytes:
            self._close_block()
        place = (self._n_blocks + len(self._blocks), self._filled, len(record), zlib.crc32(record))
        self._block.append(record)
        self._filled += len(record)
        self.data_bytes += len(record)
        return place

    def _close_block(self) -> None:
        if self._block:
            self._blocks.append(self._compress(b"".join(self._block)))
            self._block, self._filled = [], 0
        if len(self._blocks) >= _BLOCKS_PER_COMMIT:
            self._commit()

    def _commit(self) -> None:
        assert self._environment is not None
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for number, block in enumerate(self._blocks, start=self._n_blocks):
                        transaction.put(block_key(number), block, append=True)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise OSError(f"{self.path}: records cannot be written ({error}); check free space and permissions") from error
        self._n_blocks += len(self._blocks)
        self._blocks.clear()

    def _finish(self) -> None:
        self._close_block()
        self._commit()
        assert self._environment is not None
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise OSError(f"{self.path}: records cannot be written ({error}); check free space and permissions") from error
        self._environment.close()
        self._environment = None
        for name, column in COLUMNS.items():
            rows = self._columns[name] or [np.empty((0, *column.shape), dtype=column.dtype)]
            np.save(self._partial / f"{name}.npy", np.concatenate(rows), allow_pickle=False)
        self._save_ragged()
        files = sorted(file.name for file in self._partial.iterdir() if file.suffix in (".npy", ".mdb"))
        info = {
            "name": self.name,
            "n_structures": self.n_structures,
            "data_bytes": (self._partial / "data.mdb").stat().st_size,
            "sha256": self._hash.hexdigest(),
            "label_counts": dict(self._label_counts),
            "extra": self.extra,
            "files": describe_files(self._partial, files),
        }
        (self._partial / "shard.json").write_text(json.dumps(info) + "\n")
        os.replace(self._partial, self.path)

    def _save_ragged(self) -> None:
        files = {
            "ids": np.frombuffer(b"".join(self._ids), dtype=np.uint8),
            "ids_offsets": _offsets([len(text) for text in self._ids]),
            "composition_elements": np.concatenate([np.empty(0, int), *[z for z, _ in self._compositions]]).astype(np.uint8),
            "composition_counts": np.concatenate([np.empty(0, int), *[n for _, n in self._compositions]]).astype("<i4"),
            "composition_offsets": _offsets([len(z) for z, _ in self._compositions]),
        }
        for name, array in files.items():
            np.save(self._partial / f"{name}.npy", array, allow_pickle=False)


def read_shard_info(path: Path) -> ShardInfo:
    """What the finished shard at `path` says of itself.

    Raises:
        FileNotFoundError: there is no finished shard.
        ValueError: it is damaged.
    """
    file = Path(path) / "shard.json"
    if not file.exists():
        raise FileNotFoundError(f"{path}: this is not a finished shard (no shard.json)")
    try:
        info = ShardInfo(**json.loads(file.read_text()))
        size = (Path(path) / "data.mdb").stat().st_size
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: the shard cannot be read ({error}); delete it and convert again") from error
    if size != info.data_bytes:
        raise InputError(f"{path}: data.mdb has {size} bytes instead of {info.data_bytes}; delete the shard and convert again")
    return info


def _counted(structures: Sequence[Structure]) -> dict[str, np.ndarray]:
    return {
        "n_atoms": np.array([s.n_atoms for s in structures], dtype=np.int32),
        "group": np.array([group_hash(s.group or s.id) for s in structures], dtype=np.uint64),
        "formula": np.array([group_hash(reduced_formula(s.atomic_numbers)) for s in structures], dtype=np.uint64),
        "id_hash": np.array([group_hash(s.id) for s in structures], dtype=np.uint64),
        "label_bits": np.array([label_bits(s) for s in structures], dtype=np.uint32),
        "energy": np.array([float(s.labels.get("energy", np.nan)) for s in structures]),
    }


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<i8")
