"""Files of a store, opened only where they are plain files inside its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from unipot.data.storage.checksums import crc32_of_file
from unipot.errors import InputError


def file_inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, which may itself be a link.

    Raises:
        ValueError: it is missing, is no plain file (a pipe would wait for ever), or is a link to somewhere else.
    """
    file = folder / name
    if not file.exists():
        raise InputError(f"{folder}: {name} is missing; prepare the store again")
    if not file.is_file():
        raise InputError(f"{folder}: {name} is not a regular file; prepare the store again")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: {name} is a link out of the store's folder; copy the store with what its links lead to (cp -rL)")
    return file


def open_regular(file: Path) -> BinaryIO:
    """A plain file, open for reading; raises as `descriptor_of`."""
    return os.fdopen(descriptor_of(file), "rb")


def descriptor_of(file: Path) -> int:
    """The descriptor of a plain file that is now open for reading.

    Raises:
        OSError: it is missing or cannot be read.
        ValueError: it is no plain file.
    """
    # without waiting: a pipe would wait for a writer for ever
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("it is not a regular file")
    return descriptor


def require_recorded(handle: BinaryIO, recorded: Mapping[str, int]) -> None:
    """Compare a file, read from its beginning, with the size and checksum that were recorded of it.

    Raises:
        ValueError: one of them differs.
        OSError: it cannot be read.
    """
    size = os.fstat(handle.fileno()).st_size
    if size != recorded["bytes"]:
        raise InputError(f"it has {size} bytes instead of {recorded['bytes']}")
    if crc32_of_file(handle) != recorded["crc32"]:
        raise InputError("its checksum differs from the recorded one")
