"""The raw files of a recipe: which are there, which are missing, fetched, verified and unpacked."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unipot.data.catalog.cards import RawFile
from unipot.data.catalog.download import CHUNK_BYTES, download, is_html
from unipot.data.conversion.disk import in_words, writing_to
from unipot.errors import InputError

#: environment variable: folder that holds the raw files of all recipes
RAW_FOLDER_VARIABLE = "UNIPOT_RAW"
_UNPACKED = ".unpacked.json"
#: how much larger the contents of a compressed file are taken to be, for the estimate of space
_INFLATION = 4
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".tgz", ".txz", ".tbz2", ".zip")
#: called with a file's name, the bytes so far and the bytes in all
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class RawFolder:
    """Raw files that are ready to be read.

    Attributes:
        path: the folder.
        files: JSON-able, one entry per file that is there: file, bytes, sha256 (None where it was not computed).
        missing: names of files that are not there.
    """

    path: Path
    files: tuple[dict[str, Any], ...]
    missing: tuple[str, ...] = ()


def raw_folder(recipe: str) -> Path:
    """Where the raw files of `recipe` are kept unless a folder is given: below $UNIPOT_RAW, else ~/.cache/unipot/raw."""
    root = os.environ.get(RAW_FOLDER_VARIABLE)
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "unipot" / "raw") / recipe


def is_there(source: RawFile, folder: Path) -> bool:
    """Whether the file, or for an archive what was in it, is in `folder`."""
    return (folder / source.file).is_file() or (source.unpack is not None and (folder / source.unpacked).is_dir())


def bytes_to_fetch(sources: Sequence[RawFile], folder: Path) -> int:
    """Bytes that fetching and unpacking will add to `folder`, as far as the card says sizes."""
    total = 0
    for source in sources:
        if not is_there(source, folder):
            part = folder / f"{source.file}.part"
            total += (source.size or 0) - (part.stat().st_size if part.exists() else 0)
        if source.unpack and not (folder / source.unpacked).is_dir():
            total += contents_size(source.file, source.size or 0)
    return max(total, 0)


def contents_size(file: str, size: int) -> int:
    """Bytes of what is in a file of `size` bytes; a compressed one is taken to hold four times its size."""
    return size * (_INFLATION if file.endswith(_COMPRESSED) else 1)


def fetch_all(sources: Sequence[RawFile], folder: Path, on_progress: Progress, *, verify: bool = True) -> RawFolder:
    """Download what is missing in `folder`, verify what is there, unpack archives.

    Two processes may do this at once: the second one waits for each file and then finds it.

    Args:
        sources: what the recipe reads.
        folder: where the files go.
        on_progress: called with file, bytes done, bytes in all.
        verify: compare files that are there already with the card; what is downloaded is always compared.

    Raises:
        OSError: a file cannot be fetched from any mirror, or not be written.
        ValueError: a file that is there is not the right one, or an archive is damaged.
    """
    files = []
    for source in sources:
        with writing_to(folder / source.file, f"fetching {source.file}"):
            (folder / source.file).parent.mkdir(parents=True, exist_ok=True)
            with FileLock(_hidden(folder / source.file, "lock")):
                if not is_there(source, folder):
                    if not source.urls:
                        raise FileNotFoundError(missing_sentence([source], folder))
                    fetched = download(source, folder, on_progress=lambda done, total, name=source.file: on_progress(name, done, total))
                    _note_verified(fetched.path, fetched.sha256)
                files.append(_check_and_unpack(source, folder, verify=verify))
    return RawFolder(folder, tuple(file for file in files if file))


def use_existing(sources: Sequence[RawFile], folder: Path, *, verify: bool, allow_missing: bool) -> RawFolder:
    """Files that somebody put into `folder`; nothing is downloaded.

    Args:
        sources: what the recipe reads.
        folder: where they are.
        verify: compare sizes and hashes with the card.
        allow_missing: go on with the files that are there.

    Raises:
        FileNotFoundError: files are missing; the message lists them with their addresses.
        ValueError: a file is not the right one, or an archive is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the folder of raw files is not there; make it and put the files of the card into it")
    missing = [source for source in sources if not is_there(source, folder)]
    if missing and not (allow_missing and len(missing) < len(sources)):
        raise FileNotFoundError(missing_sentence(missing, folder))
    files = [_check_and_unpack(source, folder, verify=verify) for source in sources if source not in missing]
    return RawFolder(folder, tuple(file for file in files if file), tuple(source.file for source in missing))


