"""Small-data mode of `unipot finetune`: what is searched, on which frames, and how the result is kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from unipot.data.store import Store
from unipot.errors import InputError
from unipot.finetune.search.halving import (
    SMALLEST_SEARCH,
    Choice,
    Rung,
    Trial,
    choose,
    lengthen,
    make_folds,
    plan_longer,
    plan_rungs,
    search,
)
from unipot.finetune.uncertainty.calibrated_posterior import NONE
from unipot.models.potential import Potential
from unipot.reporting.tables import ReportTable, small_data_table
from unipot.structure import Structure
from unipot.training.checkpoint import random_state, restore_random_state
from unipot.workflows.construction.model import build_settings
from unipot.workflows.finetuning.alignment import Start
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.schema import FinetuneConfig, SearchedConfig
from unipot.workflows.finetuning.search.fold_models import FoldModels, forget_trials, start_models, trial_models
from unipot.workflows.finetuning.search.trials import Fold, TrialRunner
from unipot.workflows.finetuning.strategy import check_strategy
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.user_frames import UserFrames
from unipot.workflows.runs.finetune_run import SMALL_DATA_FILE
from unipot.workflows.runs.fit import Export, FitResult
from unipot.workflows.runs.run_folder import RunFolder, read_json, write_json
from unipot.workflows.settings.compose import checked_config

MODES = ("auto", "on", "off")
FROM_SCRATCH_MODES = ("auto", "never")
#: of these, what no search would change
_NOT_SEARCHED = ("validation_fraction", "mixture")


@dataclass(frozen=True, kw_only=True)
class SmallDataPlan:
    """What will be searched.

    Attributes:
        frames: as they are trained on in the end; nothing is held out where the folds decide.
        folds: parts to be held out one after the other.
        candidates: name -> configuration; the same settings appear once.
        rungs: rounds of trials.
        longer: rounds after them, in which the winner is trained for more steps; none where the user stated how many.
        budget: training steps of all trials together, at most.
        by_folds: whether the final training holds nothing out, so that its number of steps comes from the folds.
        look_at_length: whether the number of steps is searched too.
    """

    frames: UserFrames
    folds: tuple[Fold, ...]
    candidates: dict[str, FinetuneConfig]
    rungs: tuple[Rung, ...]
    longer: tuple[Rung, ...]
    budget: int
    by_folds: bool
    look_at_length: bool


@dataclass(frozen=True, kw_only=True)
class SmallDataReport:
    """What was tried and chosen; JSON-able, for the card, the run folder and `unipot report`."""

    trials: tuple[Trial, ...]
    choice: Choice
    stated: tuple[str, ...]
    n_frames: int
    n_folds: int
    budget: int

    @property
    def keeps_start(self) -> bool:
        """Whether nothing is trained: no candidate was better than the start, and the user did not say how many steps to take."""
        return self.choice.candidate is None and not {"schedule", "schedule.max_steps"} & set(self.stated)

    def table(self) -> ReportTable:
        return small_data_table(self.trials, self.choice, n_folds=self.n_folds)

    def sentences(self) -> list[str]:
        """What was chosen, the cost, and what the user had fixed."""
        steps = sum(trial.steps for trial in self.trials)
        seconds = sum(trial.seconds for trial in self.trials)
        chosen = f"small-data mode chose {self.choice.candidate or 'the aligned start'}: {self.choice.reason}"
        if self.choice.candidate is None and not self.keeps_start:
            chosen += "; the stated number of steps is trained all the same"
        said = [
            chosen,
            f"{len(self.trials)} trials, {steps} of at most {self.budget} steps, {seconds:.0f} s",
        ]
        return said + ([f"stated by you, so not searched: {', '.join(self.stated)}"] if self.stated else [])

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "table": self.table().to_dict(), "sentences": self.sentences()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SmallDataReport:
        """Inverse of `to_dict`, also after JSON."""
        numbers = {name: content[name] for name in ("n_frames", "n_folds", "budget")}
        trials = tuple(Trial.from_dict(trial) for trial in content["trials"])
        return cls(trials=trials, choice=Choice(**content["choice"]), stated=tuple(content["stated"]), **numbers)


def plan_search(
    config: FinetuneConfig, frames: UserFrames, potential: Potential, console: Console
) -> SmallDataPlan | None:
    """Whether and what to search; None trains as configured, and what stands against a search is said.

    Raises:
        ValueError: an option of `small_data` is not allowed, or a candidate is not a set of options.
    """
    options = config.small_data
    if not frames.dataset.spec.labels or not _is_on(config, frames.n_frames, console):
        return None
    candidates = candidate_configs(config)
    for name, own in candidates.items():
        _naming_candidate(name, lambda own=own: check_strategy(own.finetune, potential, from_scratch=config.from_scratch))
    pooled = _pool(frames) if _holds_nothing_out(config, frames.n_frames) else frames
    folds = _folds(pooled.dataset, options.folds, config.seed)
    if not folds:
        few = frames.n_frames < SMALLEST_SEARCH
        why = f"{frames.n_frames} frames are too few to hold any out" if few else "all frames are identical or of one group"
        console.print(f"small-data mode: {why}, so nothing is searched and the options are taken as they are", style="yellow")
        return None
    by_folds = not len(pooled.dataset.validation_indices)
    try:
        plan = planned(config, pooled, folds, candidates, by_folds)
    except ValueError as error:
        if options.mode == "on":
            raise
        console.print(f"small-data mode searches nothing: {error}", style="yellow", highlight=False)
        return None
    held = f"{len(folds)} folds; the final training holds nothing out" if by_folds else "the held-out frames"
    console.print(f"small-data mode: {frames.n_frames} frames; {len(candidates)} candidates are compared on {held}", highlight=False)
    return plan


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a search decided.

    Attributes:
        config: to train with; that of the run where nothing was searched.
        searched: what was tried and chosen; None likewise.
        folds: models of the folds, where the final training holds nothing out and error bars are to be calibrated.
    """

    config: FinetuneConfig
    searched: SmallDataReport | None = None
    folds: FoldModels | None = None


