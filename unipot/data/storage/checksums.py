"""Checksums against damage: of the files of a store, and of the JSON that describes it.

CRC-32 finds every single flipped bit and all but one in 4·10⁹ of other changes, at 1.7 GB/s on one core of the machine it was
measured on. It guards against broken disks and copies, not against somebody who changes a store on purpose.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 20
#: key of a checksum within the JSON that it is of
SEAL = "checksum"


def crc32_of_file(file: Path | BinaryIO) -> int:
    """CRC-32 of the contents of a file, from where it is read next.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as handle:
            return crc32_of_file(handle)
    value = 0
    while chunk := file.read(_CHUNK):
        value = zlib.crc32(chunk, value)
    return value


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """File below `folder` -> its size and checksum, JSON-able."""
    return {name: {"bytes": (folder / name).stat().st_size, "crc32": crc32_of_file(folder / name)} for name in names}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content`, as JSON gives it back, with a checksum over everything else in it."""
    content = json.loads(json.dumps(content))
    return {**content, SEAL: _seal(content)}


def seal_is_broken(content: Mapping[str, Any]) -> bool:
    """Whether there is a checksum that does not fit; JSON of earlier versions has none."""
    return SEAL in content and content[SEAL] != _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
