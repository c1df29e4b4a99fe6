"""Signals in processes that load data: whether a run ends is decided by the process that trains."""

from __future__ import annotations

import os
import signal
import threading


def leave_signals_to_trainer(worker: int) -> None:
    """Go on loading through signals that a terminal or SLURM sends to every process of a run, so that the last step can be finished.

    SIGTERM still ends this process where the trainer itself has sent it. Where the sender cannot be told (macOS), it always does.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()


def _end_for(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
