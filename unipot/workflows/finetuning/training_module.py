"""The training module of a fine-tuning: what learns, from which loss, with which optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console

from unipot.training.metrics import MetricTable
from unipot.training.module import TrainingModule
from unipot.training.optim import ParameterPolicy, build_policy
from unipot.workflows.construction.model import build_settings
from unipot.workflows.finetuning.alignment import Start
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.schema import StrategyConfig
from unipot.workflows.finetuning.strategy import add_updates, strategy_policy
from unipot.workflows.finetuning.user_properties import loss_with_properties
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.fit import fit_in_memory, in_memory
from unipot.workflows.runs.mixture_data import mixture_data


def training_module(context: FinetuneContext, start: Start, datasets: Sequence[OpenDataset]) -> TrainingModule:
    """The same training module as in pretraining, with the rules of the chosen strategy; trains the potential of `start` in place."""
    config, potential = context.config, start.potential
    settings, schedule = build_settings(config.optimizer, config.schedule)
    policy = build_policy(potential) if config.from_scratch else fine_tuning_policy(config.finetune, start, datasets, config.properties)
    return TrainingModule(
        potential.train(),
        loss=loss_with_properties(config.loss, config.properties, potential, datasets, seed=config.seed),
        policy=policy,
        optimizer=settings,
        schedule=schedule,
        diagnostics=context.run.path / "diagnostics",
        compiled=config.trainer.compile,
    )


def trial_module(context: FinetuneContext, start: Start, datasets: Sequence[OpenDataset]) -> TrainingModule:
    """`training_module` for a training that leaves no run of its own: low-rank updates are added, nothing is said."""
    add_updates(context.config.finetune, start.potential, seed=context.config.seed, console=Console(quiet=True))
    return training_module(context, start, datasets)


def train_in_memory(context: FinetuneContext, start: Start, datasets: Sequence[OpenDataset]) -> MetricTable | None:
    """Train the potential of `start` in place for the steps of the schedule, without a run folder; it ends with the averaged weights.

    Args:
        context: what is trained, how, and in which batches.
        start: the aligned model.
        datasets: weighted.

    Returns:
        Errors on the held-out structures at the end; None without any.

    Raises:
        NonFiniteError: a loss or gradient was not finite.
    """
    config = context.config
    trainer, steps = in_memory(config.trainer), config.schedule.max_steps
    data = mixture_data(datasets, context.budget, trainer, start.potential, n_steps=steps, seed=config.seed)
    module = trial_module(replace(context, config=replace(config, trainer=trainer)), start, datasets)
    looks = fit_in_memory(module, data, trainer, every=steps)
    module.average.swap()  # for good
    return looks[-1][1] if looks else None


def fine_tuning_policy(
    strategy: StrategyConfig, start: Start, datasets: Sequence[OpenDataset], properties: Iterable[str]
) -> ParameterPolicy:
    """Heads of the mixture learn, other heads are frozen, the backbone as the strategy says."""
    heads = list(dict.fromkeys(d.spec.head for d in datasets if d.spec.labels))
    new = start.adaptation.all_new_elements
    return strategy_policy(strategy, start.potential, heads=heads, new_elements=new, properties=tuple(properties))
