"""Everything between the user's frames and the training on them: distillation, alignment, search of the settings."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from unipot.evaluation.records import Evaluation
from unipot.models.potential import Potential
from unipot.workflows.finetuning.alignment import AFTER_DISTILLATION, ZERO_SHOT, Adaptation, measure_start, show_alignment, starting_point
from unipot.workflows.finetuning.distillation.corrected import distil_corrected, with_last_schedule
from unipot.workflows.finetuning.distillation.delta_learning import corrected_distillation, is_corrected
from unipot.workflows.finetuning.distillation.plain import distil
from unipot.workflows.finetuning.further_sets import own_datasets
from unipot.workflows.finetuning.properties import add_property_heads
from unipot.workflows.finetuning.replay.mixture import weighted
from unipot.workflows.finetuning.schema import NONE, FinetuneConfig
from unipot.workflows.finetuning.search.fold_models import FoldModels
from unipot.workflows.finetuning.search.plan import SmallDataPlan, SmallDataReport, settle
from unipot.workflows.finetuning.training_module import training_module, trial_module
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.user_frames import UserFrames
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import MixtureConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known before anything is learned.

    Attributes:
        config: of the run.
        pretrained: the checkpoint; changed by what comes.
        frames: the user's.
        replay: sets that are trained on beside them.
        search: of small-data mode, None without it.
        budget: of a batch.
        run: its folder.
    """

    config: FinetuneConfig
    pretrained: Potential
    frames: UserFrames
    replay: list[OpenDataset]
    search: SmallDataPlan | None
    budget: MixtureConfig
    run: RunFolder


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What the final training needs.

    Attributes:
        config: with what the search settled.
        start: the aligned model.
        datasets: the user's, then the others, weighted.
        n_own: how many of them are the user's; only they choose the best weights.
        budget: of a batch.
        searched: report of the search, None without one.
        folds: models of its folds, None without them.
        measured: name -> errors of the models before the training.
        keeps_start: whether nothing is trained, because the search found nothing better than the start.
    """

    config: FinetuneConfig
    start: Adaptation
    datasets: list[OpenDataset]
    n_own: int
    budget: MixtureConfig
    searched: SmallDataReport | None
    folds: FoldModels | None
    measured: dict[str, list[Evaluation]]
    keeps_start: bool = False


def prepared(plan: Plan, targets: Sequence[EvaluationSet], console: Console) -> Ready:
    """What the final training needs, by the way that the configuration asks for."""
    corrects = is_corrected(plan.config, plan.frames, plan.replay, console)
    return after_correction(plan, targets, console) if corrects else after_alignment(plan, targets, console)


def after_alignment(plan: Plan, targets: Sequence[EvaluationSet], console: Console) -> Ready:
    """The aligned model, after the distillation if there is one, and the settings that small-data mode finds for it."""
    config, frames, run, budget = plan.config, plan.frames, plan.run, plan.budget
    undistilled = _measure_before_distillation(config, plan.pretrained, frames, targets, budget, run)
    build = partial(training_module, run=run)
    distilled = distil(config, plan.pretrained, frames.dataset, plan.replay, budget, run.cache(config.cache), run, build, console)
    console.rule("fresh weights" if config.from_scratch else "alignment")
    start = replace(starting_point(config, distilled.potential, frames, budget, run, console), teacher=distilled.facts)
    show_alignment(console, start)
    add_properties(config, start, frames, console)
    aligned = measure_start(start, targets, AFTER_DISTILLATION if undistilled else ZERO_SHOT, budget)
    datasets = weighted(own_datasets(frames), plan.replay, config.replay_share)
    trial = partial(trial_module, datasets=datasets, run=run)
    settled, searched, folds = settle(config, plan.search, start, datasets, budget, run, trial, console)
    measured = {"zero_shot": undistilled, "taught": aligned} if undistilled else {"zero_shot": aligned}
    return Ready(
        config=settled, start=start, datasets=datasets, n_own=len(datasets) - len(plan.replay), budget=budget, searched=searched,
        folds=folds, measured=measured, keeps_start=bool(searched and searched.keeps_start),
    )  # fmt: skip


def after_correction(plan: Plan, targets: Sequence[EvaluationSet], console: Console) -> Ready:
    """The aligned model after distillation of a teacher that the user's frames have corrected; they are trained on alone last."""
    config, frames, run, budget = plan.config, plan.frames, plan.run, plan.budget
    build = partial(trial_module, run=run)
    distilled = corrected_distillation(config, plan.pretrained, frames, budget, run.cache(config.cache), run, build, console)
    console.rule("alignment")
    start = replace(starting_point(config, plan.pretrained, frames, budget, run, console), teacher=distilled.facts)
    show_alignment(console, start)
    measured = {"zero_shot": measure_start(start, targets, ZERO_SHOT, budget)}
    start = distil_corrected(config, start, frames.dataset, distilled.dataset, budget, run, build, console)
    measured["taught"] = measure_start(start, targets, AFTER_DISTILLATION, budget)
    return Ready(
        config=with_last_schedule(config), start=start, datasets=[frames.dataset], n_own=1, budget=budget, searched=distilled.searched,
        folds=distilled.folds, measured=measured,
    )  # fmt: skip


def add_properties(config: FinetuneConfig, start: Adaptation, frames: UserFrames, console: Console) -> None:
    """Heads for the user's properties beside those of energies, in place."""
    frozen = config.finetune.method == "heads-only"
    add_property_heads(start.potential, config.properties, frames, seed=config.seed, frozen_backbone=frozen, console=console)


def _measure_before_distillation(
    config: FinetuneConfig, pretrained: Potential, frames: UserFrames, targets: Sequence[EvaluationSet], budget: MixtureConfig,
    run: RunFolder,
) -> list[Evaluation]:
    """Errors of the pretrained model as it is, aligned, before a distillation changes it; none without one."""
    if config.teacher.method == NONE or not targets:
        return []
    start = starting_point(config, copy.deepcopy(pretrained), frames, budget, run, Console(quiet=True))
    return measure_start(start, targets, ZERO_SHOT, budget)