def settle(
    context: FinetuneContext, plan: SmallDataPlan | None, start: Start, datasets: Sequence[OpenDataset], fresh: Start | None = None
) -> Settled:
    """Search what `plan` says, or take the settings of the run without one.

    Trials that a killed search has finished are not repeated, and a run that is continued keeps its choice.

    Args:
        context: of the run; its folder keeps trials and result.
        plan: what to search.
        start: the aligned model; not changed.
        datasets: the user's first, then replay.
        fresh: random weights, for a candidate that starts from them.

    Raises:
        ValueError: the budget is too small, or held-out errors are not finite.
    """
    config, run = context.config, context.run
    if plan is None:
        return Settled(config=config)
    file = run.path / SMALL_DATA_FILE
    keeps = plan.by_folds and config.uncertainty != NONE
    runner = TrialRunner(context, plan.candidates, plan.folds, start, datasets, fresh=fresh, keeps_weights=keeps)
    if run.resume and file.is_file():
        report = SmallDataReport.from_dict(read_json(file))
    else:
        report = _searched(config.stated, plan, runner)
        write_json(file, report.to_dict())
    context.console.print(report.table().to_rich())
    for sentence in report.sentences():
        context.console.print(sentence, highlight=False, markup=False)
    return Settled(config=_settled_config(config, plan, report.choice), searched=report, folds=_fold_models(runner, plan, report, run))


def keep_start(potential: Potential, run: RunFolder, export: Export) -> FitResult:
    """The aligned start as the result of the run, no step trained."""
    began = time.perf_counter()
    for path in (run.best, run.last):
        export(path, potential, 0, None)
    return FitResult(table=None, best=None, step=0, seconds=time.perf_counter() - began, is_main=True, run=run.path)


