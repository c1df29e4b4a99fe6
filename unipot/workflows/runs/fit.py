"""The one way to train: used by pretraining and fine-tuning alike."""

from __future__ import annotations

import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from rich.console import Console

from unipot.data.mixture.datamodule import MixtureDataModule
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.training.callbacks import CompilationLog, RunState, StepLog, StepProgress, Validation
from unipot.training.distributed import ReplicatedStrategy, check_strategy, is_main_process
from unipot.training.interruption import Interrupted, StopAtStep, watching_signals
from unipot.training.lost_processes import naming_lost_processes
from unipot.training.metrics import REPORTED, MetricTable
from unipot.training.metrics_log import MetricsCsv
from unipot.training.module import TrainingModule
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.runs.wandb_log import wandb_loggers
from unipot.workflows.settings.schema import LoggerConfig, SelectionConfig, TrainerConfig

#: how an artifact is written: path, potential with the weights to save, step, table of the last validation or None
Export = Callable[[Path, Potential, int, MetricTable | None], None]

#: what `torch.set_float32_matmul_precision` takes
MATMUL_PRECISIONS = ("highest", "high", "medium")


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What came out.

    Attributes:
        table: last validation, None without validation data.
        best: (step, number) of the best validation, or None.
        step: optimizer steps done.
        seconds: wall time of this call.
        is_main: whether this process is rank 0, the one that reports.
        run: the run folder, with `best.safetensors` and `last.safetensors`.
    """

    table: MetricTable | None
    best: tuple[int, float] | None
    step: int
    seconds: float
    is_main: bool
    run: Path | None = None

    def __repr__(self) -> str:
        parts = [f"{self.step} steps", *([f"best {self.best[1]:.4g} at step {self.best[0]}"] if self.best else [])]
        parts += [f"{self.seconds:.0f} s", *([f"run {str(self.run)!r}"] if self.run else [])]
        errors = self.table.in_words() if self.table else ""
        return f"FitResult({', '.join(parts)}{'; last validation: ' if errors else ''}{errors})"


def fit(
    module: TrainingModule,
    data: MixtureDataModule,
    *,
    run: RunFolder,
    trainer: TrainerConfig,
    logger: LoggerConfig,
    dataset_weights: Mapping[str, float],
    export: Export,
    console: Console,
    description: str = "training",
    validate_first: bool = False,
) -> FitResult:
    """Train until the last step of the schedule, continuing from the run state if the folder has one.

    Writes `metrics.csv`, `checkpoints/last.ckpt`, `best.safetensors` (if there is validation data) and
    `last.safetensors`, both with averaged weights. With `validate_first` the weights before the first step are
    candidates for the best ones. A signal (see `unipot.training.interruption`) ends the training after the step.

    Raises:
        Interrupted: a signal has ended it; the run state is saved.
        LostProcessError: a process that loads data, or another rank, has died.
        NonFiniteError: a loss or gradient was not finite.
        ValueError: a trainer option is not allowed.
    """
    started = time.perf_counter()
    check_selection(trainer.selection, data)
    checkpoint_activations(module.potential, trainer.activation_checkpointing)
    names = [spec.name for spec in data.specs]
    validation = _validation(module, trainer, names, dataset_weights, run, export, console, validate_first)
    steps_before, log = run.step if run.resume else None, _log_of(run)
    with watching_signals() as watch, _quiet_lightning():
        callbacks = [*([validation] if data.validation_sets() else []), *_callbacks(trainer, console, description), StopAtStep(watch)]
        callbacks += [RunState(run.path, trainer.checkpoint_every, run.origin and run.origin.to_dict(), on_saved=run.saved)]
        lightning_trainer = _trainer(trainer, [log, *wandb_loggers(logger, run, console)], callbacks, module.schedule.max_steps)
        with naming_lost_processes():
            lightning_trainer.fit(module, datamodule=data, ckpt_path=str(run.resume_from) if run.resume else None, weights_only=True)
        if watch.requested is not None:
            raise Interrupted(watch.requested)
    _say_if_stopped(console, validation, lightning_trainer.global_step)
    nothing_new = steps_before == lightning_trainer.global_step and run.last.exists()
    if lightning_trainer.is_global_zero and not nothing_new:
        with module.average.applied():
            export(run.last, module.potential, lightning_trainer.global_step, validation.table)
    return FitResult(
        table=validation.table,
        best=validation.best,
        step=lightning_trainer.global_step,
        seconds=time.perf_counter() - started,
        is_main=lightning_trainer.is_global_zero,
        run=run.path,
    )


def in_memory(trainer: TrainerConfig) -> TrainerConfig:
    """`trainer` for `fit_in_memory`: nothing compiled for so short a time, no other processes, no early stopping."""
    return replace(trainer, compile=False, workers=0, prefetch_factor=None, patience=None)


def fit_in_memory(module: TrainingModule, data: MixtureDataModule, trainer: TrainerConfig, *, every: int) -> list[tuple[int, MetricTable]]:
    """Train until the last step of the schedule without a run folder: no file is written, nothing is printed, nothing resumed.

    Args:
        module: trained in place, exactly as `fit` does.
        data: training and held-out structures.
        trainer: hardware.
        every: steps between validations of the averaged weights; the last step has one too.

    Returns:
        (step, errors) of every validation.

    Raises:
        NonFiniteError: a loss or gradient was not finite.
    """
    looks: list[tuple[int, MetricTable]] = []
    names = [spec.name for spec in data.specs]
    validation = Validation(dataset_names=names, every=every, show=lambda step, table: looks.append((step, table)))
    with _quiet_lightning(), naming_lost_processes():
        _trainer(trainer, [], [validation], module.schedule.max_steps).fit(module, datamodule=data)
    return looks


def _say_if_stopped(console: Console, validation: Validation, step: int) -> None:
    if validation.stopped and validation.best is not None:
        waited = f"the held-out error has not fallen for {validation.patience} validations"
        console.print(f"stopped at step {step}: {waited}; best at step {validation.best[0]}", highlight=False)


def _log_of(run: RunFolder) -> MetricsCsv:
    """`metrics.csv` up to the step that the run begins at; weights that a run killed before its first state has left are forgotten too."""
    log = MetricsCsv(run.metrics)
    if is_main_process():
        log.keep_until(run.step if run.resume and run.step is not None else -1)
        for weights in () if run.resume else (run.best, run.last):
            weights.unlink(missing_ok=True)
    return log


def _callbacks(trainer: TrainerConfig, console: Console, description: str) -> list[Callback]:
    """What is logged and shown."""
    compilation = [CompilationLog(lambda sentence: console.print(f"  {sentence}", highlight=False))] if trainer.compile else []
    progress = [StepProgress(console, description)] if trainer.progress else []
    return [*compilation, StepLog(trainer.log_every), *progress]


def set_up_process(trainer: TrainerConfig, seed: int) -> None:
    """Check the trainer section, set the number of threads and seed every generator.

    Raises:
        ValueError: an option is not allowed.
    """
    check_strategy(trainer.strategy)
    for name in ("devices", "num_nodes", "validate_every", "checkpoint_every", "log_every"):
        if getattr(trainer, name) < 1:
            raise InputError(f"trainer.{name} is {getattr(trainer, name)}; it must be at least 1")
    if trainer.threads is not None and trainer.threads < 1:
        raise InputError(f"trainer.threads is {trainer.threads}; it must be at least 1, or null for what torch chooses")
    if trainer.patience is not None and trainer.patience < 1:
        raise InputError(f"trainer.patience is {trainer.patience}; it must be at least 1, or null for no early stopping")
    if trainer.accelerator not in ("cpu", "gpu", "auto"):
        raise InputError(f"trainer.accelerator is {trainer.accelerator!r}; use one of: cpu, gpu, auto")
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator is gpu, but torch finds no GPU; use trainer=cpu")
    if trainer.compile and trainer.activation_checkpointing:
        raise InputError("trainer.compile and trainer.activation_checkpointing exclude each other: a compiled graph keeps what it computes")
    if trainer.matmul_precision not in MATMUL_PRECISIONS:
        raise InputError(f"trainer.matmul_precision is {trainer.matmul_precision!r}; use one of: {', '.join(MATMUL_PRECISIONS)}")
    torch.set_float32_matmul_precision(trainer.matmul_precision)
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def checkpoint_activations(potential: Potential, wanted: bool) -> None:
    """Let layers keep their inputs instead of their activations, or not; nothing that is saved depends on it.

    Raises:
        ValueError: the backbone cannot.
    """
    backbone = potential.backbone
    if hasattr(backbone, "activation_checkpointing"):
        backbone.activation_checkpointing = wanted
    elif wanted:
        raise InputError(
            f"trainer.activation_checkpointing is true, but backbone {backbone.name!r} cannot recompute its layers; "
            "set it to false, or use backbone=native-small"
        )


def check_selection(selection: SelectionConfig, data: MixtureDataModule) -> None:
    """Refuse now what would fail at the first validation.

    Raises:
        ValueError: property or statistic is unknown, or no validation set is labelled with the property.
    """
    scalars = {name for store in data.validation_stores for name in store.scalars}
    allowed = ("auto", "balanced", *(name for name in REPORTED if name != "energy_and_forces"), *sorted(scalars))
    for name, value, options in (("property", selection.property, allowed), ("statistic", selection.statistic, ("mae", "rmse"))):
        if value not in options:
            raise InputError(f"trainer.selection.{name} is {value!r}; use one of: {', '.join(options)}")
    if selection.property in ("auto", "balanced") or not data.validation_sets():
        return
    label = "energy" if selection.property.startswith("energy") else selection.property
    held_out = [store for store, indices in zip(data.validation_stores, data.validation_indices, strict=True) if len(indices)]
    if not any(store.metadata["label_counts"].get(label) or store.scalars.get(label, {}).get("n") for store in held_out):
        raise InputError(f"trainer.selection.property is {selection.property!r}, but no validation set has {label}; use auto")


def _validation(
    module: TrainingModule,
    trainer: TrainerConfig,
    names: Sequence[str],
    dataset_weights: Mapping[str, float],
    run: RunFolder,
    export: Export,
    console: Console,
    first: bool,
) -> Validation:
    def on_best(step: int) -> None:
        export(run.best, module.potential, step, validation.table)

    def show(step: int, table: MetricTable) -> None:
        flat = table.flat()
        parts = []
        for name in names:
            shown = [(f"{name}/energy_per_atom/mae", 1000, "meV/atom"), (f"{name}/forces/mae", 1000, "meV/A")]
            numbers = [f"{factor * flat[key]:.1f} {unit}" for key, factor, unit in shown if key in flat]
            scalars = [(prop, f"{name}/{prop}/mae") for prop in table.scalars]
            numbers += [f"{prop} {flat[key]:.4g} {table.units[prop]}" for prop, key in scalars if key in flat]
            parts.append(f"{name} {' '.join(numbers)}")
        best = " (best so far)" if validation.best and validation.best[0] == step else ""
        console.print(f"  validation at step {step}: {'; '.join(parts)}{best}", highlight=False)

    validation = Validation(
        dataset_names=names,
        every=trainer.validate_every,
        property=trainer.selection.property,
        statistic=trainer.selection.statistic,
        dataset_weights=dataset_weights,
        thresholds=trainer.thresholds,
        on_best=on_best,
        show=show,
        first=first,
        patience=trainer.patience,
    )
    return validation


def _trainer(config: TrainerConfig, loggers: list[Logger], callbacks: list, max_steps: int) -> Trainer:
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=ReplicatedStrategy() if config.in_several_processes else "auto",
        plugins=_cluster(),
        default_root_dir=os.devnull,  # on SLURM Lightning would take a checkpoint that it finds there, of whatever run, for ours
        deterministic=config.deterministic,
        max_steps=max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        log_every_n_steps=config.log_every,
    )


def _cluster() -> list[SLURMEnvironment]:
    """On SLURM its environment without Lightning's own answer to signals, which writes checkpoints into the current directory."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() else []


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's banners off, and its advice that does not apply: steps are whole items, so workers are our choice."""
    logger = logging.getLogger("lightning.pytorch")
    level, deterministic = logger.level, torch.are_deterministic_algorithms_enabled()
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval.*")
            warnings.filterwarnings("ignore", message=".*`val_dataloader` but have no `validation_step`.*")  # the callback validates
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # the data module is: it starts at a step
            warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic)