def missing_sentence(missing: Sequence[RawFile], folder: Path) -> str:
    """Which files to get, from where, and where to put them."""
    lines = []
    for source in missing:
        size = f" ({in_words(source.size)})" if source.size else ""
        where = " or ".join(source.urls) or "no public address"
        access = f"; how to get it: {source.access}" if source.access else ""
        lines.append(f"  {folder / source.file}{size} from {where}{access}")
    return f"{len(missing)} raw file{'s are' if len(missing) > 1 else ' is'} missing; put there:\n" + "\n".join(lines)


def _check_and_unpack(source: RawFile, folder: Path, *, verify: bool) -> dict[str, Any]:
    target = folder / source.file
    entry: dict[str, Any] = {"file": source.file, "bytes": None, "sha256": None}
    if target.is_file():
        entry = {"file": source.file, "bytes": target.stat().st_size, "sha256": _verified(source, target) if verify else None}
        with open(target, "rb") as file:
            if is_html(file.read(256)) and not source.file.endswith((".html", ".htm")):
                raise InputError(f"{target} is a web page, not the file: the download was a login or error page; fetch it again")
    if source.unpack:
        _unpack(source, folder)
    return entry


def _verified(source: RawFile, target: Path) -> str | None:
    """The file's sha256, computed once for each size and time of change; None where nothing is known to compare with.

    Raises:
        ValueError: size or hash are not those of the card.
    """
    size = target.stat().st_size
    remedy = "fetch it again, or use it all the same with verify=false"
    if source.size is not None and size != source.size:
        raise InputError(f"{target} has {size:,} bytes, the card says {source.size:,}: it is cut short or another version; {remedy}")
    note = _hidden(target, "verified")
    try:
        known = json.loads(note.read_text())
        if known["size"] == size and known["mtime_ns"] == target.stat().st_mtime_ns and source.sha256 in (None, known["sha256"]):
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never looked at, or another file: look now
    if source.sha256 is None and source.md5 is None:
        return None
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with open(target, "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            for digest in digests.values():
                digest.update(piece)
    for kind, digest in digests.items():
        wanted = getattr(source, kind)
        if wanted is not None and digest.hexdigest() != wanted:
            raise InputError(f"{target}: {kind} is {digest.hexdigest()}, the card says {wanted}: damaged or another version; {remedy}")
    _note_verified(target, digests["sha256"].hexdigest())
    return digests["sha256"].hexdigest()


def _note_verified(target: Path, sha256: str) -> None:
    stat = target.stat()
    try:
        _hidden(target, "verified").write_text(json.dumps({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        return  # a folder that cannot be written to is looked at again next time


def _unpack(source: RawFile, folder: Path) -> None:
    """Unpack the archive beside itself; the folder appears when everything is in it."""
    archive, target = folder / source.file, folder / source.unpacked
    if not archive.is_file():
        return
    stamp = {"size": archive.stat().st_size, "mtime_ns": archive.stat().st_mtime_ns}
    if target.is_dir():
        note = target / _UNPACKED
        if not note.exists() or json.loads(note.read_text()) == stamp:  # without a note somebody else unpacked it
            return
    partial = _hidden(target, f"unpacking-{os.getpid()}")
    with writing_to(target, f"unpacking {source.file}"):
        try:
            partial.mkdir(parents=True)
            if source.unpack == "xz":
                with lzma.open(archive) as packed, open(partial / target.name, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, CHUNK_BYTES)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(partial, filter="data")
            (partial / _UNPACKED).write_text(json.dumps(stamp))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        except tarfile.FilterError as error:
            raise InputError(f"{archive} is refused: {error}; an archive of data has no such member") from error
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{archive} cannot be unpacked ({error}): it is cut short or damaged; delete it and fetch it again") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _hidden(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")