def candidate_configs(config: FinetuneConfig) -> dict[str, FinetuneConfig]:
    """Name -> `config` with the options of the candidate, but for those that the user stated; duplicates appear once.

    Raises:
        ValueError: there is none, an option is unknown or has the wrong type, or is not of `optimizer` and `finetune`.
    """
    given = {name: changes for name, changes in config.small_data.candidates.items() if changes is not None}
    if not given:
        raise InputError("small_data.candidates is empty; give one, for example small_data.candidates.mine={}, or set small_data=off")
    found: dict[str, FinetuneConfig] = {}
    for name, changes in given.items():
        parts = _naming_candidate(name, lambda changes=changes: _with_changes(config, changes))
        _naming_candidate(name, lambda parts=parts: build_settings(parts.optimizer, config.schedule))
        own = replace(config, optimizer=parts.optimizer, finetune=parts.finetune)
        if own not in found.values():
            found[name] = own
    return found


def is_stated(key: str, config: FinetuneConfig) -> bool:
    """Whether the user chose `key`: by name, by its group (but a rate is its own choice), or any part of the strategy.

    From scratch there is no strategy to search.
    """
    section = key.partition(".")[0]
    if section == "finetune":
        return config.from_scratch or any(name.partition(".")[0] == "finetune" for name in config.stated)
    return key in config.stated or (section in config.stated and key != "optimizer.learning_rate")


def _is_on(config: FinetuneConfig, n_frames: int, console: Console) -> bool:
    options = config.small_data
    if options.mode not in MODES:
        raise InputError(f"small_data.mode is {options.mode!r}; use one of: {', '.join(MODES)}")
    if options.from_scratch not in FROM_SCRATCH_MODES:
        raise InputError(f"small_data.from_scratch is {options.from_scratch!r}; use one of: {', '.join(FROM_SCRATCH_MODES)}")
    if options.patience is not None and options.patience < 1:
        raise InputError(f"small_data.patience is {options.patience}; it must be at least 1, or null for no early stopping")
    if options.mode == "off" or (options.mode == "auto" and (config.from_scratch or n_frames >= options.below)):
        return False
    several = config.trainer.in_several_processes
    if several and options.mode == "on":
        raise InputError("small_data=on searches in one process; set trainer.devices=1 and trainer.num_nodes=1, or small_data=off")
    if several:
        console.print("small-data mode searches in one process, so it is off in this run of several", style="yellow")
    return not several


def _holds_nothing_out(config: FinetuneConfig, n_frames: int) -> bool:
    stated = config.validation_data is not None or "validation_fraction" in config.stated
    calibrates = bool(config.properties)  # intervals of properties need held-out frames; those of energies and forces take the folds
    return n_frames < config.small_data.all_frames_below and not (stated or calibrates)


def _pool(frames: UserFrames) -> UserFrames:
    own = frames.dataset
    everything = np.sort(np.concatenate([np.asarray(own.train_indices), np.asarray(own.validation_indices)]).astype(np.int64))
    dataset = replace(own, train_indices=everything, validation_indices=everything[:0])
    return replace(frames, dataset=dataset)


def _folds(dataset: OpenDataset, n_folds: int, seed: int) -> tuple[Fold, ...]:
    """The held-out frames as they are, or folds of the training frames where none are held out."""
    indices = np.asarray(dataset.train_indices)
    if len(dataset.validation_indices):
        return (Fold(training=indices, store=dataset.validation_store, held_out=np.asarray(dataset.validation_indices)),)
    parts = make_folds(relatives(dataset.store, indices), n_folds, seed)
    return tuple(Fold(training=np.delete(indices, part), store=dataset.store, held_out=indices[part]) for part in parts)


def relatives(store: Store, indices: np.ndarray) -> np.ndarray:
    """(n_frames,) a name for the group of each frame, made of its geometries alone: neither names of files nor the order of frames matter.

    Groups that share a frame with the very same geometry are one.
    """
    groups = np.asarray(store.groups)[indices]
    geometries = [_geometry(store[index]) for index in indices.tolist()]
    first: dict[str, Any] = {}
    for position, geometry in enumerate(geometries):
        group = first.setdefault(geometry, groups[position])
        groups = np.where(groups == groups[position], group, groups)
        first = {key: group if value == groups[position] else value for key, value in first.items()}
    return np.array([min(g for g, own in zip(geometries, groups, strict=True) if own == group) for group in groups])


