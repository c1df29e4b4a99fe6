"""What a store looks like on disk; shared by the writer and the reader.

<name>.unipot/
  metadata.json     format version, name, level of theory, labels and counts, elements, content hash
  data.mdb          record i under the key i (8 bytes, big-endian); see `unipot.data.record`
  ids.npy  groups.npy  n_atoms.npy  edge_counts.npy
  n_edges_<cutoff>_<hash>.npy   counts at other cutoffs, made on request
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FORMAT = "unipot-store"
FORMAT_VERSION = 1
SUFFIX = ".unipot"


def record_key(index: int) -> bytes:
    """Key of record `index`; big-endian, so that keys sort by index."""
    return index.to_bytes(8, "big")


def update_content_hash(digest: Any, record: bytes) -> None:
    """Add one record, with its length, to a hash that depends on the order of records."""
    digest.update(len(record).to_bytes(8, "little"))
    digest.update(record)


def group_hash(group: str) -> int:
    """64-bit hash of a group, the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little")


def read_metadata(path: Path) -> dict[str, Any]:
    """Contents of `metadata.json` of the store at `path`.

    Raises:
        FileNotFoundError: there is no store at `path`.
        ValueError: the metadata are damaged, or of a newer format.
    """
    file = path / "metadata.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{path}: this is not a unipot store (no metadata.json); make one with: unipot prepare path=<structures> name=<name>"
        )
    try:
        metadata = json.loads(file.read_text())
        if metadata["format"] != FORMAT:
            raise ValueError(f"format is {metadata['format']!r}")
        version = int(metadata["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: metadata.json cannot be read as the metadata of a unipot store ({error}); prepare the store again"
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: store format {version} is newer than this unipot reads ({FORMAT_VERSION}); upgrade unipot")
    return metadata
