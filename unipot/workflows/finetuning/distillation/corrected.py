"""Learning from a corrected teacher: its structures and the user's frames together, before the frames alone have the last word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from unipot.workflows.construction.model import of_length
from unipot.workflows.finetuning.alignment import Start
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.kept_models import MADE_WITH, kept_model
from unipot.workflows.finetuning.distillation.plain import DISTILLED
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.training_module import train_in_memory
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.origin import settings_fingerprint
from unipot.zoo.artifact import load_artifact, save_artifact

_ERRORS = "held_out_errors"
_SHOWN = {"energy_per_atom": "meV/atom", "forces": "meV/A"}


def learn_corrected_labels(context: FinetuneContext, start: Start, own: OpenDataset, corrected: OpenDataset) -> Start:
    """`start` after training on `corrected` and, with `teacher.own_share` of the draws, the user's frames; its facts say how close it came.

    Args:
        context: of the run; its folder keeps the result, and a run that is continued does not repeat it.
        start: the aligned model; its potential is trained in place.
        own: the user's frames.
        corrected: structures with corrected labels, through the same head.
    """
    options, file, console = context.config.teacher, context.run.path / DISTILLED, context.console
    console.rule(f"distillation of {METHODS[options.method]}, corrected by your frames")
    # the name of the store tells frames, structures and models of the difference
    made_with = [settings_fingerprint(context.config), corrected.store.path.name]
    kept = kept_model(file, made_with, context.dtype)
    if kept is None:
        console.print(f"  {len(corrected.store)} structures and your frames are learned for {options.max_steps} steps", highlight=False)
        errors = _learn(context, start, own, corrected)
        save_artifact(file, start.potential.eval(), card={"name": "after the distillation", _ERRORS: errors, MADE_WITH: made_with})
        kept = load_artifact(file, dtype=context.dtype)
    errors = kept.card[_ERRORS]
    said = [f"{1000 * errors[name]:.1f} {unit}" for name, unit in _SHOWN.items() if name in errors]
    if said:
        console.print(f"  it follows the corrected labels to {' and '.join(said)}", highlight=False)
    facts = {**start.adaptation.teacher, _ERRORS: errors}
    return Start(potential=kept.potential, adaptation=replace(start.adaptation, teacher=facts))


def with_last_schedule(config: FinetuneConfig) -> FinetuneConfig:
    """Of the training on the user's frames alone that comes last: `teacher.own_steps` at `teacher.own_rate` times the rate."""
    options = config.teacher
    return replace(
        config,
        optimizer=replace(config.optimizer, learning_rate=options.own_rate * config.optimizer.learning_rate),
        schedule=of_length(config.schedule, options.own_steps),
    )


def _learn(context: FinetuneContext, start: Start, own: OpenDataset, corrected: OpenDataset) -> dict[str, Any]:
    """Train in place; returns the errors of the averaged weights on corrected structures that were held out."""
    config, options, share = context.config, context.config.teacher, context.config.teacher.own_share
    datasets = [replace(d, spec=replace(d.spec, weight=w)) for d, w in ((own, share), (corrected, 1 - share))]
    each = _structures_per_step(options.structures_per_step, config.atoms_per_step, corrected)
    budget = replace(context.budget, structures_per_step=round(each / (1 - share)))
    config = replace(config, schedule=of_length(config.schedule, options.max_steps), mixture=budget)
    table = train_in_memory(replace(context, config=config, budget=budget), start, datasets)
    rows = table.rows if table else ()  # none where a single structure was labelled
    return {row.property: row.mae for row in rows if row.dataset == corrected.spec.name and row.element is None and row.mae is not None}


def _structures_per_step(wanted: int, atoms_per_step: int | None, corrected: OpenDataset) -> int:
    """As `wanted`; of large periodic structures as many as hold twice `atoms_per_step` on average."""
    if atoms_per_step is None or not corrected.store[0].pbc.any():
        return wanted
    return min(wanted, max(1, round(2 * atoms_per_step / float(np.mean(corrected.store.n_atoms)))))
