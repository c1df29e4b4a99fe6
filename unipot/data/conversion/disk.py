"""Room on disk: is there enough before work starts, and one sentence when it runs out or writing is not allowed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
#: how lmdb words the same
_FULL_WORDS = ("No space left", "quota exceeded")


class DiskError(OSError):
    """Writing failed for a reason that the user can mend; the message is a whole sentence."""


def require_space(needs: Mapping[Path, int], what: str) -> None:
    """Refuse to start what cannot end.

    Args:
        needs: folder (that need not exist yet) -> bytes that will be written below it.
        what: the work, for the message.

    Raises:
        DiskError: a disk has less free space than its folders need together.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, n_bytes in needs.items():
        place = existing_parent(folder)
        first, total = disks.get(place.stat().st_dev, (folder, 0))
        disks[place.stat().st_dev] = (first, total + n_bytes)
    for folder, n_bytes in disks.values():
        free = shutil.disk_usage(existing_parent(folder)).free
        if n_bytes > free:
            raise DiskError(
                f"{what} needs about {in_words(n_bytes)} at {folder} but {in_words(free)} are free; free some space, choose another disk "
                "with out= and raw=, or start all the same with check_disk=false"
            )


def existing_parent(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    folder = Path(folder).absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def in_words(n_bytes: float) -> str:
    """`n_bytes` with a unit: 1,500 bytes are '1.5 kB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


@contextmanager
def writing_to(place: Path, what: str) -> Iterator[None]:
    """Turns a full disk and missing permission into one sentence.

    Raises:
        DiskError: the body failed because the disk is full or writing is not allowed.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        sentence = disk_sentence(error, place, what)
        if sentence is None:
            raise
        raise DiskError(sentence) from error


def disk_sentence(error: OSError, place: Path, what: str) -> str | None:
    """What the user should do about `error`; None when it is about something else than space and permission."""
    where = error.filename or place
    if error.errno in _FULL or any(words in str(error) for words in _FULL_WORDS):
        free = in_words(shutil.disk_usage(existing_parent(place)).free)
        return f"{what}: the disk of {place} is full ({free} free); free some space and run the same command again, it continues"
    if error.errno in _DENIED or "Permission denied" in str(error):
        return f"{what}: no permission for {where}; choose a folder that you may write to, or change its permissions, and run again"
    return None
