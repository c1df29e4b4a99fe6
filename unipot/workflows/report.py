"""`unipot report`: one HTML page out of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unipot.errors import InputError
from unipot.evaluation.records import Evaluation
from unipot.reporting.canvas import colour_of
from unipot.reporting.console import report_console
from unipot.reporting.curves import METRICS_FILE, Curve, energy_curves, force_curves, loss_curve, read_curves
from unipot.reporting.error_tables import error_table, forgetting_table, full_table, property_table
from unipot.reporting.html import Figure, Section, write_report
from unipot.reporting.plots import curve_figure, element_error_figure, parity_figure
from unipot.reporting.tables import ReportTable
from unipot.workflows.runs.finetune_run import FinetuneRun, read_evaluations, read_finetune_run
from unipot.workflows.runs.run_facts import distillation_in_words, facts_table, frames_figure


@dataclass(kw_only=True)
class ReportConfig:
    """`unipot report`: `pretrain_run` and `finetune_runs` are run folders, `evaluations` are folders written by `unipot evaluate`."""

    output: str = "report.html"
    title: str = "unipot report"
    subtitle: str = ""
    pretrain_run: str | None = None
    finetune_runs: list[str] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)


def report(config: ReportConfig) -> Path:
    """Write the page, print its comparison tables and say where it is.

    Raises:
        ValueError: no run is given.
        FileNotFoundError: a folder is not that of a run.
    """
    if not (config.pretrain_run or config.finetune_runs or config.evaluations):
        raise InputError("unipot report needs at least one of pretrain_run=<run>, finetune_runs=[<run>,...], evaluations=[<folder>,...]")
    runs = [read_finetune_run(path) for path in config.finetune_runs]
    evaluations = [e for folder in config.evaluations for e in read_evaluations(folder)]
    sections = [
        *facts_sections(runs),
        *comparison_sections(runs),
        *alignment_sections(runs),
        *small_data_sections(runs),
        *curve_sections(runs),
        *forgetting_sections(runs),
        *pretraining_sections(config.pretrain_run),
        *evaluation_sections(evaluations),
    ]
    path = write_report(config.output, config.title, config.subtitle, sections)
    console = report_console()
    for table in (comparison_table(runs), *(forgetting_table(run.before, run.after) for run in runs)):
        if table is not None:
            console.print(table.to_rich())
    print(f"report: {path}")
    return path


def models_of(runs: Sequence[FinetuneRun]) -> list[Evaluation]:
    """Every model on the user's frames: zero-shot once, then the result of each run, all under names of their own."""
    found: dict[tuple[str, str], Evaluation] = {}
    for run in runs:
        if run.zero_shot is not None:
            found.setdefault((run.zero_shot.dataset, run.zero_shot.model), run.zero_shot)
        if run.final is not None:
            name = name_of_run(run, runs)
            found[run.final.dataset, name] = replace(run.final, model=name)
    return list(found.values())


def name_of_run(run: FinetuneRun, runs: Sequence[FinetuneRun]) -> str:
    """How tables and legends call the result of `run`: with its folder where another run would have the same name."""
    name = str(run.summary["model"])
    return name if sum(other.summary["model"] == name for other in runs) == 1 else f"{name}, {run.folder.name}"


def comparison_table(runs: Sequence[FinetuneRun]) -> ReportTable | None:
    """Zero-shot, fine-tuned and from scratch on the user's test frames; None when there is nothing to compare."""
    evaluations = models_of(runs)
    return error_table(evaluations, "Errors on the user's test frames") if evaluations else None


def colours_of(runs: Sequence[FinetuneRun]) -> dict[str, str]:
    """Model -> its colour, the same in every figure of the page."""
    names = dict.fromkeys([*(e.model for e in models_of(runs)), *(name_of_run(run, runs) for run in runs)])
    return {name: colour_of(number) for number, name in enumerate(names)}


def facts_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """What was learned from what, before any number; and pictures of the frames."""
    if not runs:
        return []
    pictures = {run.summary["dataset"]: image for run in runs if (image := frames_figure(run)) is not None}
    figures = [Figure(caption=f"Frames of {name}.", image=image) for name, image in pictures.items()]
    table = facts_table(runs, [name_of_run(run, runs) for run in runs])
    return [Section(title="What was learned, and from what", text=[_in_words(run) for run in runs], tables=[table], figures=figures)]


def comparison_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """The headline: numbers, parity plot and error per element of every model."""
    table = comparison_table(runs)
    if table is None:
        return []
    models = models_of(runs)
    points = [p for e in models for p in e.parity()]
    per_element = {e.model: e.force_mae_per_element() for e in models if e.force_mae_per_element()}
    figures, colours = [], colours_of(runs)
    if points:
        caption = "Labels and predictions on the test frames; the line is equality."
        figures.append(Figure(caption=caption, image=parity_figure(points, colours=colours)))
    if per_element:
        image = element_error_figure(per_element, colours=colours)
        figures.append(Figure(caption="Force error by element on the test frames.", image=image))
    scalars = property_table(models, "Properties of the user's test frames")
    tables = [table, *([scalars] if scalars.rows else [])]
    return [Section(title="What fine-tuning gained", tables=tables, figures=figures)]


