"""One process at a time writes into a run folder: a lock that names its owner, and that a killed process leaves open."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this operating system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

#: in a run folder; holds who owns it
LOCK = ".lock"
#: how a file system says that somebody else holds the lock, and that it has no locks
_TAKEN, _WITHOUT_LOCKS = (errno.EAGAIN, errno.EACCES), (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

#: folder -> open lock file, of this process
_held: dict[Path, int] = {}


def own_folder(folder: Path) -> None:
    """Take the lock of `folder`, which is there, until `release_folders` or the end of this process; once more is no error.

    Raises:
        FileExistsError: another process has it.
    """
    key = folder.resolve()
    if fcntl is None or key in _held:
        return
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _owner(file)
        os.close(file)
        if error.errno in _TAKEN:
            raise FileExistsError(
                f"run={folder}: another process writes into this folder ({owner}); wait for it or end it, or choose another folder "
                "with run=..."
            ) from error
        if error.errno not in _WITHOUT_LOCKS:
            raise
        warnings.warn(f"{folder}: the file system has no locks; see to it that no second run writes into this folder", stacklevel=2)
        return
    _held[key] = file
    os.ftruncate(file, 0)
    os.write(file, (json.dumps(_ourselves()) + "\n").encode())


def release_folders() -> None:
    """Give back every lock of this process."""
    for file in _held.values():
        os.close(file)
    _held.clear()


def _ourselves() -> dict[str, str | int]:
    job = os.environ.get("SLURM_JOB_ID")
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, **({"slurm_job": job} if job else {})}


def _owner(file: int) -> str:
    """Who holds the lock, as it has written there."""
    try:
        said = json.loads(os.pread(file, 4096, 0))
        job = f", SLURM job {said['slurm_job']}" if "slurm_job" in said else ""
        return f"process {said['pid']} on {said['host']}{job}, since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not written who it is"


# a lock is given back when the last process that has inherited it ends: processes that load data must not keep it
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_folders)