def _geometry(frame: Structure) -> str:
    """A hash of elements, positions and cell, to the last bit."""
    parts = (frame.atomic_numbers, frame.positions, frame.cell)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def _with_changes(config: FinetuneConfig, changes: Any) -> SearchedConfig:
    if not isinstance(changes, Mapping):
        raise InputError(f"{changes!r} is not a mapping; write for example {{optimizer: {{learning_rate: 1.0e-3}}}}")
    base = {"optimizer": asdict(config.optimizer), "finetune": asdict(config.finetune)}
    checked_config(SearchedConfig, base, changes)  # stated or not, it must be sound
    return checked_config(SearchedConfig, base, _without_stated(changes, config))


def _without_stated(changes: Mapping[str, Any], config: FinetuneConfig, where: str = "") -> dict[str, Any]:
    kept = {}
    for key, value in changes.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping):
            kept[key] = _without_stated(value, config, f"{name}.")
        elif not is_stated(name, config):
            kept[key] = value
    return kept


def _naming_candidate(name: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except ValueError as error:
        raise InputError(f"small_data.candidates.{name}: {error}") from error


def planned(
    config: FinetuneConfig, frames: UserFrames, folds: tuple[Fold, ...], candidates: dict[str, FinetuneConfig], by_folds: bool
) -> SmallDataPlan:
    """The rounds of a search; a candidate that is not of the configuration adds its own trial to the budget.

    Raises:
        ValueError: the budget is too small.
    """
    longest = config.schedule.max_steps
    stated = is_stated("schedule.max_steps", config)
    n_added = sum(own.from_scratch != config.from_scratch for own in candidates.values())
    budget = int((config.small_data.search_budget + n_added) * longest)
    every = config.trainer.validate_every
    rungs = plan_rungs(len(candidates), len(folds), budget=budget, longest=longest, every_fold=by_folds, every=every)
    longer = plan_longer(rungs, factor=1.0 if stated else config.small_data.longer, budget=budget)
    return SmallDataPlan(
        frames=frames,
        folds=folds,
        candidates=candidates,
        rungs=rungs,
        longer=longer,
        budget=budget,
        by_folds=by_folds,
        look_at_length=by_folds and not stated,
    )


def _searched(stated: Sequence[str], plan: SmallDataPlan, runner: TrialRunner) -> SmallDataReport:
    before = random_state()
    try:
        trials = search(list(plan.candidates), plan.rungs, runner.run)
        choice = choose(trials, look_at_length=plan.look_at_length)
        trials, choice = lengthen(trials, choice, plan.longer, runner.run)
    finally:
        restore_random_state(before)  # the training that follows does not depend on what was searched
    return SmallDataReport(
        trials=tuple(trials),
        choice=choice,
        stated=tuple(key for key in stated if key.partition(".")[0] not in _NOT_SEARCHED),
        n_frames=plan.frames.n_frames,
        n_folds=len(plan.folds),
        budget=plan.budget,
    )


def _fold_models(runner: TrialRunner, plan: SmallDataPlan, report: SmallDataReport, run: RunFolder) -> FoldModels | None:
    """Of what will be trained; None where it was not tried, or nothing is kept."""
    if runner.keeps_weights and report.choice.candidate is not None:
        return trial_models(runner, report.choice.candidate, report.choice.steps, (*plan.rungs, *plan.longer))
    forget_trials(runner.weights)
    return start_models(runner, run) if runner.keeps_weights and report.keeps_start else None


def _settled_config(config: FinetuneConfig, plan: SmallDataPlan, choice: Choice) -> FinetuneConfig:
    chosen = config if choice.candidate is None else plan.candidates[choice.candidate]
    patience = config.trainer.patience if config.trainer.patience is not None else config.small_data.patience
    schedule = config.schedule if choice.steps is None else replace(config.schedule, max_steps=choice.steps)
    return replace(chosen, schedule=schedule, trainer=replace(config.trainer, patience=None if plan.by_folds else patience))
