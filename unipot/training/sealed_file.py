"""A checksum at the end of a file that torch has written, so that one flipped bit is found before anything is read out of it.

`torch.save` writes a zip archive. The seal is the comment of the archive: the file stays one file, and `torch.load` reads it as before.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from pathlib import Path

_MARK = b"unipot sha256 "
_SEAL_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size
#: last record of a zip archive, without a comment; the length of the comment is its last field
_END_RECORD, _END_BYTES, _LENGTH_BYTES = b"PK\x05\x06", 22, 2
_BLOCK = 2**20


def seal(path: Path) -> None:
    """Append the SHA-256 of the file at `path`, which `torch.save` has just written.

    Raises:
        RuntimeError: it does not end as a zip archive without a comment does.
    """
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if not _ends_without_comment(_tail(path, _END_BYTES)):
            raise RuntimeError(f"{path}: not a file of torch.save, or sealed already")
        file.seek(size - _LENGTH_BYTES)
        file.write(struct.pack("<H", _SEAL_BYTES))
        file.flush()
        digest = sha256_of(path, size)
        file.seek(size)
        file.write(_MARK + digest.encode())


def is_whole(path: Path) -> bool:
    """Whether the file at `path` is what was sealed; a file of before there were seals is asked for the checksums of its archive.

    Such a file is told from a damaged one by `is_sealed`: damage never makes the one into the other.
    """
    if not is_sealed(path):
        return _archive_is_whole(path)
    end = _tail(path, _SEAL_BYTES)
    return end.startswith(_MARK) and sha256_of(path, path.stat().st_size - _SEAL_BYTES).encode() == end[len(_MARK) :]


def is_sealed(path: Path) -> bool:
    """Whether the file has a seal, or had one before it was damaged."""
    return not _ends_without_comment(_tail(path, _END_BYTES))


def sha256_of(path: Path, n_bytes: int | None = None) -> str:
    """Hexadecimal SHA-256 of a file, or of its first `n_bytes`."""
    digest, left = hashlib.sha256(), path.stat().st_size if n_bytes is None else n_bytes
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _tail(path: Path, n_bytes: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - n_bytes))
        return file.read()


def _ends_without_comment(end: bytes) -> bool:
    return end.startswith(_END_RECORD) and end.endswith(b"\0" * _LENGTH_BYTES) and len(end) == _END_BYTES


def _archive_is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False
