"""What a store looks like on disk; shared by the writers and the reader.

<name>.unipot/
  metadata.json        format version, name, level of theory, labels and counts, elements, shards, content hash; written last;
                       sizes and checksums of the other files under `files`, and of itself under `checksum`
  shards/00000.mdb     LMDB; under the key k (8 bytes, big-endian) block k: records side by side, see `unipot.data.storage.record`
  index/<column>.npy   one row per structure, see `unipot.data.storage.columns`
  census.json quarantine.jsonl …   what `unipot prepare` attached
  n_edges_<cutoff>_<hash>.npy      counts at other cutoffs, made on request
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.storage.checksums import SEAL, seal_is_broken
from unipot.errors import InputError
from unipot.structure import SYMBOLS

FORMAT = "unipot-store"
FORMAT_VERSION = 2
SUFFIX = ".unipot"
COMPRESSIONS = (None, "zstd")
#: bytes of records that are stored together; compressed blocks are smaller, for reading one record inflates its block
BLOCK_BYTES = {None: 1 << 16, "zstd": 1 << 14}
#: bytes of `metadata.json`; a store of 100,000 shards has 30 MB
_MOST_METADATA = 1 << 28


def block_key(block: int) -> bytes:
    """Key of a block; big-endian, so that keys sort by number."""
    return block.to_bytes(8, "big")


def update_content_hash(digest: Any, record: bytes) -> None:
    """Add one record, with its length, to a hash that depends on the order of records."""
    digest.update(len(record).to_bytes(8, "little"))
    digest.update(record)


def group_hash(group: str) -> int:
    """64-bit hash of a group, the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little")


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """Symbols in order of Z with counts over their greatest common divisor, for example `H2O` as `H2O1`."""
    numbers, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    divisor = np.gcd.reduce(counts) if len(counts) else 1
    return "".join(f"{SYMBOLS[z]}{n // divisor}" for z, n in zip(numbers.tolist(), counts.tolist(), strict=True))


def check_choice(what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value outside `allowed`.

    Raises:
        ValueError: it is.
    """
    if value not in allowed:
        raise InputError(f"{what} is {value!r}; use one of: {', '.join(str(choice) for choice in allowed)}")


def read_metadata(path: Path) -> dict[str, Any]:
    """Contents of `metadata.json` of the store at `path`.

    Raises:
        FileNotFoundError: there is no store at `path`.
        ValueError: the metadata are damaged, or of another format version.
    """
    metadata = raw_metadata(path)
    version = metadata["format_version"]
    if version > FORMAT_VERSION:
        raise InputError(f"{path}: store format {version} is newer than this unipot reads ({FORMAT_VERSION}); upgrade unipot")
    if version < FORMAT_VERSION:
        raise InputError(
            f"{path}: store format {version} is older than this unipot reads ({FORMAT_VERSION}); convert it with "
            f"unipot.data.storage.store_upgrade.upgrade_store({str(path)!r}, {re.sub(rf'{SUFFIX}$', '', str(path)) + '-2' + SUFFIX!r})"
        )
    if seal_is_broken(metadata):
        raise InputError(
            f"{path}: metadata.json does not match its own checksum, it was damaged or edited; prepare the store again, or, where you "
            f"edited it yourself and know that every entry is right, delete the entry {SEAL!r}"
        )
    return metadata


def raw_metadata(path: Path) -> dict[str, Any]:
    """`metadata.json` of a store of any version.

    Raises:
        FileNotFoundError: there is no store at `path`.
        ValueError: the metadata are damaged.
    """
    file = path / "metadata.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: this is not a unipot store (no metadata.json); make one with: unipot prepare path=<structures> name=<name>"
        )
    try:
        if file.stat().st_size > _MOST_METADATA:
            raise InputError(f"it has more than {_MOST_METADATA} bytes")
        metadata = json.loads(file.read_text(encoding="utf-8"))
        if metadata["format"] != FORMAT:
            raise InputError(f"format is {metadata['format']!r}")
        if type(metadata["format_version"]) is not int or metadata["format_version"] < 1:
            raise InputError(f"format_version is {metadata['format_version']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: metadata.json cannot be read as the metadata of a unipot store ({error}); prepare the store again"
        ) from error
    return metadata
