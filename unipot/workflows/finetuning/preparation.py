"""The stages between the user's frames and the training on them: distillation, alignment, search of the settings.

Each takes the context and the state that the stage before it has left, and returns its own. `unipot finetune` and the
studies call the same ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

from unipot.evaluation.records import Evaluation
from unipot.models.potential import Potential
from unipot.workflows.finetuning.alignment import AFTER_DISTILLATION, ZERO_SHOT, Start, measure_start, show_alignment, starting_point
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.corrected import learn_corrected_labels, with_last_schedule
from unipot.workflows.finetuning.distillation.delta_learning import CorrectedDistillation, correct_teacher, is_corrected
from unipot.workflows.finetuning.distillation.plain import distil_plainly
from unipot.workflows.finetuning.further_sets import own_datasets
from unipot.workflows.finetuning.replay.mixture import weighted
from unipot.workflows.finetuning.schema import NONE
from unipot.workflows.finetuning.search.scratch import is_in_doubt, with_random_weights
from unipot.workflows.finetuning.search.search_plan import Settled, SmallDataPlan, settle
from unipot.workflows.finetuning.user_properties import add_property_heads
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import EvaluationSet, user_evaluation_sets
from unipot.workflows.inputs.user_frames import UserFrames

#: names of evaluations in a run folder
_ZERO_SHOT_FILE, _DISTILLED_FILE = "zero_shot", "taught"


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """What is told about the stages.

    Attributes:
        measured: name -> errors of the models before the training, on the user's own evaluation sets.
        distilled: facts about the teacher, for the card; empty without one.
    """

    measured: dict[str, list[Evaluation]] = field(default_factory=dict)
    distilled: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FinetuneState:
    """What is learned from and what has been learned.

    Attributes:
        pretrained: the checkpoint; the stages change it.
        frames: the user's, as they are trained on in the end.
        replay: sets that are trained on beside them.
        plan: of small-data mode; None without it.
        corrected: structures with the labels of a corrected teacher; None where none is distilled, or as it is.
        start: the aligned model; None before `align`.
        datasets: the user's, then the others, weighted; only the first `n_own` choose the best weights.
        n_own: how many of them are the user's.
        settled: settings of the training that comes last; None before `search`.
        report: what is told about it.
    """

    pretrained: Potential
    frames: UserFrames
    replay: list[OpenDataset]
    plan: SmallDataPlan | None = None
    corrected: CorrectedDistillation | None = None
    start: Start | None = None
    datasets: list[OpenDataset] = field(default_factory=list)
    n_own: int = 1
    settled: Settled | None = None
    report: FinetuneReport = field(default_factory=FinetuneReport)

    @property
    def targets(self) -> list[EvaluationSet]:
        """What the user's own sets are measured on."""
        return user_evaluation_sets(self.frames)

    @property
    def keeps_start(self) -> bool:
        """Whether nothing is trained, because the search found nothing better than the start."""
        searched = None if self.settled is None else self.settled.searched
        return self.corrected is None and searched is not None and searched.keeps_start

    def measured(self, context: FinetuneContext, start: Start) -> FinetuneState:
        """With the errors of `start`: those of the pretrained model first, then those after a distillation."""
        later = bool(self.report.measured.get(_ZERO_SHOT_FILE))
        name, what = (_DISTILLED_FILE, AFTER_DISTILLATION) if later else (_ZERO_SHOT_FILE, ZERO_SHOT)
        errors = measure_start(start, self.targets, what, context.budget)
        return replace(self, start=start, report=replace(self.report, measured={**self.report.measured, name: errors}))


def distil(context: FinetuneContext, state: FinetuneState) -> FinetuneState:
    """What a cheap teacher says: learned as it is, or corrected by the user's frames and kept for `search`; nothing without a teacher."""
    if is_corrected(context.config, state.frames, state.replay, context.console):
        corrected = correct_teacher(context, state.pretrained, state.frames)
        return replace(state, corrected=corrected, report=replace(state.report, distilled=corrected.facts))
    if context.config.teacher.method != NONE and state.targets:  # errors of the pretrained model, which is about to change
        start = starting_point(context.quietly(), copy.deepcopy(state.pretrained), state.frames)
        state = replace(state.measured(context, start), start=None)
    found = distil_plainly(context, state.pretrained, state.frames.dataset, state.replay)
    return replace(state, pretrained=found.potential, report=replace(state.report, distilled=found.facts))


def align(context: FinetuneContext, state: FinetuneState) -> FinetuneState:
    """The pretrained or distilled model with heads for the user's frames, or random weights."""
    config, console = context.config, context.console
    console.rule("fresh weights" if config.from_scratch else "alignment")
    start = starting_point(context, state.pretrained, state.frames)
    start = replace(start, adaptation=replace(start.adaptation, teacher=dict(state.report.distilled)))
    show_alignment(console, start.adaptation)
    frozen = config.finetune.method == "heads-only"
    add_property_heads(start.potential, config.properties, state.frames, seed=config.seed, frozen_backbone=frozen, console=console)
    return state.measured(context, start)


def search(context: FinetuneContext, state: FinetuneState) -> FinetuneState:
    """The settings that small-data mode finds; after a corrected teacher, whose settings are known, its labels are learned."""
    assert state.start is not None
    if state.corrected is not None:
        return _learned(context, state, state.start, state.corrected)
    datasets = weighted(own_datasets(state.frames), state.replay, context.config.replay_share)
    plan, fresh = state.plan, None
    if plan is not None and is_in_doubt(context.config, state.frames, state.start):
        plan, fresh = with_random_weights(context, plan, state.start)
    settled = settle(context, plan, state.start, datasets, fresh)
    start = fresh if fresh is not None and settled.config.from_scratch else state.start
    return replace(state, start=start, datasets=datasets, n_own=len(datasets) - len(state.replay), settled=settled)


def _learned(context: FinetuneContext, state: FinetuneState, start: Start, corrected: CorrectedDistillation) -> FinetuneState:
    """The frames are trained on alone last, with a schedule of its own."""
    start = learn_corrected_labels(context, start, state.frames.dataset, corrected.dataset)
    last = Settled(config=with_last_schedule(context.config), searched=corrected.searched, folds=corrected.folds)
    return replace(state.measured(context, start), datasets=[state.frames.dataset], settled=last)
