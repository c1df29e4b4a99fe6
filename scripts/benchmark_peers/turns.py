"""Workers of a group of contenders, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmark_peers.contenders import Contender
from benchmark_peers.driver import Job, WorkerError, WorkerProcess, say
from benchmark_peers.setup import Setup

Prepare = Callable[[WorkerProcess], dict[str, Any]]


@contextmanager
def built_workers(
    setup: Setup, contenders: list[Contender], sizes: dict[str, Any], prepare: Prepare
) -> Iterator[tuple[dict[str, WorkerProcess], dict[str, dict[str, Any]]]]:
    """Label -> worker with its model built and `prepare` done, and label -> what it said, or its error."""
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        said: dict[str, dict[str, Any]] = {}
        for contender in contenders:
            say(f"starting {contender.label}")
            try:
                worker = stack.enter_context(setup.start(contender))
                built = worker.ask("build", settings=setup.model_settings(contender, sizes))
                said[contender.label] = built | prepare(worker)
            except WorkerError as error:
                said[contender.label] = {"error": str(error)}
            else:
                workers[contender.label] = worker
        yield workers, said


def that_can(workers: dict[str, WorkerProcess], said: dict[str, dict[str, Any]], command: str) -> dict[str, WorkerProcess]:
    """Workers that manage one step of `command`; the error of the others is kept in what they said."""
    able = {}
    for label, worker in workers.items():
        try:
            worker.ask(command, steps=1)
        except WorkerError as error:
            said[label]["error"] = str(error)
        else:
            able[label] = worker
    return able


def timed(worker: WorkerProcess, command: str, amount: float, threads: int) -> Job:
    """A job that runs `command`; its rate is `amount` per step over seconds."""

    def run(steps: int) -> tuple[float, float]:
        return worker.ask(command, steps=steps, threads=threads)["seconds"], steps * amount

    return Job(run=run)
