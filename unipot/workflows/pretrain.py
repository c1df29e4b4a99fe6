"""`unipot pretrain`: one model, with one head per level of theory, from a mixture of datasets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from unipot.models.potential import Potential
from unipot.reporting.console import report_console
from unipot.training.module import TrainingModule
from unipot.workflows.construction.admitted_states import show_ignored_states
from unipot.workflows.construction.continued import continued_potential
from unipot.workflows.construction.model import (
    HeadStatistics,
    build_loss,
    build_parameter_policy,
    build_potential,
    build_settings,
    dtype_named,
    head_statistics,
)
from unipot.workflows.construction.repulsion_reach import show_core_repulsion
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.inputs.leakage import show_leakage
from unipot.workflows.runs import run_tables
from unipot.workflows.runs.artifact_export import export_artifact, golden_structures, references_of, training_card, write_references
from unipot.workflows.runs.card_sample import sample_facts
from unipot.workflows.runs.fit import FitResult, fit, is_main_process, set_up_process
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.runs.run_folder import RunFolder, open_run_folder
from unipot.workflows.runs.session import run_session
from unipot.workflows.settings.compose import require_complete
from unipot.workflows.settings.schema import PretrainConfig


@run_session()
def pretrain(config: PretrainConfig) -> FitResult:
    """Train from the configuration alone; what is decided on the way is printed before the first step.

    Raises:
        ValueError: anything in the configuration or the data that would make the run wrong or pointless.
        FileNotFoundError: a path is not there.
    """
    require_complete(config, "pretrain")
    console = report_console(quiet=not is_main_process())
    settings, schedule = build_settings(config.optimizer, config.schedule)
    set_up_process(config.trainer, config.seed)
    run = open_run_folder(config.run, resume=config.resume, config=config)

    console.rule("datasets")
    cache = run.cache(config.cache)
    datasets = open_datasets(config.datasets, cache=cache, seed=config.seed, console=console, local_cache=config.trainer.local_cache)
    run.claim(datasets)
    statistics = head_statistics(datasets, config.heads, cache=cache, console=console)
    potential = first_potential(config, datasets, statistics, console)
    data = mixture_data(datasets, config.mixture, config.trainer, potential, n_steps=schedule.max_steps, seed=config.seed)
    run_tables.show_datasets(console, datasets, data.plan.shares(), data.plan.passes(schedule.max_steps))
    if is_main_process():
        show_leakage(console, datasets)
    show_ignored_states(console, potential.backbone, datasets)
    run_tables.show_heads(console, statistics)
    show_core_repulsion(console, potential)
    write_references(run.references, statistics)

    names, labels = [d.spec.name for d in datasets], [tuple(d.store.metadata["label_counts"]) for d in datasets]
    loss = build_loss(config.loss, names, scales_of(datasets, statistics), labels)
    module = TrainingModule(
        potential,
        loss=loss,
        policy=build_parameter_policy(potential, config.optimizer),
        optimizer=settings,
        schedule=schedule,
        diagnostics=run.path / "diagnostics",
        compiled=config.trainer.compile,
    )
    run_tables.show_parameters(console, module.parameter_rows)
    run_tables.show_loss(console, loss, datasets)

    console.rule(f"training {schedule.max_steps} steps" + (f", continuing the run in {run.path}" if run.resume else ""))
    golden = golden_structures(datasets) if config.sample_structures else []
    card = {**training_card("pretrain", run.path.name, config, datasets), "references": references_of(statistics)}
    card |= sample_facts(datasets, config.sample_structures, config.sample_differences)
    export = partial(export_artifact, card=card, golden=golden)
    result = fit(
        module,
        data,
        run=run,
        trainer=config.trainer,
        logger=config.logger,
        dataset_weights=config.loss.dataset_weights,
        export=export,
        console=console,
        description="pretraining",
    )
    report(console, run, result)
    return result


def first_potential(
    config: PretrainConfig, datasets: Sequence[OpenDataset], statistics: Sequence[HeadStatistics], console: Console
) -> Potential:
    """Random weights, or those of `start_from`."""
    if config.start_from is None:
        return build_potential(config.backbone, config.heads, datasets, statistics, dtype_named(config.trainer.dtype))
    return continued_potential(config.start_from, config.heads, datasets, statistics, config.trainer.dtype, console)


def scales_of(datasets: Sequence[OpenDataset], statistics: Sequence[HeadStatistics]) -> list[float]:
    """Per dataset the scale of its head, eV."""
    by_head = {item.head: item.scale for item in statistics}
    return [by_head[d.spec.head] for d in datasets]


def report(console: Console, run: RunFolder, result: FitResult) -> None:
    """The last validation and where everything is."""
    if not result.is_main:
        return
    console.rule("done")
    if result.table is not None:
        run_tables.show_metrics(console, result.table, f"last validation (step {result.step})")
    if result.best is not None:
        console.print(f"best validation: {result.best[1]:.5g} at step {result.best[0]}", highlight=False)
    for path in (run.best, run.last, run.metrics):
        if path.exists():
            console.print(f"  {path}", highlight=False)
    console.print(f"{result.seconds:.0f} s", highlight=False)
