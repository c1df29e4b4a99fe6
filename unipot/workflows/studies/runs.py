"""Runs of a study: which there are, which are finished, and how the others are run in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipot.errors import InputError
from unipot.reporting.learning_curves import RunResult
from unipot.workflows.runs.run_folder import write_json
from unipot.workflows.studies.config import StudyConfig, StudyStrategyConfig
from unipot.workflows.studies.targets import Target, frames_of

SETTINGS_FILE, RESULT_FILE, LOG_FILE = "study_run.json", "result.json", "log.txt"
#: the process that does one run: arguments of Python before the settings file
WORKER = ("-m", "unipot.cli", "study-run")
#: of the log, kept with a failed run
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run.

    Attributes:
        target, strategy, n_frames, seed: which one.
        folder: of the run, made by `unipot finetune`.
        words: its command line.
        tests: name -> path of the store of test frames.
        max_test_frames: of each.
        stamp: hash of everything that the result depends on: model, frames, settings; not of where they lie.
    """

    target: str
    strategy: str
    n_frames: int
    seed: int
    folder: Path
    words: list[str]
    tests: dict[str, str]
    max_test_frames: int
    stamp: str

    @property
    def name(self) -> str:
        return f"{self.target}/{self.strategy}/{self.folder.name}"

    def settings(self) -> dict[str, Any]:
        """JSON-able, for the process of the run."""
        return {**vars(self), "folder": str(self.folder)}

    def result(self) -> RunResult | None:
        """What the run left, or None where it has not been run with these settings."""
        path = self.folder / RESULT_FILE
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        return RunResult(**content) if content.get("stamp") == self.stamp else None

    def failed(self, failure: str) -> RunResult:
        """The result of a run without one."""
        return RunResult(
            target=self.target, strategy=self.strategy, n_frames=self.n_frames, seed=self.seed, stamp=self.stamp, failure=failure
        )


@dataclass(frozen=True)
class ModelIdentity:
    """What of the checkpoint a result depends on.

    Attributes:
        weights: hash of all of them.
        description: of backbone, core repulsion and precision, all that random weights are made by.
    """

    weights: str
    description: dict[str, Any]

    @staticmethod
    def of(card: Mapping[str, Any]) -> ModelIdentity:
        """From the card of an artifact."""
        potential = card["potential"]
        return ModelIdentity(card["sha256"], {key: potential[key] for key in ("backbone", "core_repulsion", "dtype")})

    def matters_to(self, strategy: StudyStrategyConfig) -> str | dict[str, Any]:
        """From scratch the weights do not: another checkpoint of the same size repeats no such run."""
        return self.description if "from_scratch=true" in strategy.overrides else self.weights


def plan_runs(
    config: StudyConfig, targets: Sequence[Target], strategies: Mapping[str, StudyStrategyConfig], model: ModelIdentity
) -> list[PlannedRun]:
    """Every run, first seeds first, so that an interrupted study has whole curves."""
    runs = [
        (rank, _planned(config, target, label, strategy, n_frames, seed, model))
        for target in targets
        for label, strategy in strategies.items()
        for n_frames in frames_of(strategy.frames or [], len(target.store))
        for rank, seed in enumerate(strategy.seeds or [])
    ]
    return [run for _, run in sorted(runs, key=lambda entry: entry[0])]


def execute(runs: Sequence[PlannedRun], jobs: int, threads: int) -> Iterator[tuple[PlannedRun, RunResult]]:
    """Run what is not finished, `jobs` processes side by side, and give each result as soon as it is there.

    A run that fails is a result too. When the study is interrupted, its processes are ended.

    Args:
        runs: to be run.
        jobs: processes.
        threads: of each.
    """
    processes: list[subprocess.Popen[bytes]] = []
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        waiting = {pool.submit(_run_in_process, run, threads, processes): run for run in runs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if process.poll() is None:
                process.terminate()
        pool.shutdown(wait=True)


def make_room(run: PlannedRun) -> Path | None:
    """Set the folder of a run with other settings aside.

    Returns:
        Where it is now; None where there was nothing to do.

    Raises:
        ValueError: the folder is not that of a study.
    """
    if not run.folder.exists() or not any(run.folder.iterdir()):
        return None
    settings = run.folder / SETTINGS_FILE
    if not settings.is_file():
        raise InputError(f"{run.folder} was not made by this study ({SETTINGS_FILE} is missing); choose another output folder")
    if json.loads(settings.read_text(encoding="utf-8"))["stamp"] == run.stamp:
        return None
    number = 1
    while (aside := run.folder.with_name(f"{run.folder.name}.replaced-{number}")).exists():
        number += 1
    return run.folder.rename(aside)


def _planned(
    config: StudyConfig, target: Target, label: str, strategy: StudyStrategyConfig, n_frames: int, seed: int, model: ModelIdentity
) -> PlannedRun:
    folder = Path(config.output) / target.name / label / f"n{n_frames}-seed{seed}"
    labels = [] if target.labels is None else [f"labels=[{','.join(target.labels)}]"]
    chosen = [f"name={target.name}", f"n_train={n_frames}", f"seed={seed}", *labels, *config.overrides, *strategy.words()]
    places = [f"checkpoint={config.checkpoint}", f"data={target.store.path}", f"run={folder}"]
    what = {
        "checkpoint": model.matters_to(strategy),
        "frames": target.hashes(),
        "max_test_frames": config.max_test_frames,
        "settings": chosen,
    }
    return PlannedRun(
        target=target.name,
        strategy=label,
        n_frames=n_frames,
        seed=seed,
        folder=folder,
        words=[*places, "trainer.progress=false", f"trainer.threads={config.threads}", *chosen],
        tests={name: str(store.path) for name, store in target.tests.items()},
        max_test_frames=config.max_test_frames,
        stamp=hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16],
    )


def _run_in_process(run: PlannedRun, threads: int, processes: list[subprocess.Popen[bytes]]) -> RunResult:
    (run.folder / RESULT_FILE).unlink(missing_ok=True)  # of an attempt that failed
    write_json(run.folder / SETTINGS_FILE, run.settings())
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, *WORKER, str(run.folder / SETTINGS_FILE)]
    with (run.folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        processes.append(process)
        code = process.wait()
    result = run.result()
    if result is None:
        result = run.failed(f"exit code {code}: {_last_lines(run.folder / LOG_FILE)}")
        write_json(run.folder / RESULT_FILE, result.to_dict())
    return result


def _last_lines(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return "\n".join(deque((line.rstrip() for line in file if line.strip()), maxlen=_LAST_LINES))
