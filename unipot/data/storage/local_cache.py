"""Stores copied once per machine from a network file system to a local disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from unipot.data.scalar_columns import FILE_NAME as SCALARS
from unipot.data.storage.format import SUFFIX, read_metadata
from unipot.data.store import Store
from unipot.errors import InputError

#: of the copied bytes, kept free on the local disk
_MARGIN = 0.05


def locally(path: str | Path, folder: str | Path | None) -> Path:
    """Where to read the store at `path` from: its copy below `folder`, made on first use.

    Several processes of one machine may ask at once; one copies, the others wait. The copy carries a hash of the
    metadata in its name, so a store that was prepared anew is copied anew. `~` and environment variables are expanded, for
    example `$TMPDIR/unipot`.

    Args:
        path: of the store.
        folder: on a local disk; None reads the store where it is.

    Raises:
        FileNotFoundError: there is no store at `path`.
        OSError: the local disk is too small or cannot be written to; both sizes are named.
    """
    path = Path(path)
    if folder is None:
        return path
    from filelock import FileLock

    read_metadata(path)
    # the metadata hold the content hash, and what the contents mean: level of theory, kind of energy
    scalars = path / SCALARS
    content = (path / "metadata.json").read_bytes() + (scalars.read_bytes() if scalars.exists() else b"")
    digest = hashlib.sha256(content).hexdigest()[:16]
    root = Path(os.path.expandvars(str(folder))).expanduser()
    if "$" in str(root):
        raise InputError(f"local cache folder {folder!s}: an environment variable in it is not set; set it, or name another folder")
    root.mkdir(parents=True, exist_ok=True)
    copy = root / f"{path.name.removesuffix(SUFFIX)}-{digest}{SUFFIX}"
    with FileLock(str(copy) + ".lock"):
        if not (copy / "metadata.json").exists():
            Store(path)  # nothing is copied that could not be read
            _copy(path, copy)
    return copy


def _copy(source: Path, target: Path) -> None:
    needed = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    free = shutil.disk_usage(target.parent).free
    if needed * (1 + _MARGIN) > free:
        raise OSError(
            f"local cache {target.parent}: {source} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room, name another "
            "folder, or read the store where it is (no local cache)"
        )
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
