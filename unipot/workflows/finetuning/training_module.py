"""The training module of a fine-tuning: what learns, from which loss, with which optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from unipot.training.metrics import MetricTable
from unipot.training.module import TrainingModule
from unipot.training.optim import ParameterPolicy, build_policy
from unipot.workflows.construction.model import build_settings
from unipot.workflows.finetuning.alignment import Adaptation
from unipot.workflows.finetuning.properties import loss_with_properties
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.strategy import add_updates, strategy_policy
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.fit import fit_in_memory, in_memory
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import MixtureConfig

#: makes a training module of a configuration, an aligned model and `datasets`
Build = Callable[..., TrainingModule]


def training_module(config: FinetuneConfig, start: Adaptation, datasets: Sequence[OpenDataset], run: RunFolder) -> TrainingModule:
    """The same training module as in pretraining, with the rules of the chosen strategy."""
    potential = start.potential
    settings, schedule = build_settings(config.optimizer, config.schedule)
    return TrainingModule(
        potential.train(),
        loss=loss_with_properties(config.loss, config.properties, potential, datasets, seed=config.seed),
        policy=policy_for(config, start, datasets),
        optimizer=settings,
        schedule=schedule,
        diagnostics=run.path / "diagnostics",
        compiled=config.trainer.compile,
    )


def trial_module(config: FinetuneConfig, start: Adaptation, *, datasets: Sequence[OpenDataset], run: RunFolder) -> TrainingModule:
    """A training module for a trial of small-data mode, low-rank updates included."""
    add_updates(config.finetune, start.potential, seed=config.seed, console=Console(quiet=True))
    return training_module(config, start, datasets, run)


def train_in_memory(
    config: FinetuneConfig, start: Adaptation, datasets: Sequence[OpenDataset], budget: MixtureConfig, build: Build
) -> MetricTable | None:
    """Train the potential of `start` in place for the steps of the schedule, without a run folder; it ends with the averaged weights.

    Args:
        config: what is trained, and how.
        start: the aligned model.
        datasets: weighted.
        budget: of a batch.
        build: makes the training module of `config`, `start` and `datasets`.

    Returns:
        Errors on the held-out structures at the end; None without any.

    Raises:
        NonFiniteError: a loss or gradient was not finite.
    """
    trainer, steps, potential = in_memory(config.trainer), config.schedule.max_steps, start.potential
    data = mixture_data(
        datasets, budget, trainer, cutoff=potential.cutoff, head_names=potential.head_names, n_steps=steps, seed=config.seed
    )
    module = build(replace(config, trainer=trainer), start, datasets=datasets)
    looks = fit_in_memory(module, data, trainer, every=steps)
    module.average.swap()  # for good
    return looks[-1][1] if looks else None


def policy_for(config: FinetuneConfig, start: Adaptation, datasets: Sequence[OpenDataset]) -> ParameterPolicy:
    """Heads of the mixture learn, other heads are frozen, the backbone as the strategy says; all learns from scratch."""
    if config.from_scratch:
        return build_policy(start.potential)
    heads = list(dict.fromkeys(d.spec.head for d in datasets if d.spec.labels))
    return strategy_policy(
        config.finetune, start.potential, heads=heads, new_elements=start.all_new_elements, properties=tuple(config.properties)
    )
