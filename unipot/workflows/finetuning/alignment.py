"""The model that fine-tuning starts from: a pretrained one with aligned heads, or random weights; and how good that is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from unipot.batch import AtomBatch
from unipot.data.statistics import elements_present
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.evaluation.records import Evaluation
from unipot.finetune.alignment.align import AlignmentReport, align_head
from unipot.finetune.alignment.label_checks import LabelScale, heads_alike, label_scales, level_warnings, refuse_wrong_units
from unipot.finetune.alignment.new_elements import NewElement, start_new_elements
from unipot.finetune.alignment.parents import ParentScore, score_parents, unrelated
from unipot.finetune.alignment.readout_fit import SHIFT
from unipot.models.potential import Potential
from unipot.reporting.tables import ReportTable, alignment_table, held_out_table, new_element_table, parent_table
from unipot.structure import symbols_of
from unipot.workflows.construction.model import HeadStatistics, build_potential, head_statistics
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.schema import AUTO
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.inputs.user_frames import UserFrames, counted_batches, stated_order, stated_units
from unipot.workflows.runs.artifact_export import write_references
from unipot.workflows.runs.run_tables import show_heads
from unipot.workflows.settings.schema import BackboneConfig, HeadsConfig, MixtureConfig

#: frames that parent heads are scored on, evenly spread; more do not change the choice
FRAMES_TO_SCORE = 100


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The report on how a new head came about.

    Attributes:
        scores: of the parent heads, best first; empty from scratch.
        alignment: of the new head; None from scratch and where there are no energies.
        statistics: of the new head from scratch, references included; empty when aligned.
        new_elements: of the frames, which no head of the checkpoint was trained on.
        further: of the heads of further sets of the user's own.
        teacher: what was distilled before, see `distillation.plain`; empty without one.
    """

    scores: tuple[ParentScore, ...] = ()
    alignment: AlignmentReport | None = None
    statistics: tuple[HeadStatistics, ...] = ()
    new_elements: tuple[NewElement, ...] = ()
    further: tuple[Adaptation, ...] = ()
    teacher: dict[str, Any] = field(default_factory=dict)

    @property
    def parent(self) -> str | None:
        return None if self.alignment is None else self.alignment.parent

    def tables(self) -> list[ReportTable]:
        """Parent heads, new elements if there are any, candidates of the alignment, and shifts; nothing from scratch."""
        if self.alignment is None:
            return []
        new = [new_element_table(self.new_elements)] if self.new_elements else []
        checked = [held_out_table(self.alignment.readout)] if self.alignment.readout.held_out else []
        return [parent_table(self.scores, self.alignment.parent), *new, *checked, alignment_table(self.alignment)]

    def parent_of(self, head: str) -> str | None:
        """The parent of one of the new heads."""
        return next((a.parent for a in (self, *self.further) if a.alignment is not None and a.alignment.head == head), None)

    @property
    def all_new_elements(self) -> tuple[NewElement, ...]:
        """Of all sets."""
        return tuple(element for a in (self, *self.further) for element in a.new_elements)

    def noting(self, warnings: Sequence[str]) -> Adaptation:
        """The same with further sentences that the user should read."""
        if self.alignment is None or not warnings:
            return self
        return replace(self, alignment=replace(self.alignment, warnings=(*self.alignment.warnings, *warnings)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: for the card and the run folder."""
        return {
            "parents": [score.to_dict() for score in self.scores],
            "alignment": None if self.alignment is None else self.alignment.to_dict(),
            **({"new_elements": [element.to_dict() for element in self.new_elements]} if self.new_elements else {}),
            **({"also": [other.to_dict() for other in self.further]} if self.further else {}),
            **({"teacher": self.teacher} if self.teacher else {}),
        }

    def write(self, path: Path) -> None:
        """Write `to_dict` and the tables as JSON."""
        content = {**self.to_dict(), "tables": [table.to_dict() for table in self.tables()]}
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model that a training begins with, and the report on how it came about.

    Attributes:
        potential: ready for training.
        adaptation: which heads were copied and aligned, and what was distilled before.
    """

    potential: Potential
    adaptation: Adaptation


def align_to_frames(
    potential: Potential, dataset: OpenDataset, parent_head: str, mixture: MixtureConfig, new_elements: str = "from-neighbors",
    alignment: str = SHIFT, units: Mapping[str, str] | None = None,
    parents: Sequence[str] | None = None, order: str = "voigt",
) -> Adaptation:
    """Choose the parent head and add the aligned copy, called as `dataset.spec.head`.

    Args:
        potential: pretrained; changed in place.
        dataset: the user's frames; only the training ones are looked at, and of them no label of weight zero.
        parent_head: `auto` takes the best, see `ParentScore.rank`; else the name of a head.
        mixture: budgets of a batch.
        new_elements: what is done with elements that no head was trained on, see
            `unipot.finetune.alignment.new_elements.MODES`.
        alignment: of the new head, one of `unipot.finetune.alignment.readout_fit.ALIGNMENTS`.
        units: property -> unit that its labels are stated to have, which they are checked for; None checks nothing.
        parents: heads that may be copied; None: all there are.
        order: that six stress numbers are stated to have.

    Raises:
        KeyError: there is no head `parent_head`.
        ValueError: labels are in another unit than stated; see also `align_head` and `start_new_elements`.
    """
    if parent_head != AUTO:
        potential.heads.index(parent_head)  # an unknown name is refused before any work
    any_head = potential.heads.names[0]
    batches = counted_batches(potential, dataset.store, dataset.train_indices, any_head, mixture)
    kind = dataset.store.energy_kind
    new = start_new_elements(potential, batches, new_elements)
    candidates, excluded = parent_candidates(potential, kind, parent_head, parents)
    scored_on = _evenly(potential, dataset, any_head, mixture, batches)
    scores = score_parents(potential, scored_on, candidates)
    doubts = refuse_wrong_units(_label_scales(potential, heads_alike(scores), scored_on, units, kind, order)) if units else ()
    chosen = scores[0].head if parent_head == AUTO else parent_head
    report = align_head(
        potential,
        chosen,
        dataset.spec.head,
        dataset.spec.level_of_theory,
        batches,
        energy_kind=kind,
        alignment=alignment,
        groups=dataset.store.groups[dataset.train_indices],
    )
    doubts += level_warnings(report, scores) if potential.heads[chosen].energy_kind == kind else ()
    doubts += tuple(filter(None, [unrelated(scores)]))
    report = replace(report, warnings=(*doubts, *report.warnings, *excluded, *(element.warning() for element in new)))
    return Adaptation(scores=tuple(scores), alignment=report, new_elements=new)


def element_warnings(potential: Potential, own: OpenDataset, others: Mapping[str, Store]) -> tuple[str, ...]:
    """Sentences on elements of other sets of the user's that no frame trained on has.

    Args:
        potential: with the aligned head.
        own: the frames trained on.
        others: the option that named a set -> the set.

    Raises:
        ValueError: the head has no reference for one of them, so that the set could not be predicted.
    """
    trained, known = elements_present(own.store, own.train_indices), potential.heads[own.spec.head].reference.known
    found = []
    for option, store in others.items():
        absent = [z for z in store.elements if not trained[z]]
        unknown = symbols_of([z for z in absent if not bool(known[z])])
        if unknown:
            raise InputError(
                f"{option} has {unknown}, which no frame trained on has and the parent head has no reference for, so it cannot be "
                f"predicted; add frames with {unknown} to data, or leave such frames out of {option}"
            )
        if absent:
            found.append(
                f"{option} has {symbols_of(absent)}, which no frame trained on has: the reference is the parent's, moved by the shift that "
                "the other elements share, and the rest is what the parent knows"
            )
    return tuple(found)


def parent_candidates(
    potential: Potential, energy_kind: str, parent_head: str, among: Sequence[str] | None = None
) -> tuple[list[str], tuple[str, ...]]:
    """Heads that a head of `energy_kind` may descend from, and a sentence on those left out.

    Heads of the same kind `among` those given (None: all); where there are none, all of them; a `parent_head` asked for
    by name in any case.
    """
    kinds = {name: potential.heads[name].energy_kind for name in (potential.head_names if among is None else among)}
    same = [name for name, kind in kinds.items() if kind == energy_kind or name == parent_head]
    left_out = [f"{name!r} ({kind})" for name, kind in kinds.items() if name not in same]
    if not same or not left_out:
        return list(kinds), ()
    return same, (f"the frames have {energy_kind} energies; heads of other kinds were not considered as parents: {', '.join(left_out)}",)


def fresh_start(pretrained: Potential, dataset: OpenDataset, heads: HeadsConfig, cache: Path, console: Console) -> Start:
    """The same architecture with random weights, its reference fitted to the frames: what pretraining is compared with."""
    description = pretrained.describe()["backbone"]
    hyperparameters = dict(description["hyperparameters"])
    if "average_neighbors" in hyperparameters:
        hyperparameters["average_neighbors"] = None  # the user's frames' own, not those of pretraining
    for key in ("trained_charges", "trained_spins"):
        hyperparameters.pop(key, None)  # likewise
    core = pretrained.core_repulsion
    backbone = BackboneConfig(
        name=description["name"], hyperparameters=hyperparameters, core_repulsion=None if core is None else core.reach
    )
    statistics = head_statistics([dataset], heads, cache=cache, console=console)
    potential = build_potential(backbone, heads, [dataset], statistics, pretrained.dtype)
    return Start(potential=potential, adaptation=Adaptation(statistics=tuple(statistics)))


def show_alignment(console: Console, adaptation: Adaptation) -> None:
    """The tables, and every warning as a sentence of its own."""
    if adaptation.alignment is None and not adaptation.statistics:
        console.print("no energies, so no head is aligned: properties are learnt beside the heads of the checkpoint", highlight=False)
        return
    if adaptation.alignment is None:
        console.print("random weights", highlight=False)
        show_heads(console, adaptation.statistics)
        return
    for table in adaptation.tables():
        console.print(table.to_rich())
    for text in adaptation.alignment.warnings:
        console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)
    for other in adaptation.further:
        show_alignment(console, other)


def _label_scales(
    potential: Potential, heads: Sequence[str], batches: Sequence[AtomBatch], units: Mapping[str, str], energy_kind: str, order: str
) -> list[LabelScale]:
    """Energies of another kind than the heads' have no scale in common with theirs."""
    alike = all(potential.heads[head].energy_kind == energy_kind for head in heads)
    return label_scales(potential, heads, batches, {name: unit for name, unit in units.items() if name != "energy" or alike}, order)


def _evenly(
    potential: Potential, dataset: OpenDataset, head: str, mixture: MixtureConfig, batches: Sequence[AtomBatch]
) -> Sequence[AtomBatch]:
    indices = dataset.train_indices
    if len(indices) <= FRAMES_TO_SCORE:
        return batches
    chosen = indices[spread(len(indices), FRAMES_TO_SCORE)]
    return counted_batches(potential, dataset.store, chosen, head, mixture)

#: how tables call the aligned model before training
ZERO_SHOT, AFTER_DISTILLATION = "zero-shot", "after the distillation"


def starting_point(context: FinetuneContext, pretrained: Potential, frames: UserFrames) -> Start:
    """The pretrained model with an aligned head, or as it is where there are no energies, or random weights.

    Args:
        context: of the run.
        pretrained: changed in place.
        frames: the user's, further sets included.
    """
    own, config = frames.dataset, context.config
    if not own.spec.labels:
        return Start(potential=pretrained, adaptation=Adaptation())
    if config.from_scratch:
        start = fresh_start(pretrained, own, config.heads, context.cache, context.console)
        write_references(context.run.references, start.adaptation.statistics)
        return start
    heads, adapted = pretrained.head_names, []
    for each, options in zip((frames, *frames.further), (config, *config.also.values()), strict=True):
        found = align_to_frames(
            pretrained,
            each.dataset,
            options.parent_head,
            context.budget,
            config.new_elements,
            config.alignment,
            stated_units(options),
            heads,
            stated_order(options),
        )
        others = {"test_data": each.test, "validation_data": each.dataset.validation_store if options.validation_data else None}
        others = {name: store for name, store in others.items() if store is not None}
        adapted.append(found.noting(element_warnings(pretrained, each.dataset, others)))
    return Start(potential=pretrained, adaptation=replace(adapted[0], further=tuple(adapted[1:])))


def measure_start(start: Start, targets: Sequence[EvaluationSet], what: str, budget: MixtureConfig) -> list[Evaluation]:
    """Errors of the aligned heads, called `what` with the parent; none from scratch and without energies."""
    adaptation = start.adaptation
    return [t.measure(start.potential, f"{what} ({adaptation.parent_of(t.head)})", budget) for t in targets if adaptation.parent]
