"""`assemble_store`: finished shards become one store, in bounded memory and in one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.storage.checksums import describe_files, sealed
from unipot.data.storage.columns import ADDED, COLUMNS, OFFSETS_OF, RAGGED, TextColumn, chunks, load_column
from unipot.data.storage.format import FORMAT, FORMAT_VERSION
from unipot.data.storage.record import LABEL_BITS
from unipot.data.storage.shard import ShardInfo, read_shard_info
from unipot.errors import InputError
from unipot.properties import check_energy_kind, property_named
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS

#: id hashes that are sorted at once
_IDS_PER_PASS = 1 << 24


def assemble_store(
    path: str | Path,
    shard_folders: Sequence[Path],
    *,
    name: str,
    level_of_theory: str,
    labels: Sequence[str],
    energy_kind: str = "total",
    precision: str = "float64",
    compression: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    keep: np.ndarray | None = None,
    overwrite: bool = False,
) -> Path:
    """Make the store at `path` out of `shard_folders`, which stay as they are.

    Args:
        path: folder to make; it appears when everything in it is complete.
        shard_folders: finished shards, in the order of the store.
        name: of the dataset.
        level_of_theory: of its labels.
        labels: declared properties; one that nobody carries is refused.
        energy_kind: total, adsorption, formation or difference.
        precision: of the records, for the metadata.
        compression: of the blocks.
        provenance: JSON-able, kept in the metadata.
        attachments: file name -> contents.
        keep: (n,) bool over all records of the shards in order; records that are not kept leave the index and stay in
            their shard. None keeps all.
        overwrite: replace a store that is there.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        ValueError: nothing is left to store, an id appears twice, or nobody carries a declared label.
    """
    path = _checked_target(Path(path), overwrite)
    check_energy_kind(energy_kind, f"dataset {name!r}")
    shards = [read_shard_info(folder) for folder in shard_folders]
    kept = _kept_rows(shards, keep)
    if not any(len(rows) for rows in kept):
        raise InputError(f"dataset {name!r}: there are no structures to store in {path}; see the skipped items for the reasons")
    described = {
        "name": name,
        "level_of_theory": level_of_theory,
        "energy_kind": energy_kind,
        "labels": list(labels),
        "precision": precision,
        "compression": compression,
        "provenance": dict(provenance or {}),
    }
    partial = path.with_name(f".{path.name}.assembling-{os.getpid()}")
    try:
        _fill_folder(partial, shard_folders, shards, kept, attachments or {}, name)
        found = _contents(partial / "index", name, labels) | _shard_metadata(shards, kept)
        _write_metadata(partial, described | found, shards)
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _checked_target(path: Path, overwrite: bool) -> Path:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name, or allow it to be replaced with overwrite=true")
    return path


def _fill_folder(
    partial: Path,
    folders: Sequence[Path],
    shards: Sequence[ShardInfo],
    kept: Sequence[np.ndarray],
    attachments: Mapping[str, bytes],
    name: str,
) -> None:
    """Shards, index and attachments of a store that has no metadata yet."""
    (partial / "index").mkdir(parents=True)
    (partial / "shards").mkdir()
    for number, folder in enumerate(folders):
        _link(Path(folder) / "data.mdb", partial / "shards" / f"{number:05d}.mdb")
    _merge_columns(partial / "index", folders, shards, kept)
    _refuse_duplicate_ids(partial / "index", name)
    for file_name, content in attachments.items():
        (partial / file_name).write_bytes(content)


def _write_metadata(partial: Path, metadata: Mapping[str, Any], shards: Sequence[ShardInfo]) -> None:
    """Last of all files, so that a folder with metadata has everything else."""
    content = sealed({**metadata, "files": _described_files(partial, shards)})
    (partial / "metadata.json").write_text(json.dumps(content, indent=1) + "\n")


def _described_files(partial: Path, shards: Sequence[ShardInfo]) -> dict[str, dict[str, int]]:
    """Size and checksum of every file of the store but its metadata; those of shards were made when they were written."""
    known = {f"shards/{number:05d}.mdb": shard.files.get("data.mdb") for number, shard in enumerate(shards)}
    names = sorted(file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file())
    described = describe_files(partial, [name for name in names if known.get(name) is None])
    return {name: known.get(name) or described[name] for name in names}


def replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what was there is removed once the new folder stands."""
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    elif old.exists():
        old.unlink()


def _kept_rows(shards: Sequence[ShardInfo], keep: np.ndarray | None) -> list[np.ndarray]:
    """Per shard the rows that stay, ascending."""
    total = sum(shard.n_structures for shard in shards)
    if keep is not None and len(keep) != total:
        raise InputError(f"keep has {len(keep)} entries for {total} records")
    rows, start = [], 0
    for shard in shards:
        part = np.arange(shard.n_structures) if keep is None else np.flatnonzero(keep[start : start + shard.n_structures])
        rows.append(part)
        start += shard.n_structures
    return rows


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _merge_columns(index: Path, folders: Sequence[Path], shards: Sequence[ShardInfo], kept: Sequence[np.ndarray]) -> None:
    total = sum(len(rows) for rows in kept)
    for name, column in COLUMNS.items():
        if name in ADDED and not all((Path(folder) / f"{name}.npy").exists() for folder in folders):
            continue  # a conversion that an earlier version began
        merged = np.lib.format.open_memmap(index / f"{name}.npy", mode="w+", dtype=column.dtype, shape=(total, *column.shape))
        start = 0
        for folder, shard, rows in zip(folders, shards, kept, strict=True):
            source = load_column(Path(folder) / f"{name}.npy", shard.files.get(f"{name}.npy"))
            for first, last in chunks(len(rows)):
                merged[start + first : start + last] = source[rows[first:last]]
            start += len(rows)
        merged.flush()
        del merged
    for name, dtype in RAGGED.items():
        _merge_ragged(index, name, dtype, folders, shards, kept)


