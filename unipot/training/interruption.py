"""Signals that end a run in good order: the step is finished, the run state saved, and the exit code says why.

While no step is being trained a signal ends the command at once. While one is, the signal is only noted, and `StopAtStep` ends the
training after the step; a second Ctrl-C ends it at once all the same.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer

from unipot.training.distributed import is_main_process, largest_over_ranks
from unipot.training.module import TrainingModule

#: exit code of a command that a signal has ended: 128 + its number; SIGUSR1, with which SLURM announces the end of a job's time, asks
#: for the job to be put into the queue again (75 is EX_TEMPFAIL of sysexits.h), see scripts/slurm
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGUSR1"):
    EXIT_CODES[signal.SIGUSR1] = 75

_SAID = "\nunipot: {name}: the run state is saved after this step, then the command ends; Ctrl-C{again} ends it at once\n"


class Interrupted(BaseException):
    """A signal is to end what the main thread does.

    Not a KeyboardInterrupt: Lightning makes an exit without a word out of those.

    Attributes:
        signal: which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(name_of(number))
        self.signal = signal.Signals(number)


class Stopped(KeyboardInterrupt):
    """A command that a signal has ended; the message says what is kept.

    Attributes:
        exit_code: that the process ends with.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class SignalWatch:
    """Handlers of the signals in `EXIT_CODES`.

    Attributes:
        requested: the first signal that came while a step was trained.
        waits_for_step: whether a signal is only noted.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.waits_for_step = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Put our handlers in place, also of those that Lightning has put there since; signals that are ignored stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in EXIT_CODES:
            if signal.getsignal(number) != signal.SIG_IGN:
                before = signal.signal(number, self._handle_signal)
                self._before.setdefault(number, before)

    def restore(self) -> None:
        """The handlers of before `install`."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked process has inherited us
            self.restore()
            os.kill(os.getpid(), number)
            return
        if not self.waits_for_step or (self.requested is not None and number == signal.SIGINT):
            raise Interrupted(number)
        if self.requested is None:
            self.requested = signal.Signals(number)
            if is_main_process():  # written past all buffers: the signal may have come in the middle of a print
                again = " once more" if number == signal.SIGINT else ""
                os.write(2, _SAID.format(name=name_of(number), again=again).encode())


_active: SignalWatch | None = None


@contextmanager
def watching_signals() -> Iterator[SignalWatch]:
    """Our handlers while the block runs; inside another such block, the watch of that one."""
    global _active
    if _active is not None:
        yield _active
        return
    _active = SignalWatch()
    try:
        _active.install()
        yield _active
    finally:
        _active.restore()
        _active = None


class StopAtStep(Callback):
    """Ends the training after the step in which a signal came, in all processes after the same one. It comes before `RunState`."""

    def __init__(self, watch: SignalWatch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self.watch.install()
        self.watch.waits_for_step = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        number = largest_over_ranks(int(self.watch.requested or 0), pl_module.device)
        if number:
            self.watch.requested = signal.Signals(number)
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self.watch.waits_for_step = False

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:
        self.watch.waits_for_step = False


def name_of(number: int) -> str:
    """What a user calls the signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
