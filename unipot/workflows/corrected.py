"""Learning from a corrected teacher: its structures and the user's frames together, before the frames alone have the last word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unipot.training.module import TrainingModule
from unipot.workflows.adaptation import Adaptation
from unipot.workflows.datasets import OpenDataset
from unipot.workflows.fit import fit_in_memory
from unipot.workflows.model import dtype_named
from unipot.workflows.pretrain import mixture_data
from unipot.workflows.run_folder import RunFolder
from unipot.workflows.teacher import TAUGHT
from unipot.workflows.teacher_labels import METHODS
from unipot.zoo.artifact import load_artifact, save_artifact

if TYPE_CHECKING:
    from unipot.workflows.config import MixtureConfig
    from unipot.workflows.finetune import FinetuneConfig

Build = Callable[..., TrainingModule]

_ERRORS = "held_out_errors"
_SHOWN = {"energy_per_atom": "meV/atom", "forces": "meV/A"}


def learn_corrected(
    config: FinetuneConfig, start: Adaptation, own: OpenDataset, lesson: OpenDataset, budget: MixtureConfig, run: RunFolder, build: Build,
    console: Console,
) -> Adaptation:  # fmt: skip
    """`start` after training on `lesson` and, with `teacher.own_share` of the draws, the user's frames; its facts say how close it came.

    Args:
        config: of the run, as the user gave it.
        start: the aligned model; its potential is trained in place.
        own: the user's frames.
        lesson: corrected structures, through the same head.
        budget: of a batch.
        run: its folder keeps the result; a run that is continued does not repeat it.
        build: makes a training module of a configuration, a start and `datasets`.
        console: what is done is said here.
    """
    options, file = config.teacher, run.path / TAUGHT
    console.rule(f"a lesson from {METHODS[options.method]}, corrected")
    if not file.is_file():
        console.print(f"  {len(lesson.store)} structures and your frames are learned for {options.max_steps} steps", highlight=False)
        errors = _learn(config, start, own, lesson, budget, partial(build, datasets=[own, lesson]))
        save_artifact(file, start.potential.eval(), card={"name": "after the lesson", _ERRORS: errors})
    artifact = load_artifact(file, dtype=dtype_named(config.trainer.dtype))
    errors = artifact.card[_ERRORS]
    said = [f"{1000 * errors[name]:.1f} {unit}" for name, unit in _SHOWN.items() if name in errors]
    if said:
        console.print(f"  it follows the corrected labels to {' and '.join(said)}", highlight=False)
    return replace(start, potential=artifact.potential, teacher={**start.teacher, _ERRORS: errors})


def with_last_schedule(config: FinetuneConfig) -> FinetuneConfig:
    """Of the training on the user's frames alone that comes last: `teacher.own_steps` at `teacher.own_rate` times the rate."""
    options = config.teacher
    return replace(
        config, optimizer=replace(config.optimizer, learning_rate=options.own_rate * config.optimizer.learning_rate),
        schedule=_of_length(config, options.own_steps),
    )  # fmt: skip


def _learn(
    config: FinetuneConfig, start: Adaptation, own: OpenDataset, lesson: OpenDataset, budget: MixtureConfig, build: Build
) -> dict[str, Any]:
    """Train in place; returns the errors of the averaged weights on structures of the lesson that were held out."""
    options, potential = config.teacher, start.potential
    share = options.own_share
    datasets = [replace(d, spec=replace(d.spec, weight=w)) for d, w in ((own, share), (lesson, 1 - share))]
    budget = replace(budget, structures_per_step=round(options.structures_per_step / (1 - share)))
    trainer = replace(config.trainer, compile=False, workers=0, prefetch_factor=None, patience=None)
    config = replace(config, schedule=_of_length(config, options.max_steps), mixture=budget, trainer=trainer)
    data = mixture_data(
        datasets, budget, trainer, cutoff=potential.cutoff, head_names=potential.head_names, n_steps=options.max_steps, seed=config.seed
    )
    module = build(config, start)
    looks = fit_in_memory(module, data, trainer, every=options.max_steps)
    module.average.swap()  # for good
    rows = [row for _, table in looks[-1:] for row in table.rows]  # none where a single structure was labelled
    return {row.property: row.mae for row in rows if row.dataset == lesson.spec.name and row.element is None and row.mae is not None}


def _of_length(config: FinetuneConfig, steps: int) -> Any:
    return replace(config.schedule, max_steps=steps, warmup_steps=min(config.schedule.warmup_steps, steps // 5))