def _merge_ragged(
    index: Path, name: str, dtype: str, folders: Sequence[Path], shards: Sequence[ShardInfo], kept: Sequence[np.ndarray]
) -> None:
    def load(folder: Path, shard: ShardInfo, column: str) -> np.ndarray:
        return load_column(Path(folder) / f"{column}.npy", shard.files.get(f"{column}.npy"))

    lengths = [np.diff(load(folder, shard, OFFSETS_OF[name]))[rows] for folder, shard, rows in zip(folders, shards, kept, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype("<i8")
    np.save(index / f"{OFFSETS_OF[name]}.npy", offsets, allow_pickle=False)
    merged = np.lib.format.open_memmap(index / f"{name}.npy", mode="w+", dtype=dtype, shape=(int(offsets[-1]),))
    place = 0
    for folder, shard, rows in zip(folders, shards, kept, strict=True):
        source, bounds = load(folder, shard, name), load(folder, shard, OFFSETS_OF[name])
        for first, last in chunks(len(rows)):
            starts, counts = bounds[rows[first:last]], np.diff(bounds)[rows[first:last]] if len(rows) else np.empty(0, int)
            items = source[np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))]
            merged[place : place + len(items)] = items
            place += len(items)
    merged.flush()


def _refuse_duplicate_ids(index: Path, name: str) -> None:
    """Sorts hashes in passes of bounded size.

    Raises:
        ValueError: two structures have one id.
    """
    hashes = load_column(index / "id_hash.npy")
    n_passes = -(-len(hashes) // _IDS_PER_PASS)
    for number in range(n_passes):
        part = np.concatenate([_of_pass(hashes[a:b], number, n_passes) for a, b in chunks(len(hashes))])
        part.sort()
        repeated = part[1:][part[1:] == part[:-1]]
        for value in repeated[:1]:
            rows = np.concatenate([a + np.flatnonzero(hashes[a:b] == value) for a, b in chunks(len(hashes))])
            texts = TextColumn(load_column(index / "ids.npy"), load_column(index / "ids_offsets.npy"))
            if texts[int(rows[0])] == texts[int(rows[1])]:
                raise InputError(
                    f"dataset {name!r}, structure {texts[int(rows[0])]!r}: structures {int(rows[0])} and {int(rows[1])} both have this id; "
                    "this id was used before, and ids must be unique within a dataset"
                )


def _of_pass(hashes: np.ndarray, number: int, n_passes: int) -> np.ndarray:
    return hashes[hashes % np.uint64(n_passes) == number]


def _contents(index: Path, name: str, labels: Sequence[str]) -> dict[str, Any]:
    """Counts for the metadata, from the merged columns."""
    n_atoms, bits = load_column(index / "n_atoms.npy"), load_column(index / "label_bits.npy")
    label_counts: Counter[str] = Counter()
    total = 0
    for first, last in chunks(len(n_atoms)):
        total += int(n_atoms[first:last].sum(dtype=np.int64))
        for label in labels:
            label_counts[label] += int(((bits[first:last] >> np.uint32(LABEL_BITS[label])) & np.uint32(1)).sum())
    unused = [label for label in labels if not label_counts[label]]
    if unused:
        raise InputError(
            f"dataset {name!r}: no structure carries the label {unused[0]!r}; leave it out of labels or correct its key"
        )
    elements, counts = load_column(index / "composition_elements.npy"), load_column(index / "composition_counts.npy")
    atoms = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
    for first, last in chunks(len(elements)):
        np.add.at(atoms, elements[first:last], counts[first:last].astype(np.int64))
    return {
        "units": {label: property_named(label).unit for label in labels},
        "label_counts": {label: label_counts[label] for label in labels},
        "n_structures": len(n_atoms),
        "n_atoms": total,
        "elements": {SYMBOLS[z]: int(atoms[z]) for z in np.flatnonzero(atoms)},
    }


def _shard_metadata(shards: Sequence[ShardInfo], kept: Sequence[np.ndarray]) -> dict[str, Any]:
    rows = [
        {
            "file": f"{number:05d}.mdb",
            "name": shard.name,
            "n_structures": len(rows),
            "data_bytes": shard.data_bytes,
            "sha256": shard.sha256,
            "n_records": shard.n_structures,
        }
        for number, (shard, rows) in enumerate(zip(shards, kept, strict=True))
    ]
    n_quarantined = sum(shard.n_structures for shard in shards) - sum(len(rows) for rows in kept)
    version = {"format": FORMAT, "format_version": FORMAT_VERSION}
    return version | {"shards": rows, "content_hash": _content_hash(shards, kept), "n_quarantined": n_quarantined}


def _content_hash(shards: Sequence[ShardInfo], kept: Sequence[np.ndarray]) -> str:
    """Of the records and of which of them are kept; independent of how they are cut only where one shard holds all."""
    digest = hashlib.sha256()
    for part in _hash_parts(shards, kept):
        digest.update(part)
    return digest.hexdigest()


def _hash_parts(shards: Sequence[ShardInfo], kept: Sequence[np.ndarray]) -> Iterator[bytes]:
    for shard, rows in zip(shards, kept, strict=True):
        yield shard.sha256.encode()
        if len(rows) != shard.n_structures:
            yield rows.astype("<i8").tobytes()
