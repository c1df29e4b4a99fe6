"""Learning from a corrected teacher: its structures and the user's frames together, before the frames alone have the last word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from unipot.workflows.construction.model import dtype_named, of_length
from unipot.workflows.finetuning.alignment import Adaptation
from unipot.workflows.finetuning.distillation.kept_models import MADE_WITH, kept_model
from unipot.workflows.finetuning.distillation.plain import DISTILLED
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.training_module import Build, train_in_memory
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.run_folder import RunFolder, settings_fingerprint
from unipot.workflows.settings.schema import MixtureConfig
from unipot.zoo.artifact import load_artifact, save_artifact

_ERRORS = "held_out_errors"
_SHOWN = {"energy_per_atom": "meV/atom", "forces": "meV/A"}


def distil_corrected(
    config: FinetuneConfig, start: Adaptation, own: OpenDataset, corrected: OpenDataset, budget: MixtureConfig, run: RunFolder,
    build: Build, console: Console,
) -> Adaptation:  # fmt: skip
    """`start` after training on `corrected` and, with `teacher.own_share` of the draws, the user's frames; its facts say how close it came.

    Args:
        config: of the run, as the user gave it.
        start: the aligned model; its potential is trained in place.
        own: the user's frames.
        corrected: structures with corrected labels, through the same head.
        budget: of a batch.
        run: its folder keeps the result; a run that is continued does not repeat it.
        build: makes a training module of a configuration, a start and `datasets`.
        console: what is done is said here.
    """
    options, file, dtype = config.teacher, run.path / DISTILLED, dtype_named(config.trainer.dtype)
    console.rule(f"distillation of {METHODS[options.method]}, corrected by your frames")
    made_with = [settings_fingerprint(config), corrected.store.path.name]  # its name tells frames, structures and models of the difference
    kept = kept_model(file, made_with, dtype)
    if kept is None:
        console.print(f"  {len(corrected.store)} structures and your frames are learned for {options.max_steps} steps", highlight=False)
        errors = _learn(config, start, own, corrected, budget, build)
        save_artifact(file, start.potential.eval(), card={"name": "after the distillation", _ERRORS: errors, MADE_WITH: made_with})
        kept = load_artifact(file, dtype=dtype)
    errors = kept.card[_ERRORS]
    said = [f"{1000 * errors[name]:.1f} {unit}" for name, unit in _SHOWN.items() if name in errors]
    if said:
        console.print(f"  it follows the corrected labels to {' and '.join(said)}", highlight=False)
    return replace(start, potential=kept.potential, teacher={**start.teacher, _ERRORS: errors})


def with_last_schedule(config: FinetuneConfig) -> FinetuneConfig:
    """Of the training on the user's frames alone that comes last: `teacher.own_steps` at `teacher.own_rate` times the rate."""
    options = config.teacher
    return replace(
        config, optimizer=replace(config.optimizer, learning_rate=options.own_rate * config.optimizer.learning_rate),
        schedule=of_length(config.schedule, options.own_steps),
    )  # fmt: skip


def _learn(
    config: FinetuneConfig, start: Adaptation, own: OpenDataset, corrected: OpenDataset, budget: MixtureConfig, build: Build
) -> dict[str, Any]:
    """Train in place; returns the errors of the averaged weights on corrected structures that were held out."""
    options, share = config.teacher, config.teacher.own_share
    datasets = [replace(d, spec=replace(d.spec, weight=w)) for d, w in ((own, share), (corrected, 1 - share))]
    budget = replace(budget, structures_per_step=round(_structures_per_step(config, corrected) / (1 - share)))
    config = replace(config, schedule=of_length(config.schedule, options.max_steps), mixture=budget)
    table = train_in_memory(config, start, datasets, budget, build)
    rows = table.rows if table else ()  # none where a single structure was labelled
    return {row.property: row.mae for row in rows if row.dataset == corrected.spec.name and row.element is None and row.mae is not None}


def _structures_per_step(config: FinetuneConfig, corrected: OpenDataset) -> int:
    """As configured; of large periodic structures as many as hold twice `atoms_per_step` on average."""
    wanted, most = config.teacher.structures_per_step, config.atoms_per_step
    if most is None or not corrected.store[0].pbc.any():
        return wanted
    return min(wanted, max(1, round(2 * most / float(np.mean(corrected.store.n_atoms)))))
