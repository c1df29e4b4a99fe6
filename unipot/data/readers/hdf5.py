"""HDF5 files, group by group: a file of any size needs little memory, and several processes share it by ranges of its groups.

A part is written `<file>#<first>-<last>` or `<file>#<folder>:<first>-<last>`: groups number first to last (both included) of the
sorted names in the file, or in one of its folders. `depth` 2 means groups within groups.
"""

from __future__ import annotations

import io
import lzma
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unipot.errors import InputError, MissingPackage

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PART = re.compile(r"(?P<file>.+)#(?:(?P<folder>[^:#]+):)?(?P<first>\d+)-(?P<last>\d+)")
#: what h5py raises when bytes inside a file are not what its structure says
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)


@contextmanager
def open_hdf5(file: str | Path) -> Iterator[Any]:
    """The opened `h5py.File`, read only and without a lock (network and read-only file systems refuse locks).

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: h5py is not installed.
        ValueError: the file is not HDF5, or cut short.
    """
    file = Path(file)
    try:
        import h5py
    except ImportError as error:
        raise MissingPackage(f"{file}: reading HDF5 needs h5py; install it with: pip install 'unipot[recipes]'") from error
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; download it, or give the raw folder that holds {file.name}")
    try:
        opened = h5py.File(file, "r", locking=False)
    except OSError as error:
        raise InputError(_refusal(file, error)) from error
    with opened:
        yield opened


def group_names(file: str | Path, *, folder: str = "", depth: int = 1) -> list[str]:
    """Sorted names of the groups in the file (or in `folder` of it), `depth` levels down, as paths.

    Raises:
        ValueError: the file is damaged or has no such folder.
    """
    with open_hdf5(file) as opened:
        return _names(file, opened, folder, depth)


def group_parts(raw: Path, file: str, *, groups_per_part: int, folder: str = "", depth: int = 1) -> list[str]:
    """The parts of one file, in order.

    Args:
        raw: folder of the raw files.
        file: path below `raw`.
        groups_per_part: how many groups a part has, the last one perhaps fewer.
        folder: group of the file in which the groups are; "" for its top.
        depth: levels down from there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is not HDF5, or has no groups there.
    """
    n_groups = len(group_names(raw / file, folder=folder, depth=depth))
    if n_groups == 0:
        raise InputError(f"{raw / file} has no groups{f' in {folder!r}' if folder else ''}; check that it is the file of this dataset")
    inside = f"{folder}:" if folder else ""
    starts = range(0, n_groups, groups_per_part)
    return [f"{file}#{inside}{first}-{min(first + groups_per_part, n_groups) - 1}" for first in starts]


def read_groups(raw: Path, part: str, *, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """(name, `h5py.Group`) of every group of a part, in order; a group is valid until the next one is asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `part` is not one of this file, or the file is damaged.
    """
    match = _PART.fullmatch(part)
    if match is None:
        raise InputError(f"part {part!r} is not of the form <file>#<first>-<last> or <file>#<folder>:<first>-<last>")
    file, folder = raw / match["file"], match["folder"] or ""
    first, last = int(match["first"]), int(match["last"])
    with open_hdf5(file) as opened:
        names = _names(file, opened, folder, depth)
        if last >= len(names):
            raise InputError(f"part {part!r} ends behind the last of the {len(names)} groups; list the parts of this file again")
        top = opened[folder] if folder else opened
        for name in names[first : last + 1]:
            try:
                group = top[name]
            except _DAMAGE as error:
                raise InputError(f"{file}: group {name!r} is damaged ({error}); fetch the file again") from error
            yield name, group


def read_array(group: Any, name: str, unit: str | None = None) -> np.ndarray:
    """The dataset `name` of a group.

    Args:
        group: of an opened file.
        name: of the dataset.
        unit: what its attribute `units` must say; None: not looked at.

    Raises:
        ValueError: it is missing, damaged, or in another unit. The message names file and group.
    """
    try:
        dataset = group[name]
        stored = dataset.attrs.get("units") if unit else None
        array = dataset[()]
    except _DAMAGE as error:
        if name not in group:
            raise InputError(f"{_where(group)} has no dataset {name!r}; it has: {', '.join(group) or 'none'}") from error
        raise InputError(f"{_where(group)}: dataset {name!r} is damaged ({error}); fetch the file again") from error
    stored = stored.decode() if isinstance(stored, bytes) else stored
    if unit and stored != unit:
        says = f"dataset {name!r} has units {stored!r}, expected {unit!r}"
        raise InputError(f"{_where(group)}: {says}; this is not the release that the card names")
    return np.asarray(array)


def read_text(group: Any, name: str) -> str:
    """The text in dataset `name` of a group, stored alone or as the only element of an array.

    Raises:
        ValueError: it is missing, or not one text.
    """
    array = read_array(group, name)
    if array.size != 1:
        raise InputError(f"{_where(group)}: {name!r} holds {array.size} texts, expected one")
    value = array.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def unpack_xz(file: str | Path, target: str | Path) -> Path:
    """`target`, unpacked from the `.xz` file unless it is there already; it appears only when complete.

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: the `.xz` file is damaged, cut short, or not one.
    """
    file, target = Path(file), Path(target)
    if target.exists():
        return target
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, nor {target} unpacked from it; download it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with lzma.open(file) as source, partial.open("wb") as sink:
            while chunk := source.read(io.DEFAULT_BUFFER_SIZE * 128):
                sink.write(chunk)
        partial.replace(target)
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"{file} cannot be unpacked ({error}); {_looks_like(file)}fetch it again") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _where(group: Any) -> str:
    return f"{group.file.filename}: group {group.name.lstrip('/')!r}"


def _names(file: str | Path, opened: Any, folder: str, depth: int) -> list[str]:
    try:
        if folder and folder not in opened:
            raise InputError(f"{file} has no group {folder!r}; it has: {', '.join(opened) or 'none'}")
        names = [""]
        for _ in range(depth):
            names = [f"{name}/{inner}" for name in names for inner in sorted(opened[f"{folder}{name}"] if folder or name else opened)]
        return [name.removeprefix("/") for name in names]
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: the groups cannot be listed ({error}); the file is damaged or another one, fetch it again") from error


def _refusal(file: Path, error: OSError) -> str:
    """Why h5py could not open a file that is there, in one sentence."""
    with file.open("rb") as opened:
        begins = opened.read(len(_SIGNATURE))
    stored = re.search(r"stored_eof = (\d+)", str(error))
    if begins == _SIGNATURE and stored:
        return f"{file} is cut short: it has {file.stat().st_size} bytes of {stored[1]}; fetch it again"
    if begins == _SIGNATURE:
        return f"{file} is a damaged HDF5 file ({error}); fetch it again"
    return f"{file} is not an HDF5 file; {_looks_like(file)}fetch it again"


def _looks_like(file: Path) -> str:
    with file.open("rb") as opened:
        begins = opened.read(64).lstrip()
    if begins[:1] == b"<":
        return "it is a web page, as servers send for a wrong address or a login; "
    return "it is empty; " if not begins else ""
