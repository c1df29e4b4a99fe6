"""What fine-tuning starts from: the pretrained model with aligned heads, or random weights; and how good that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unipot.models.potential import Potential
from unipot.reporting.evaluation import Evaluation
from unipot.workflows.finetuning.alignment import Adaptation, align_to_frames, element_warnings, fresh_potential
from unipot.workflows.inputs.evaluation_sets import Yardstick
from unipot.workflows.inputs.user_frames import UserFrames, stated_units
from unipot.workflows.runs.export import write_references
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import MixtureConfig

if TYPE_CHECKING:
    from unipot.workflows.finetune import FinetuneConfig

#: how tables call the aligned model before training
ZERO_SHOT, AFTER_LESSON = "zero-shot", "after the lesson"


def cache_of(config: FinetuneConfig, run: RunFolder) -> Path:
    """Folder for stores made from structure files."""
    return Path(config.cache) if config.cache else run.path / "data"


def starting_point(
    config: FinetuneConfig, pretrained: Potential, frames: UserFrames, budget: MixtureConfig, run: RunFolder, console: Console
) -> Adaptation:
    """The pretrained model with an aligned head, or as it is where there are no energies, or random weights."""
    own = frames.dataset
    if not own.spec.labels:
        return Adaptation(potential=pretrained)
    if config.from_scratch:
        start = fresh_potential(pretrained, own, config.heads, cache_of(config, run), console)
        write_references(run.references, start.statistics)
        return start
    heads, adapted = pretrained.head_names, []
    for each, options in zip((frames, *frames.further), (config, *config.also.values()), strict=True):
        found = align_to_frames(
            pretrained, each.dataset, options.parent_head, budget, config.new_elements, config.alignment, stated_units(options), heads
        )  # fmt: skip
        others = {"test_data": each.test, "validation_data": each.dataset.validation_store if options.validation_data else None}
        others = {name: store for name, store in others.items() if store is not None}
        adapted.append(found.noting(element_warnings(pretrained, each.dataset, others)))
    return replace(adapted[0], further=tuple(adapted[1:]))


def measure_start(start: Adaptation, targets: Sequence[Yardstick], what: str, budget: MixtureConfig) -> list[Evaluation]:
    """Errors of the aligned heads, called `what` with the parent; none from scratch and without energies."""
    return [t.measure(start.potential, f"{what} ({start.parent_of(t.head)})", budget) for t in targets if start.parent]
