"""Edge counts at cutoffs that a store was not written with: made once, and kept in its folder where that can be written.

A kept file is a column in NumPy's format with the CRC-32 of all that in four bytes behind it, which NumPy does not read. Files of
earlier versions have none.
"""

from __future__ import annotations

import errno
import io
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from unipot.data.storage.columns import load_column
from unipot.data.storage.files import open_regular

_CRC_BYTES, _HEADER_STEP = 4, 64
#: a read-only or full disk is no reason not to train
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def kept_counts(file: Path, n_structures: int) -> np.ndarray | None:
    """(n_structures,) int32 of a kept file; None where there is none or it is damaged, so that the edges are counted again."""
    try:
        counts = load_column(file)
        if counts.shape != (n_structures,) or counts.dtype != np.dtype("<i4") or (counts < 0).any():
            return None
        with open_regular(file) as handle:
            content = handle.read()
    except (ValueError, OSError):
        return None
    end = (len(content) - counts.nbytes) // _HEADER_STEP * _HEADER_STEP + counts.nbytes  # headers are multiples of 64 bytes
    return counts if content[end:] in (b"", _crc(content[:end])) else None


def keep_counts(file: Path, counts: np.ndarray) -> bool:
    """Write (n_structures,) int32; whether that was possible."""
    stream = io.BytesIO()
    np.save(stream, counts, allow_pickle=False)
    content = stream.getvalue()
    partial = file.with_name(f".{file.name}.{os.getpid()}.npy")
    try:
        partial.write_bytes(content + _crc(content))
        os.replace(partial, file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        if error.errno not in _NOT_WRITABLE:
            raise
        return False
    return True


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CRC_BYTES, "little")
