"""`export_parquet`: a store as a folder that Hugging Face `datasets` loads, with a dataset card.

<folder>/
  README.md                        card: front matter for the hub, properties with units and signs, provenance
  data/train-00000-of-00003.parquet …
  SHA256SUMS                       of all of them, for `sha256sum --check` and for reading them back
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unipot.data.conversion.disk import writing_to
from unipot.data.conversion.source_description import SourceDescription
from unipot.data.parquet.dataset_card import SplitCounts, card_text
from unipot.data.parquet.export_checksums import DESCRIPTION_HASH_KEY, write_checksums
from unipot.data.parquet.table import GROUP_COLUMN, ID_COLUMN, METADATA_KEY, schema_of, table_of
from unipot.data.storage.assembly import replace_folder
from unipot.data.storage.columns import chunks
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.structure import Structure

#: bytes of records per file, and per row group; a row group is what a reader has in memory at once
FILE_BYTES, GROUP_BYTES = 1 << 29, 1 << 25
GROUP_ROWS = 2000
_COMPRESSION = "zstd"

Rows = Sequence[int] | np.ndarray | range


@dataclass(frozen=True, kw_only=True)
class _File:
    name: str
    split: str
    rows: Rows


def export_parquet(
    store: Store,
    folder: str | Path,
    *,
    splits: Mapping[str, Rows] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda n_structures: None,
) -> Path:
    """Write `store` as Parquet files with a dataset card; the folder appears when everything in it is complete.

    Args:
        store: what is written; numbers keep its precision, bit for bit.
        folder: to make.
        splits: split name (lower-case letters) -> rows of the store; everything as `train` by default.
        name: of the dataset; the store's by default.
        overwrite: replace a folder that is there.
        on_progress: called with the number of structures of every row group that is written.

    Returns:
        The folder.

    Raises:
        FileExistsError: `folder` exists and `overwrite` is False.
        ValueError: a split has a name that is not allowed or no rows, or a record cannot be read.
        OSError: the disk is full, or writing is not allowed.

    Example:
        `datasets.load_dataset(str(folder))` and `read_structures(folder)` both read what this wrote.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists already; choose another name with out=, or allow it to be replaced with overwrite=true")
    splits = dict(splits or {"train": range(len(store))})
    _check_splits(splits)
    description = replace(SourceDescription.of_store(store), id_key=ID_COLUMN, group_key=GROUP_COLUMN, name=name or store.name)
    partial = folder.absolute().with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing_to(folder, f"exporting {store.path} to {folder}"):
            (partial / "data").mkdir(parents=True)
            counts = {split: SplitCounts() for split in splits}
            for file in _files(store, splits):
                _write_file(partial / "data" / file.name, store, file.rows, description, counts[file.split], on_progress)
            (partial / "README.md").write_text(card_text(store, description, counts), encoding="utf-8")
            write_checksums(partial)
            replace_folder(partial, folder.absolute())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check_splits(splits: Mapping[str, Rows]) -> None:
    for split, rows in splits.items():
        if not (split.isascii() and split.isalpha() and split.islower()) or split == "all":
            raise InputError(f"split name {split!r} is not allowed; use lower-case letters, such as train, validation or test")
        if len(rows) == 0:
            raise InputError(f"split {split!r} has no structures; leave it out")


def _files(store: Store, splits: Mapping[str, Rows]) -> Iterator[_File]:
    """Files of about equal size, in order."""
    lengths = store.column("length")
    for split, rows in splits.items():
        part_sums = [int(lengths[rows[a:b]].sum(dtype=np.int64)) for a, b in _slices(rows)]
        n_files = max(1, -(-sum(part_sums) // FILE_BYTES))
        bounds = _bounds(lengths, rows, sum(part_sums), n_files)
        for number, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            yield _File(name=f"{split}-{number:05d}-of-{n_files:05d}.parquet", split=split, rows=rows[first:last])


def _bounds(lengths: np.ndarray, rows: Rows, total: int, n_files: int) -> list[int]:
    """Positions in `rows` where the files begin, and the end."""
    bounds, running = [0], 0
    for first, last in _slices(rows):
        sums = running + np.cumsum(lengths[rows[first:last]], dtype=np.int64)
        while len(bounds) < n_files and sums[-1] >= total * len(bounds) / n_files:
            bounds.append(first + int(np.searchsorted(sums, total * len(bounds) / n_files)) + 1)
        running = int(sums[-1])
    return [*np.minimum(bounds, len(rows)).tolist(), len(rows)]


def _slices(rows: Rows) -> Iterator[tuple[int, int]]:
    return chunks(len(rows))


def _write_file(
    path: Path, store: Store, rows: Rows, description: SourceDescription, counts: SplitCounts, on_progress: Callable[[int], None]
) -> None:
    import pyarrow.parquet as pq

    said = description.to_json().encode()
    metadata = {METADATA_KEY: said, DESCRIPTION_HASH_KEY: hashlib.sha256(said).hexdigest().encode()}
    schema = schema_of(store.labels, description.precision, metadata)
    with pq.ParquetWriter(path, schema, compression=_COMPRESSION, write_page_checksum=True) as writer:
        for structures in _groups(store, rows):
            table = table_of(structures, schema)
            writer.write_table(table, row_group_size=len(structures))
            counts.add(structures, table.nbytes)
            on_progress(len(structures))


def _groups(store: Store, rows: Rows) -> Iterator[list[Structure]]:
    """Structures of one row group after the other."""
    group: list[Structure] = []
    n_bytes, lengths = 0, store.column("length")
    for row in rows:
        group.append(store[int(row)])
        n_bytes += int(lengths[row])
        if len(group) >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
            yield group
            group, n_bytes = [], 0
    if group:
        yield group
