"""`unipot study learning-curve`: how error falls with frames, for strategies and seeds, on one target or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from unipot.errors import InputError
from unipot.reporting.console import report_console
from unipot.reporting.html import Figure, Section, write_report
from unipot.reporting.learning_curve_page import (
    error_bar_table,
    error_curve_table,
    learning_curve_figure,
    median_table,
    run_table,
    short_table,
)
from unipot.reporting.learning_curves import RunResult, learning_curves, median_factors
from unipot.reporting.tables import ReportTable
from unipot.workflows.runs.provenance import today, versions
from unipot.workflows.runs.run_folder import write_json, write_whole
from unipot.workflows.settings.compose import require_complete
from unipot.workflows.studies.config import StudyConfig, strategies_of, targets_of
from unipot.workflows.studies.runs import LOG_FILE, ModelIdentity, PlannedRun, execute, make_room, plan_runs
from unipot.workflows.studies.targets import Target, open_target
from unipot.zoo.artifact import load_artifact

_METHOD = """Frames include those that choose the best weights. Errors are of the best weights on the test sets; step-0 is the aligned model
before training, parent the pretrained head after one energy shift per element. Data efficiency: frames that the reference needs for the
same force MAE (mean over seeds), divided by the frames used; log error is linear in log frames between the reference's points, whose
errors are first made monotone (the smallest with at most that many frames). Nothing is extrapolated: `>` where even the reference's most
frames are worse, `<` where its fewest are better already."""


def study(config: StudyConfig) -> list[RunResult]:
    """Run what is not finished, and keep `study.json`, `study.md` and `study.png` up to date all along.

    Returns:
        Results of all runs that were tried, failed ones included.

    Raises:
        ValueError: anything in the configuration or the data that would make the study wrong; at the end, runs that failed.
        FileNotFoundError: a path is not there.
    """
    require_complete(config, "study")
    console = report_console()
    strategies, configured = strategies_of(config), targets_of(config)
    model = ModelIdentity.of(load_artifact(config.checkpoint).card)
    Path(config.output).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(config.output) / "study.lock", timeout=0):
            console.rule("targets")
            targets = [open_target(name, target, config, console) for name, target in configured.items()]
            runs = plan_runs(config, targets, strategies, model)
            show_plan(console, config, targets, runs)
            results = finished(runs)
            if not config.analyse_only:
                run_all(config, targets, runs, results, console)
            tables = write_study(config, targets, runs, results)
    except Timeout as error:
        raise InputError(f"another study runs in output={config.output}; wait for it, or choose another folder") from error
    for table in tables:
        console.print(table.to_rich())
    console.print(f"tables, figures and runs: {config.output}", highlight=False, markup=False, soft_wrap=True)
    refuse_failures(config, runs, results)
    return list(results.values())


def finished(runs: Sequence[PlannedRun]) -> dict[str, RunResult]:
    """Name -> result of the runs that are there with the present settings, failed ones included."""
    return {run.name: result for run in runs if (result := run.result()) is not None}


def run_all(
    config: StudyConfig, targets: Sequence[Target], runs: Sequence[PlannedRun], results: dict[str, RunResult], console: Console
) -> None:
    """Run what has no good result; `results` and the files grow with each."""
    waiting = [run for run in runs if run.name not in results or results[run.name].failure]
    for run in waiting:
        results.pop(run.name, None)
        aside = make_room(run)
        if aside is not None:
            console.print(f"  {run.name}: settings changed, the old run is kept as {aside.name}", highlight=False, markup=False)
    for number, (run, result) in enumerate(execute(waiting, config.jobs, config.threads), start=1):
        results[run.name] = result
        write_study(config, targets, runs, results)
        said = f"failed, {result.failure.partition(':')[0]}; log: {run.folder / LOG_FILE}" if result.failure else f"{result.seconds:.0f} s"
        console.print(f"  {number}/{len(waiting)} {run.name}: {said}", highlight=False, markup=False, soft_wrap=True)


def write_study(
    config: StudyConfig, targets: Sequence[Target], runs: Sequence[PlannedRun], results: Mapping[str, RunResult]
) -> list[ReportTable]:
    """`study.json`, `study.md`, `study.html` and `study.png` of the results so far; returns the tables that fit a console."""
    output, ordered = Path(config.output), [results[run.name] for run in in_order_of_tables(runs) if run.name in results]
    points = learning_curves(ordered, config.reference or "")
    medians = median_factors(points, {target.name: next(iter(target.tests)) for target in targets})
    median = [median_table(medians, str(config.reference))] if medians else []
    tables = [error_curve_table(points)] if points else []
    bars = [error_bar_table(points)] if any(point.error_bars for point in points) else []
    tables += [*median, *bars, *([run_table(ordered)] if ordered else [])]
    failed = [result for result in ordered if result.failure]
    content = {
        "settings": asdict(config),
        "versions": versions(),
        "targets": {target.name: target.to_dict(config.max_test_frames) for target in targets},
        "runs": {"planned": len(runs), "finished": len(ordered) - len(failed), "failed": len(failed)},
        "results": [result.to_dict() for result in ordered],
        "curves": [point.to_dict() for point in points],
        "medians": [{"strategy": s, "n_frames": n, **median.to_dict()} for (s, n), median in medians.items()],
    }
    write_json(output / "study.json", content)
    write_whole(output / "study.md", page_of(content["runs"], tables, failed))
    if points:
        figure = learning_curve_figure(points)
        write_whole(output / "study.png", figure)
        write_study_page(output / "study.html", content["runs"], tables, figure)
    return [short_table(points), *median] if points else []


def write_study_page(path: Path, counts: Mapping[str, int], tables: Sequence[ReportTable], figure: bytes) -> None:
    """`study.html`: the curves first, then every table, then how it was measured."""
    state = f"{counts['finished']} of {counts['planned']} runs are finished, {counts['failed']} failed."
    made = ", ".join(f"{name} {value}" for name, value in versions().items())
    caption = "Force error against frames, one line per strategy; the shade is the spread over seeds."
    sections = [
        Section(title="Learning curves", text=[state], figures=[Figure(caption=caption, image=figure)]),
        *(Section(title=table.title, tables=[table]) for table in tables),
        Section(title="How it was measured", text=[" ".join(_METHOD.split())]),
    ]
    write_report(path, "unipot study", f"{today()}, {made}", sections)


def page_of(counts: Mapping[str, int], tables: Sequence[ReportTable], failed: Sequence[RunResult]) -> str:
    """`study.md`."""
    state = f"{counts['finished']} of {counts['planned']} runs are finished, {counts['failed']} failed."
    parts = ["# Learning curves", state, _METHOD, "![learning curves](study.png)" if tables else ""]
    parts += [f"## {table.title}\n\n{table.to_markdown()}" for table in tables]
    if failed:
        parts += ["## Failed runs"]
        parts += [f"{r.target}, {r.strategy}, {r.n_frames} frames, seed {r.seed}:\n\n```\n{r.failure}\n```" for r in failed]
    return "\n\n".join(part for part in parts if part) + "\n"


def show_plan(console: Console, config: StudyConfig, targets: Sequence[Target], runs: Sequence[PlannedRun]) -> None:
    """What is going to be run, and which numbers of frames a target does not have."""
    for target in targets:
        largest = max(n for n in _numbers_of_frames(config))
        said = f", all of them in place of more, up to {largest}" if largest > len(target.store) else ""
        tests = ", ".join(f"{name} {min(len(store), config.max_test_frames)}" for name, store in target.tests.items())
        console.print(f"  {target.name}: {len(target.store)} frames{said}; test frames: {tests}", highlight=False, markup=False)
    console.print(f"  {len(runs)} runs in all", highlight=False)


def refuse_failures(config: StudyConfig, runs: Sequence[PlannedRun], results: Mapping[str, RunResult]) -> None:
    """One sentence with the runs that failed.

    Raises:
        ValueError: there is one.
    """
    failed = [run.name for run in runs if run.name in results and results[run.name].failure]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; their last lines are in {config.output}/study.md; the same "
            "command tries them again"
        )


def _numbers_of_frames(config: StudyConfig) -> list[int]:
    return [n for strategy in strategies_of(config).values() for n in strategy.frames or []]


def in_order_of_tables(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """By target and strategy as configured, then by frames and seed."""
    targets, strategies = ({getattr(run, key): None for run in runs} for key in ("target", "strategy"))
    order = {name: rank for rank, name in enumerate(targets)}, {name: rank for rank, name in enumerate(strategies)}
    return sorted(runs, key=lambda run: (order[0][run.target], order[1][run.strategy], run.n_frames, run.seed))
