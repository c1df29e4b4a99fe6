"""What happens between steps: logging, validation, choosing the best weights, saving the run state, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unipot.errors import InputError
from unipot.training.checkpoint import LAST, ORIGIN, keep_run_state
from unipot.training.distributed import sum_over_ranks
from unipot.training.metrics import MetricAccumulator, MetricTable, labelled_properties, scalars_of
from unipot.training.module import TrainingModule


def is_due(step: int, every: int, max_steps: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens after `step` steps."""
    return step % every == 0 or step == max_steps


class StepLog(Callback):
    """Writes the numbers of every `every`-th step to all loggers."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._time = time.perf_counter()
        self._n_atoms = 0

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._time, self._n_atoms = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._n_atoms += outputs["n_atoms"]
        step = trainer.global_step
        if trainer.is_global_zero and (is_due(step, self.every, trainer.max_steps) or step == 1):
            now = time.perf_counter()
            numbers = {name: value for name, value in outputs.items() if name != "n_atoms"}
            numbers["atoms_per_second"] = self._n_atoms * trainer.world_size / (now - self._time)
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step)
            self._time, self._n_atoms = now, 0


class CompilationLog(Callback):
    """Says what was compiled, how long it took, and when it is done again (which should not happen).

    Args:
        show: takes one sentence.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self._shown: tuple[int, str | None] = (0, None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        compiled = pl_module.compiled
        if compiled is None or (compiled.n_graphs, compiled.reason) == self._shown:
            return
        self._shown = (compiled.n_graphs, compiled.reason)
        if trainer.is_global_zero:
            self.show(compiled.sentence())


class Validation(Callback):
    """Evaluates the averaged weights every `every` steps and at the end, and keeps the best.

    Args:
        dataset_names: in the order of `AtomBatch.dataset_index`.
        every: steps.
        property: what chooses the best weights: a row of the table, `auto` (forces where any validation set has them,
            else energy_per_atom), or `balanced` (see `selection_value`).
        statistic: `mae` or `rmse`.
        dataset_weights: of the mean over datasets; 1 where not stated. Sets of weight 0 are measured, but choose
            nothing: where all are, there are no best weights.
        thresholds: see `MetricAccumulator`.
        on_best: called with the step when the number has fallen; the module has the averaged weights then.
        patience: stop training after so many validations in a row that are no new best, see `stopped`; None never
            stops.
        first: also evaluate before the first step, so that the best weights are never worse than those started from.
        show: called with step and table.

    Attributes:
        table: of the last validation.
        best: (step, number), or None before the first.
        n_without_gain: validations since the best; part of the state, so that a resumed run stops where it would have.
    """

    def __init__(
        self,
        *,
        dataset_names: Sequence[str],
        every: int,
        property: str = "auto",
        statistic: str = "mae",
        dataset_weights: Mapping[str, float] | None = None,
        thresholds: Mapping[str, float] | None = None,
        on_best: Callable[[int], None] | None = None,
        show: Callable[[int, MetricTable], None] | None = None,
        first: bool = False,
        patience: int | None = None,
    ) -> None:
        self.patience, self.n_without_gain = patience, 0
        self.dataset_names, self.every, self.first = tuple(dataset_names), every, first
        self.property, self.statistic = property, statistic
        self.dataset_weights = dict(dataset_weights or {})
        self.thresholds, self.on_best, self.show = thresholds, on_best, show
        self.table: MetricTable | None = None
        self.best: tuple[int, float] | None = None

    @property
    def stopped(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self.n_without_gain >= self.patience

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped  # a run that stopped early is not continued
        if self.first and trainer.global_step == 0:
            self.validate(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if is_due(trainer.global_step, self.every, trainer.max_steps):
            self.validate(trainer, pl_module)

    def validate(self, trainer: Trainer, module: TrainingModule) -> None:
        """Evaluate now, log, and call `on_best` if the number has fallen."""
        step = trainer.global_step
        with module.average.applied():
            self.table = self._evaluate(trainer, module)
            if not self.table.rows:
                return
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.log_metrics({f"validation/{key}": value for key, value in self.table.flat().items()}, step)
            if any(self.dataset_weights.get(row.dataset, 1.0) > 0 for row in self.table.rows):
                self._keep_if_best(trainer)
        if self.show is not None and trainer.is_global_zero:
            self.show(step, self.table)

    def _keep_if_best(self, trainer: Trainer) -> None:
        """Keep the weights if they are the best so far; not called where only sets of weight 0 are validated, which choose nothing."""
        assert self.table is not None
        step, number = trainer.global_step, selection_value(self.table, self.property, self.statistic, self.dataset_weights)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({"validation/selection": number}, step)
        if self.best is None or number < self.best[1]:
            self.best = (step, number)
            self.n_without_gain = 0
            if self.on_best is not None and trainer.is_global_zero:
                self.on_best(step)
        else:
            self.n_without_gain += 1
            trainer.should_stop = trainer.should_stop or self.stopped

    def _evaluate(self, trainer: Trainer, module: TrainingModule) -> MetricTable:
        properties = scalars_of(module.potential)
        accumulator = MetricAccumulator(self.dataset_names, self.thresholds, properties)
        module.potential.eval()
        for loader in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            for batch in loader:
                batch = batch.to(module.device)
                wanted = labelled_properties(batch, properties, frozen_atoms="include")
                accumulator.update(module.potential(batch, properties=wanted), batch)
        module.potential.train()
        sums = sum_over_ranks(accumulator.sums.to(module.device))
        accumulator.sums.copy_(sums)
        return accumulator.compute()

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best) if self.best is not None else [], "n_without_gain": self.n_without_gain}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = (int(best[0]), float(best[1])) if best else None
        self.n_without_gain = int(state_dict.get("n_without_gain", 0))  # run states of before had none


def selection_value(table: MetricTable, property: str, statistic: str, dataset_weights: Mapping[str, float]) -> float:
    """The number that chooses the best weights.

    For a property it is the weighted mean of one statistic over the datasets that have it. `balanced` is the weighted
    geometric mean over datasets of their energy_per_atom and force errors: the same relative gain counts alike for a
    set of relaxed crystals and one of hot molecules, where a plain mean would follow the largest forces alone. Scalar
    properties, each in a unit of its own, enter `auto` and `balanced` likewise: the number is then the geometric mean
    of theirs and of what it is without them. Datasets of weight 0 are not looked at, so that `auto` never takes a
    property that only they have.

    Raises:
        ValueError: no dataset has the property.
    """
    table = MetricTable(rows=[row for row in table.rows if dataset_weights.get(row.dataset, 1.0) > 0], units=table.units)
    if property in ("auto", "balanced") and table.scalars:
        rest = MetricTable(rows=[row for row in table.rows if row.property not in table.scalars])
        parts = [selection_value(table, name, statistic, dataset_weights) for name in table.scalars]
        parts += [selection_value(rest, property, statistic, dataset_weights)] if rest.rows else []
        return math.exp(sum(math.log(max(part, 1e-12)) for part in parts) / len(parts))
    values = {
        name: {row.dataset: getattr(row, statistic) for row in table.rows if row.property == name and row.element is None}
        for name in (("forces", "energy_per_atom", "stress") if property in ("auto", "balanced") else (property,))
    }
    if property == "balanced" and (values["forces"] or values["energy_per_atom"]):
        terms = [
            (dataset_weights.get(name, 1.0), math.log(max(value, 1e-12)))
            for of_dataset in (values["forces"], values["energy_per_atom"])
            for name, value in of_dataset.items()
        ]
        return math.exp(sum(weight * term for weight, term in terms) / (sum(weight for weight, _ in terms) or 1.0))
    chosen = next((of_dataset for of_dataset in values.values() if of_dataset), None)
    if chosen is None:
        raise InputError(f"trainer.selection.property is {property!r}, but no validation set is labelled with it; choose another, or auto")
    weights = {name: dataset_weights.get(name, 1.0) for name in chosen}
    total = sum(weights.values()) or 1.0
    return sum(weights[name] * value for name, value in chosen.items()) / total


class RunState(Callback):
    """Saves the run state every `every` steps and at the end, after validation.

    Args:
        folder: of the run.
        every: steps.
        origin: what the run was made from; part of the state.
        on_saved: called with the step when its state is in place.
    """

    def __init__(
        self, folder: Path, every: int, origin: Mapping[str, Any] | None = None, on_saved: Callable[[int], None] | None = None
    ) -> None:
        self.folder, self.every, self.origin, self.on_saved = folder, every, origin, on_saved

    def on_save_checkpoint(self, trainer: Trainer, pl_module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        if self.origin is not None:
            checkpoint[ORIGIN] = dict(self.origin)

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not (is_due(trainer.global_step, self.every, trainer.max_steps) or trainer.should_stop):
            return
        temporary = (self.folder / LAST).with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            keep_run_state(temporary, self.folder)
        if self.on_saved is not None:
            self.on_saved(trainer.global_step)


class StepProgress(Callback):
    """A progress bar over optimizer steps; where there is no terminal, a line every tenth of the run."""

    def __init__(self, console: Console, description: str = "training") -> None:
        self.console, self.description = console, description
        self._progress: Progress | None = None
        self._task: Any = None
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        self._started = time.perf_counter()
        if self.console.is_terminal:
            bar = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
            self._progress = Progress(TextColumn("{task.description}"), *bar, console=self.console)
            self._task = self._progress.add_task(self.description, total=trainer.max_steps, completed=trainer.global_step, numbers="")
            self._progress.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        step, total = trainer.global_step, trainer.max_steps
        numbers = "  ".join(f"{name.removeprefix('train/')} {value:.4f}" for name, value in outputs.items() if name.endswith("loss"))
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=numbers)
        elif is_due(step, max(1, total // 10), total):
            seconds = time.perf_counter() - self._started
            self.console.print(f"{self.description}: step {step}/{total}  {numbers}  {seconds:.0f} s", highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._stop_progress()

    def on_exception(self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException) -> None:
        self._stop_progress()

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
