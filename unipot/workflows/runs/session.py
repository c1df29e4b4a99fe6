"""What a command that trains does around its work: it answers signals, says what is kept, and gives its run folder back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unipot.training.distributed import speaks_for_its_node
from unipot.training.interruption import EXIT_CODES, Interrupted, Stopped, name_of, watching_signals
from unipot.workflows.runs.ownership import release_folders
from unipot.workflows.runs.run_folder import RunFolder, forget_opened, opened_run_folder


@contextmanager
def run_session() -> Iterator[None]:
    """Around everything that works in one run folder; also a decorator.

    Raises:
        Stopped: a signal has ended the work; with the exit code and the sentence for the user.
    """
    forget_opened()
    with watching_signals():
        try:
            yield
        except Interrupted as stop:
            # the exit code of a node, or of a job, is that of its first process: the others must not look like failures
            code = EXIT_CODES[stop.signal] if speaks_for_its_node() else 0
            raise Stopped(f"ended by {name_of(stop.signal)}: {_what_is_kept(opened_run_folder())}", code) from None
        finally:
            release_folders()


def _what_is_kept(run: RunFolder | None) -> str:
    if run is None:
        return "nothing was begun yet"
    if run.step is None:
        kept = f"no step is saved yet; what is finished before the training (data, labels, trials) is kept in {run.path}"
    else:
        kept = f"the run state of step {run.step} is saved in {run.path}"
    return f"{kept}; resume={run.path} goes on from there"
