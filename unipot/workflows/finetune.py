"""`unipot finetune`: thirty frames of a user's own and a trained model make a specialist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from unipot.models.potential import Potential
from unipot.reporting.console import report_console
from unipot.reporting.error_tables import forgetting_table
from unipot.structure import Structure
from unipot.training.module import TrainingModule
from unipot.workflows.construction.charge_states import admit_states, show_ignored_states
from unipot.workflows.construction.core_repulsion import admit_close_pairs
from unipot.workflows.construction.model import build_settings, dtype_named
from unipot.workflows.finetuning.distillation.method_choice import choose_teacher
from unipot.workflows.finetuning.distillation.plain import check_teacher
from unipot.workflows.finetuning.further_sets import own_datasets
from unipot.workflows.finetuning.inputs import open_everything, stores_of, with_light_steps
from unipot.workflows.finetuning.preparation import Plan, Ready, prepared
from unipot.workflows.finetuning.properties import (
    calibrate_properties,
    check_properties,
)
from unipot.workflows.finetuning.results import card_of, chosen_potential, model_name, show_results, write_summary
from unipot.workflows.finetuning.schema import (
    FinetuneConfig,
)
from unipot.workflows.finetuning.search.fold_models import FoldModels
from unipot.workflows.finetuning.search.plan import keep_start, plan_search
from unipot.workflows.finetuning.strategy import add_updates, check_strategy
from unipot.workflows.finetuning.training_module import training_module
from unipot.workflows.finetuning.uncertainty import add_uncertainty, check_uncertainty
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import evaluations_by_name, save_evaluations, user_evaluation_sets
from unipot.workflows.inputs.user_frames import UserFrames, budget_for, name_of
from unipot.workflows.runs import tables
from unipot.workflows.runs.export import export_artifact, golden_structures
from unipot.workflows.runs.finetune_run import EVALUATIONS
from unipot.workflows.runs.fit import FitResult, fit, is_main_process, set_up_process
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.runs.run_folder import RunFolder, open_run_folder
from unipot.workflows.settings.schema import (
    MixtureConfig,
)
from unipot.zoo.artifact import load_potential


def finetune(config: FinetuneConfig) -> FitResult:
    """Align, train, and report what was gained and what was forgotten.

    Raises:
        ValueError: anything in the configuration or the data that would make the run wrong or pointless.
        KeyError: a head does not exist.
        FileNotFoundError: a path is not there.
    """
    console = report_console(quiet=not is_main_process())
    build_settings(config.optimizer, config.schedule)  # refused before any work
    set_up_process(config.trainer, config.seed)
    config = replace(config, run=config.run or f"runs/finetune-{config.name or name_of(config.data)}")
    pretrained = load_potential(config.checkpoint, dtype=dtype_named(config.trainer.dtype))
    check_options(config, pretrained)
    run = open_run_folder(str(config.run), resume=config.resume, config=config)

    console.rule("frames")
    frames, replay, evaluation_sets = open_everything(config, pretrained, run, console)
    config = choose_teacher(with_light_steps(config, frames, replay, console), frames.dataset, run, console)
    search = plan_search(config, frames, pretrained, console)
    frames = search.frames if search else frames
    if not config.from_scratch:
        admit_states(console, pretrained, [*own_datasets(frames), *replay], frames.test)
        admit_close_pairs(console, pretrained, own_datasets(frames))
    budget = budget_for(stores_of(frames, replay, evaluation_sets), config.mixture, pretrained.cutoff, console)
    before = [y.measure(pretrained, "pretrained", budget) for y in evaluation_sets]

    targets = user_evaluation_sets(frames)
    plan = Plan(config=config, pretrained=pretrained, frames=frames, replay=replay, search=search, budget=budget, run=run)
    ready = prepared(plan, targets, console)
    golden = golden_structures(ready.datasets)
    result = train(ready, run, golden, console)
    if result.is_main:
        write_summary(run, ready.config, frames, ready.start, result)
        adapted = chosen_potential(run, config)
        final = [target.measure(adapted, model_name(config), budget) for target in targets]
        after = [y.measure(adapted, "fine-tuned", budget) for y in evaluation_sets]
        measured = evaluations_by_name(frames.dataset.spec.head, **ready.measured, final=final)
        save_evaluations(run.path / EVALUATIONS, {**measured, "before": before, "after": after})
        shown = [row for rows in ready.measured.values() for row in rows]
        show_results(console, run, [*shown, *final], forgetting_table(before, after))
        add_error_bars(config, run, frames, budget, golden, ready.folds, console)
    return result


def train(ready: Ready, run: RunFolder, golden: Sequence[Structure], console: Console) -> FitResult:
    """Train the start in place on the mixture, or keep it where the search found nothing better.

    Args:
        ready: everything that is decided.
        run: its folder.
        golden: structures that check the artifact on load.
        console: tables and progress go here.
    """
    config, start, datasets, searched = ready.config, ready.start, ready.datasets, ready.searched
    _, schedule = build_settings(config.optimizer, config.schedule)
    potential = start.potential
    data = mixture_data(
        datasets, ready.budget, config.trainer, cutoff=potential.cutoff, head_names=potential.head_names, n_steps=schedule.max_steps,
        seed=config.seed,
    )  # fmt: skip
    lora = add_updates(config.finetune, potential, seed=config.seed, console=console)
    module = training_module(config, start, datasets, run)
    tables.show_datasets(console, datasets, data.plan.shares(), data.plan.passes(schedule.max_steps))
    show_training(console, module, datasets)
    export = partial(export_artifact, card=card_of(config, run, datasets, start, lora, searched), golden=golden)
    if ready.keeps_start:
        return keep_start(potential, run, export)
    console.rule(f"training {schedule.max_steps} steps" + (f", continuing the run in {run.path}" if run.resume else ""))
    return fit(
        module, data, run=run, trainer=config.trainer, logger=config.logger, export=export, console=console, description="fine-tuning",
        dataset_weights={d.spec.name: 0.0 for d in datasets[ready.n_own :]}, validate_first=True,
    )  # fmt: skip


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
    tables.show_parameters(console, module.parameter_rows)
    tables.show_loss(console, module.loss)
    tables.show_dropped_posteriors(console, module.dropped_posteriors)


def add_error_bars(
    config: FinetuneConfig, run: RunFolder, frames: UserFrames, budget: MixtureConfig, golden: Sequence[Structure],
    folds: FoldModels | None, console: Console,
) -> None:
    """Intervals of properties, and error bars of every head of the user's; models of the folds are of the set at `data`."""
    calibrate_properties(list(config.properties), run.best, frames, budget, golden, console)
    add_uncertainty(config.uncertainty, run.best, frames.dataset, budget, golden, console, folds)
    for each in frames.further:
        add_uncertainty(config.uncertainty, run.best, each.dataset, budget, golden, console, further=True)
