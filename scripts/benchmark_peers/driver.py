"""The driver's side: worker processes, and timing them in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


class WorkerError(RuntimeError):
    """A worker reported an error or died; the text is what it said."""


class WorkerProcess:
    """A worker in another interpreter; use it as a context manager.

    Args:
        python: interpreter of the environment that has the package.
        script: file name of the worker.
        log: file that takes what the worker and its libraries print.
        threads: of each numerical library in the worker.
        own: whether the worker imports this checkout; None: the script's name tells.
    """

    def __init__(self, python: str, script: str, *, log: Path, threads: int, own: bool | None = None) -> None:
        self._log = log.open("a")
        libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(libraries, str(threads))
        own = script == "unipot_worker.py" if own is None else own
        environment["PYTHONPATH"] = str(REPOSITORY) if own else ""
        self._process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            WorkerError: the worker answered with an error, or is gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command} | arguments) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the worker ended during {command!r} with exit code {self._process.wait()}; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Ask the worker to end, and wait."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write('{"command": "quit"}\n')
                self._process.stdin.close()
                self._process.wait(timeout=30)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._log.close()


@dataclass(kw_only=True)
class Job:
    """Something that is timed in turns with others: `run(steps)` returns seconds and how much was done."""

    run: Callable[[int], tuple[float, float]]
    steps: int = 1
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Median rate with the extremes, and the seconds of one step."""
        return {
            "median": statistics.median(self.rates),
            "lowest": min(self.rates),
            "highest": max(self.rates),
            "step_seconds": statistics.median(self.seconds),
            "steps_per_round": self.steps,
            "rounds": len(self.rates),
        }


def measure_in_turns(jobs: dict[Any, Job], *, rounds: int, slice_seconds: float) -> dict[Any, dict[str, Any]]:
    """A B C, A B C, …: after warm-up, `rounds` times about `slice_seconds` of each.

    Interleaving makes every contender see the same drift of the machine, so that ratios hold where rates do not.
    """
    for job in jobs.values():
        job.run(1)  # just-in-time compilers and allocators settle here
        job.run(1)
        seconds, _ = job.run(1)
        job.steps = max(1, min(50, round(slice_seconds / seconds)))
    for _ in range(rounds):
        for job in jobs.values():
            seconds, done = job.run(job.steps)
            job.seconds.append(seconds / job.steps)
            job.rates.append(done / seconds)
    return {name: job.summary() for name, job in jobs.items()}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
