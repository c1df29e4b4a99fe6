"""What `metadata.json` of a store may say, looked at before anything is read or allocated by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unipot.data.spec import check_dataset_name
from unipot.data.storage.format import COMPRESSIONS, check_choice
from unipot.data.storage.record import RecordCodec
from unipot.errors import InputError
from unipot.properties import check_energy_kind
from unipot.structure import SYMBOLS

#: structures, atoms or bytes of a store; beyond any disk
_MOST = 1 << 48


def check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse metadata of a store of the present format that cannot be true.

    Raises:
        ValueError: an entry is missing, of another kind, out of bounds, or names a file outside the store.
    """
    try:
        _check_texts(metadata)
        check_energy_kind(metadata["energy_kind"], "energy_kind")
        check_choice("compression", metadata["compression"], COMPRESSIONS)
        RecordCodec(metadata["labels"], metadata["precision"])
        for name in ("n_structures", "n_atoms"):
            _check_count(name, metadata[name])
        for name in ("label_counts", "elements"):
            for key, value in _mapping(metadata, name).items():
                _check_count(f"{name} of {key!r}", value)
        unknown = [symbol for symbol in metadata["elements"] if symbol not in SYMBOLS]
        if unknown:
            raise InputError(f"element {unknown[0]!r} is not known")
        _mapping(metadata, "provenance")
        _check_shards(metadata)
        _check_files(metadata)
    except KeyError as error:
        raise InputError(f"{path}: metadata.json has no entry {error.args[0]!r}; prepare the store again") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: metadata.json cannot be true ({error}); prepare the store again") from error


def _check_texts(metadata: Mapping[str, Any]) -> None:
    for name in ("name", "level_of_theory", "energy_kind", "precision", "content_hash"):
        if not isinstance(metadata[name], str) or not metadata[name]:
            raise InputError(f"{name} is {metadata[name]!r}, no text")
    check_dataset_name(metadata["name"])
    if not isinstance(metadata["labels"], list) or not all(isinstance(label, str) for label in metadata["labels"]):
        raise InputError("labels is not a list of names")


def _check_shards(metadata: Mapping[str, Any]) -> None:
    shards = metadata["shards"]
    if not isinstance(shards, list) or not shards:
        raise InputError("shards is not a list with an entry")
    for shard in shards:
        if not isinstance(shard, Mapping):
            raise InputError("an entry of shards is not a mapping")
        if not isinstance(shard["file"], str) or not _is_inside(shard["file"], depth=1):
            raise InputError(f"the shard {shard['file']!r} is not a file of the store's folder")
        if not isinstance(shard["sha256"], str):
            raise InputError(f"sha256 of shard {shard['file']} is no text")
        for name in ("n_structures", "data_bytes"):
            _check_count(f"{name} of shard {shard['file']}", shard[name])
    total = sum(shard["n_structures"] for shard in shards)
    if total != metadata["n_structures"]:
        raise InputError(f"shards hold {total} structures, n_structures is {metadata['n_structures']}")


def _check_files(metadata: Mapping[str, Any]) -> None:
    """Sizes and checksums of files, which stores of earlier versions do not have."""
    if "files" not in metadata:
        return
    for name, entry in _mapping(metadata, "files").items():
        if not _is_inside(name, depth=2):
            raise InputError(f"the file {name!r} is not one of the store's folder")
        for key in ("bytes", "crc32"):
            _check_count(f"{key} of {name}", entry[key])


def _is_inside(name: str, depth: int) -> bool:
    """Whether a relative path stays below its folder, at most `depth` levels."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and 0 < len(path.parts) <= depth and not set("\\\0") & set(name)


def _mapping(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(metadata[name], Mapping):
        raise InputError(f"{name} is not a mapping")
    return metadata[name]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise InputError(f"{name} is {value!r}; it must be a whole number from 0 to {_MOST}")
