"""Pieces of work in processes of their own: started fresh (never forked), ended with their parent, failing in one sentence."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from unipot.data.conversion.disk import DiskError

#: f(argument, send): does one piece of work, says how far it is with `send(message)`
Work = Callable[[Any, Callable[[Any], None]], None]
#: errors that keep their kind on the way from a worker; others arrive as RuntimeError
_KINDS = {kind.__name__: kind for kind in (ValueError, KeyError, FileNotFoundError, PermissionError, DiskError, OSError, ImportError)}


def run_all(work: Work, arguments: Sequence[Any], n_workers: int, on_message: Callable[[int, Any], None]) -> None:
    """`work` on every argument, in order of the arguments as workers become free.

    Args:
        work: a function of a module, so that a fresh process finds it.
        arguments: what each piece of work is given.
        n_workers: processes; with 0 or 1 everything happens in this one.
        on_message: called here with the number of the argument and what `work` sent.

    Raises:
        OSError: a worker died.
        Exception: what `work` raised first; the other workers are stopped.
    """
    if n_workers <= 1 or len(arguments) <= 1:
        for number, argument in enumerate(arguments):
            work(argument, lambda message, number=number: on_message(number, message))
        return
    waiting = deque(enumerate(arguments))
    workers = [_start_worker(work) for _ in range(min(n_workers, len(arguments)))]
    try:
        for worker in workers:
            worker.give(waiting)
        while any(worker.busy is not None for worker in workers):
            for ready in connection.wait([worker.pipe for worker in workers if worker.busy is not None]):
                worker = next(worker for worker in workers if worker.pipe is ready)
                _receive_message(worker, waiting, on_message)
    finally:
        for worker in workers:
            worker.stop()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    busy: int | None = None

    def give(self, waiting: deque[tuple[int, Any]]) -> None:
        self.busy = None
        if waiting:
            self.busy, argument = waiting.popleft()
            self.pipe.send((self.busy, argument))

    def stop(self) -> None:
        if self.busy is not None:
            self.process.terminate()
        self.pipe.close()  # an idle worker ends when its pipe does
        self.process.join()
        self.process.close()


def _start_worker(work: Work) -> _Worker:
    context = get_context("spawn")  # a forked child would share LMDB environments, locks and threads with its parent
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_work, args=(work, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _receive_message(worker: _Worker, waiting: deque[tuple[int, Any]], on_message: Callable[[int, Any], None]) -> None:
    try:
        kind, content = worker.pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        worker.process.join()
        raise OSError(_death_words(worker.process.exitcode)) from error
    if kind == "message":
        on_message(worker.busy if worker.busy is not None else -1, content)
    elif kind == "done":
        worker.give(waiting)
    else:
        name, text, trace = content
        error = _KINDS.get(name, RuntimeError)(text)
        error.add_note(trace)
        raise error


def _death_words(code: int | None) -> str:
    if code is not None and code < 0:
        how = f"was ended by signal {-code}, as when memory runs out; run the same command again with fewer workers, it continues"
    else:
        how = (
            f"ended with exit code {code}, as when a script that uses workers lacks `if __name__ == '__main__':`; "
            "see its message above, or convert with workers=0"
        )
    return f"a worker process {how}"


def _serve_work(work: Work, pipe: connection.Connection) -> None:
    """Main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            _, argument = pipe.recv()
        except EOFError:
            return
        try:
            work(argument, lambda message: pipe.send(("message", message)))
        except Exception as error:
            kind = next((name for name, known in _KINDS.items() if type(error) is known), None)
            kind = kind or next((name for name, known in _KINDS.items() if isinstance(error, known)), type(error).__name__)
            text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            try:
                pipe.send(("failed", (kind, text, traceback.format_exc())))
            except OSError:
                raise error from None
        else:
            pipe.send(("done", None))


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers; nobody may write into its folder after it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
