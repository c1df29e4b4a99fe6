"""The process of one run of a study: `unipot finetune`, then errors on every test set, before and after.

The command line starts it (`unipot study-run <settings>`) and hands itself over, so that this part knows no command.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from unipot.data.store import Store
from unipot.evaluation.records import Evaluation
from unipot.finetune.alignment.readout_fit import SHIFT
from unipot.models.potential import Potential
from unipot.reporting.console import report_console
from unipot.reporting.learning_curves import Errors, RunResult
from unipot.workflows.construction.model import dtype_named
from unipot.workflows.finetuning.alignment import Start, starting_point
from unipot.workflows.finetuning.distillation.delta_learning import is_corrected
from unipot.workflows.finetuning.inputs import begin
from unipot.workflows.finetuning.preparation import align, distil
from unipot.workflows.finetuning.schema import NONE, FinetuneConfig
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.inputs.user_frames import budget_for
from unipot.workflows.runs.error_bars import judge_error_bars
from unipot.workflows.runs.finetune_run import read_finetune_run
from unipot.workflows.runs.run_folder import RunFolder, write_json
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import MixtureConfig
from unipot.workflows.studies.runs import RESULT_FILE
from unipot.zoo.artifact import load_potential

#: what is kept of an evaluation
_KEPT = {"energy_per_atom": ("mae", "rmse"), "forces": ("mae", "rmse"), "stress": ("mae", "rmse")}


def work(settings_file: Path, run_command: Callable[[Sequence[str]], int]) -> int:
    """Do the run described in `settings_file` and write its result beside it.

    Args:
        settings_file: written by `unipot.workflows.studies.runs`.
        run_command: runs a command line of unipot and returns its exit code.

    Returns:
        0, or the exit code of `unipot finetune` where that failed; 2 where another process is at the same run.
    """
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    try:
        with FileLock(settings_file.with_suffix(".lock"), timeout=0):
            began = time.perf_counter()
            code = run_command(["finetune", *settings["words"]])
            if code == 0:
                write_json(settings_file.parent / RESULT_FILE, measured(settings, seconds=time.perf_counter() - began).to_dict())
            return code
    except Timeout:
        print(f"unipot: error: another process works in {settings_file.parent}; wait for it, or end it", file=sys.stderr)
        return 2


def measured(settings: dict[str, Any], *, seconds: float) -> RunResult:
    """Errors of a finished run on its test sets, and what `unipot finetune` recorded of it.

    Args:
        settings: of the run.
        seconds: that the whole command took, with search and distillation; where a run was continued, since then.
    """
    config: FinetuneConfig = load_config("finetune", FinetuneConfig, settings["words"])
    folder, console = Path(settings["folder"]), report_console()
    recorded = read_finetune_run(folder)
    head = recorded.summary["head"]
    tests = [_test_set(name, path, head, settings["max_test_frames"]) for name, path in settings["tests"].items()]
    adapted = load_potential(folder / "best.safetensors", dtype=dtype_named(config.trainer.dtype))
    budget = budget_for([test.store for test in tests], config.mixture, adapted.cutoff, console)
    start, parent = ({}, {}) if config.from_scratch else _errors_before(config, folder, tests, budget, console)
    return RunResult(
        **{key: settings[key] for key in ("target", "strategy", "n_frames", "seed", "stamp")},
        errors=_errors(adapted, tests, budget),
        start=start,
        parent=parent,
        error_bars=_error_bars(adapted, tests, budget),
        forgetting=forgetting_rows(recorded.before, recorded.after),
        seconds=round(seconds, 1),
        n_steps=recorded.summary["n_steps"],
        best_step=recorded.summary["best_step"],
    )


def forgetting_rows(before: Sequence[Evaluation], after: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """MAE of every pretraining set and property before and after, with the ratio; sets without both are left out."""
    later, rows = {e.dataset: e for e in after}, []
    for first in before:
        for property in _KEPT:
            old, new = (e.get(property, "mae") if e else None for e in (first, later.get(first.dataset)))
            if old and new is not None:
                own = {"dataset": first.dataset, "head": first.head, "property": property}
                rows.append({**own, "before": old, "after": new, "ratio": new / old})
    return rows


def _errors_before(
    config: FinetuneConfig, folder: Path, tests: Sequence[EvaluationSet], budget: MixtureConfig, console: Console
) -> tuple[Errors, Errors]:
    """Errors of the aligned model before the first step, and of the pretrained parent head with the composition shift alone.

    The two differ where a layer was solved for, and after a distillation. The alignment is closed-form and
    seeded, so doing it again gives what the run started from.
    """
    start = _aligned(config, folder, console)
    errors = _errors(start.potential, tests, budget)
    alignment, distilled = start.adaptation.alignment, start.adaptation.teacher
    if alignment is None or (alignment.readout.chosen == SHIFT and not distilled):
        return errors, errors
    plain = replace(config, alignment=SHIFT, teacher=replace(config.teacher, method=NONE))
    plain = plain if distilled else replace(plain, parent_head=alignment.parent)
    return errors, _errors(_aligned(plain, folder, console).potential, tests, budget)


def _aligned(config: FinetuneConfig, folder: Path, console: Console) -> Start:
    """What the run in `folder` started from, by the stages of the run; what it kept is not made again."""
    pretrained, run = load_potential(config.checkpoint, dtype=dtype_named(config.trainer.dtype)), RunFolder(folder, resume=True)
    context, state, _ = begin(config, pretrained, run, console)
    if is_corrected(context.config, state.frames, state.replay):  # the frames are aligned to before the teacher's labels are learned
        return starting_point(context, pretrained, state.frames)
    start = align(context, distil(context, state)).start
    assert start is not None
    return start


def _test_set(name: str, path: str, head: str, most: int) -> EvaluationSet:
    store = Store(path)
    chosen = spread(len(store), most)
    return EvaluationSet(name=name, head=head, store=store, indices=chosen)


def _errors(potential: Potential, tests: Sequence[EvaluationSet], budget: MixtureConfig) -> Errors:
    found: Errors = {}
    for test in tests:
        evaluation = test.measure(potential.eval(), "study", budget)
        numbers = {p: {s: evaluation.get(p, s) for s in statistics} for p, statistics in _KEPT.items()}
        found[test.name] = {p: own for p, own in numbers.items() if None not in own.values()}  # type: ignore[misc]
    return found


def _error_bars(potential: Potential, tests: Sequence[EvaluationSet], budget: MixtureConfig) -> Errors:
    found: Errors = {}
    for test in tests:
        quality = judge_error_bars(potential, test, budget, len(test.indices), Console(quiet=True))
        shares = {
            q.property: {"coverage": q.coverage, "spearman": q.spearman, "width": q.interval_width / 2, "mae": q.mae} for q in quality
        }
        found[test.name] = {p: {s: v for s, v in own.items() if v is not None} for p, own in shares.items()}
    return found

