"""NumPy `.npz` archives, read without unpickling anything."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unipot.errors import InputError


def read_npz(file: str | Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `names` of an archive, and those of `optional` that it has; others are not touched, whatever they hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an `.npz` archive, is damaged, lacks an array, or would have to be unpickled.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; download it, or give the raw folder that holds {file.name}")
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file} is not a complete .npz archive; it is cut short or another file (a web page?), fetch it again")
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise InputError(f"{file} has no array {missing[0]!r}; it has: {', '.join(archive)}")
            return {name: _array(file, archive, name) for name in (*names, *optional) if name in archive}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{file} is damaged ({error}); fetch it again") from error


def _array(file: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:  # NumPy's words for both are about pickle or the header
        if "pickle" in str(error):
            raise InputError(f"{file}: array {name!r} holds Python objects, which would have to be unpickled; that is refused") from error
        raise InputError(f"{file}: array {name!r} is damaged ({error}); fetch the file again") from error
