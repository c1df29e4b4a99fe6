"""`unipot finetune`: thirty frames of a user's own and a trained model make a specialist."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from unipot.evaluation.records import Evaluation
from unipot.models.potential import Potential
from unipot.reporting.console import report_console
from unipot.reporting.error_tables import forgetting_table
from unipot.structure import Structure
from unipot.training.module import TrainingModule
from unipot.workflows.construction.admitted_states import show_ignored_states
from unipot.workflows.construction.model import build_settings, dtype_named
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.plain import check_teacher
from unipot.workflows.finetuning.inputs import begin
from unipot.workflows.finetuning.preparation import FinetuneState, align, distil, search
from unipot.workflows.finetuning.results import card_of, chosen_potential, model_name, show_results, write_summary
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.search.search_plan import keep_start
from unipot.workflows.finetuning.strategy import add_updates, check_strategy
from unipot.workflows.finetuning.training_module import training_module
from unipot.workflows.finetuning.uncertainty import add_uncertainty, check_uncertainty
from unipot.workflows.finetuning.user_properties import calibrate_properties, check_properties
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import evaluations_by_name, save_evaluations
from unipot.workflows.inputs.user_frames import name_of
from unipot.workflows.runs import run_tables
from unipot.workflows.runs.artifact_export import export_artifact, golden_structures
from unipot.workflows.runs.finetune_run import EVALUATIONS
from unipot.workflows.runs.fit import FitResult, fit, is_main_process, set_up_process
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.runs.run_folder import open_run_folder
from unipot.workflows.runs.session import run_session
from unipot.workflows.settings.compose import require_complete
from unipot.zoo.artifact import load_potential


@run_session()
def finetune(config: FinetuneConfig) -> FitResult:
    """Align, train, and report what was gained and what was forgotten.

    Raises:
        ValueError: anything in the configuration or the data that would make the run wrong or pointless.
        KeyError: a head does not exist.
        FileNotFoundError: a path is not there.
    """
    require_complete(config, "finetune")
    console, began = report_console(quiet=not is_main_process()), time.perf_counter()
    build_settings(config.optimizer, config.schedule)  # refused before any work
    set_up_process(config.trainer, config.seed)
    config = replace(config, run=config.run or f"runs/finetune-{config.name or name_of(config.data)}")
    pretrained = load_potential(config.checkpoint, dtype=dtype_named(config.trainer.dtype))
    check_options(config, pretrained)
    run = open_run_folder(str(config.run), resume=config.resume, config=config)

    console.rule("frames")
    context, state, known = begin(config, pretrained, run, console)
    before = [y.measure(pretrained, "pretrained", context.budget) for y in known]
    state = search(context, align(context, distil(context, state)))
    golden = golden_structures(state.datasets)
    result = train(context, state, golden)
    if result.is_main and state.settled is not None:
        adapted = chosen_potential(run, context.dtype)
        final = [target.measure(adapted, model_name(state.settled.config), context.budget) for target in state.targets]
        after = [y.measure(adapted, "fine-tuned", context.budget) for y in known]
        write_results(context, state, result, time.perf_counter() - began, {"final": final, "before": before, "after": after})
        add_error_bars(context, state, golden)
    return result


def train(context: FinetuneContext, state: FinetuneState, golden: Sequence[Structure]) -> FitResult:
    """Train the start in place on the mixture, or keep it where the search found nothing better.

    Args:
        context: of the run.
        state: after the last stage before the training.
        golden: structures that check the artifact on load.
    """
    assert state.start is not None and state.settled is not None
    start, datasets, console, run = state.start, state.datasets, context.console, context.run
    context = replace(context, config=state.settled.config)
    config, potential = context.config, start.potential
    _, schedule = build_settings(config.optimizer, config.schedule)
    data = mixture_data(datasets, context.budget, config.trainer, potential, n_steps=schedule.max_steps, seed=config.seed)
    lora = add_updates(config.finetune, potential, seed=config.seed, console=console)
    module = training_module(context, start, datasets)
    run_tables.show_datasets(console, datasets, data.plan.shares(), data.plan.passes(schedule.max_steps))
    show_training(console, module, datasets)
    export = partial(export_artifact, card=card_of(context, state.settled, state, lora), golden=golden)
    if state.keeps_start:
        return keep_start(potential, run, export)
    console.rule(f"training {schedule.max_steps} steps" + (f", continuing the run in {run.path}" if run.resume else ""))
    return fit(
        module,
        data,
        run=run,
        trainer=config.trainer,
        logger=config.logger,
        export=export,
        console=console,
        description="fine-tuning",
        dataset_weights={d.spec.name: 0.0 for d in datasets[state.n_own :]},
        validate_first=True,
    )


def check_options(config: FinetuneConfig, pretrained: Potential) -> None:
    """Refuse options that contradict each other or the checkpoint, before any work.

    Raises:
        ValueError: they do.
    """
    check_uncertainty(config.uncertainty)
    check_strategy(config.finetune, pretrained, from_scratch=config.from_scratch)
    check_properties(config.properties, pretrained, config.labels, compile=config.trainer.compile)
    check_teacher(config)


def show_training(console: Console, module: TrainingModule, datasets: Sequence[OpenDataset]) -> None:
    """What will learn, from what loss, and what is ignored or dropped."""
    show_ignored_states(console, module.potential.backbone, datasets)
    run_tables.show_parameters(console, module.parameter_rows)
    run_tables.show_loss(console, module.loss, datasets)
    run_tables.show_dropped_posteriors(console, module.dropped_posteriors)


def write_results(
    context: FinetuneContext, state: FinetuneState, result: FitResult, seconds: float, evaluations: dict[str, list[Evaluation]]
) -> None:
    """The summary, every evaluation as a file, and the tables of what was gained and what was forgotten."""
    run, measured = context.run, state.report.measured
    write_summary(context, state, result, seconds)
    files = evaluations_by_name(state.frames.dataset.spec.head, **measured, final=evaluations["final"])
    save_evaluations(run.path / EVALUATIONS, {**files, "before": evaluations["before"], "after": evaluations["after"]})
    shown = [row for rows in (*measured.values(), evaluations["final"]) for row in rows]
    show_results(context.console, run, shown, forgetting_table(evaluations["before"], evaluations["after"]))


def add_error_bars(context: FinetuneContext, state: FinetuneState, golden: Sequence[Structure]) -> None:
    """Intervals of properties, and error bars of every head of the user's; models of the folds are of the set at `data`."""
    config, best, budget, console = context.config, context.run.best, context.budget, context.console
    folds = None if state.settled is None else state.settled.folds
    calibrate_properties(list(config.properties), best, state.frames, budget, golden, console)
    add_uncertainty(config.uncertainty, best, state.frames.dataset, budget, golden, console, folds)
    for each in state.frames.further:
        add_uncertainty(config.uncertainty, best, each.dataset, budget, golden, console, further=True)