def alignment_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """Which parent head was chosen, and the composition shift."""
    text = (
        "Every head of the pretrained model is scored on the training frames after one energy shift per element; the best by "
        "forces and energies together becomes the parent. The new head is a copy of it: before the first step its forces are "
        "the parent's, and its energies are the parent's plus the shifts below."
    )
    return [
        Section(title=f"Alignment: {run.summary['name']}", text=[text, *run.warnings], tables=run.alignment)
        for run in runs
        if run.alignment is not None
    ]


def small_data_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """What was tried on held-out frames before the training, and what was chosen."""
    return [
        Section(title=f"Small-data mode: {run.summary['name']}", text=run.small_data[1], tables=[run.small_data[0]])
        for run in runs
        if run.small_data is not None
    ]


def curve_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """Validation errors and training loss of the fine-tuning runs, one curve per run."""
    forces: dict[str, Curve] = {}
    energies: dict[str, Curve] = {}
    losses: dict[str, Curve] = {}
    for run in runs:
        if not (run.folder / METRICS_FILE).exists():
            continue
        curves, name = read_curves(run.folder), name_of_run(run, runs)
        for store, found in ((forces, force_curves(curves)), (energies, energy_curves(curves))):
            if run.summary["dataset"] in found:
                store[name] = found[run.summary["dataset"]]
        loss = loss_curve(curves)
        if loss is not None:
            losses[name] = loss
    panels = {"held-out force MAE, meV/Å": forces, "held-out energy MAE, meV/atom": energies, "training loss": losses}
    if not any(panels.values()):
        return []
    caption = "Held-out frames with averaged weights; step 0 is the model before training."
    image = curve_figure(panels, colours=colours_of(runs))
    return [Section(title="Learning curves of fine-tuning", figures=[Figure(caption=caption, image=image)])]


def forgetting_sections(runs: Sequence[FinetuneRun]) -> list[Section]:
    """What the model forgot of its pretraining."""
    found = [(run, forgetting_table(run.before, run.after)) for run in runs]
    text = "The heads of the pretraining sets are kept in the fine-tuned model; their error grows as the shared backbone moves."
    return [
        Section(title=f"Forgetting: {run.summary['name']}", text=[text], tables=[table]) for run, table in found if table is not None
    ]


def pretraining_sections(folder: str | None) -> list[Section]:
    """Learning curves of the pretraining run and its last validation errors."""
    if folder is None:
        return []
    curves = read_curves(folder)
    forces, energies, loss = force_curves(curves), energy_curves(curves), loss_curve(curves)
    names = list(dict.fromkeys([*forces, *energies]))
    last = lambda found, name: float(found[name][1][-1]) if name in found else None  # noqa: E731
    rows = tuple((name, last(energies, name), last(forces, name)) for name in names)
    table = ReportTable(
        title="Validation errors at the end of pretraining", columns=("dataset", "energy MAE meV/atom", "force MAE meV/Å"), rows=rows
    )
    panels = {"validation force MAE, meV/Å": forces, "validation energy MAE, meV/atom": energies}
    panels["training loss"] = {} if loss is None else {"all datasets": loss}
    caption = "Held-out structures of each dataset, averaged weights."
    figures = [Figure(caption=caption, image=curve_figure(panels))] if any(panels.values()) else []
    return [Section(title="Pretraining", tables=[table] if rows else [], figures=figures)]


def evaluation_sections(evaluations: Sequence[Evaluation]) -> list[Section]:
    """One section per evaluated dataset, with every element."""
    caption = "Labels and predictions; the line is equality."
    return [
        Section(
            title=f"Evaluation: {e.model} on {e.dataset}",
            tables=[full_table(e)],
            figures=[Figure(caption=caption, image=parity_figure(e.parity()))] if e.parity() else [],
        )
        for e in evaluations
    ]


def _in_words(run: FinetuneRun) -> str:
    s = run.summary
    held_out = f", {s['n_validation']} of them held out to choose the best weights" if s["n_validation"] else ""
    start = "random weights" if s["from_scratch"] else f"a copy of head {s['parent']!r}" if s["parent"] else "the checkpoint as it is"
    steps = f"{s['n_steps']} steps from {start} ({s['method']}); best at step {s['best_step']}"
    before = distillation_in_words(s.get("distillation", {}))
    return f"{s['model']}: {f'first {before}; then ' if before else ''}{s['n_frames']} frames{held_out}; {steps}."
