"""A process of the run that died: one sentence instead of the traceback of whoever waited for it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

#: how torch says that a process which loads data has died
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (exited unexpectedly|is killed by signal: [^.]*)")

#: and a process that trains
_CONNECTION = re.compile(r"Connection (reset|closed) by peer|Broken pipe|Timed out waiting \w+|Connection refused", re.IGNORECASE)


class LostProcessError(ChildProcessError):
    """Another process of this run is gone."""


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Errors of the block that mean that another process of the run has died, as `LostProcessError`; others pass."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        said = _lost_process(error)
        if said is None:
            raise
        raise LostProcessError(f"{said}; its messages or the log of the system say why (often memory has run out)") from error


def _lost_process(error: Exception) -> str | None:
    if isinstance(error, ConnectionError | EOFError):
        return f"a process that loads data is gone ({error}), so the training ended" if _of_loader(error) else None
    if found := _WORKER.search(str(error)):
        return f"a process that loads data (pid {found[1]}) {found[2].strip().replace('is killed', 'was killed')}, so the training ended"
    if isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error):
        how = _CONNECTION.search(str(error))
        return f"another process of this run is gone ({how[0] if how else str(error).splitlines()[0]}), so the training ended"
    return None


def _of_loader(error: Exception) -> bool:
    """Whether torch's data loader was waiting: a worker that is killed while it hands over a batch is a connection that ends."""
    return any(frame.filename.endswith("dataloader.py") for frame in traceback.extract_tb(error.__traceback__))
