"""A cheap teacher before the expensive labels: the model first learns the user's own systems from a semi-empirical method.

Structures in thermal motion around the user's frames are labelled by xTB, a head of its own is trained on them with the
backbone, and the result takes the place of the pretrained model. What the frames then have to teach is the difference
between two levels of theory, which is smoother than either (R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld,
"Big data meets quantum chemistry approximations: the Δ-machine learning approach", J. Chem. Theory Comput. 11, 2087,
2015). No label of the user's is used here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from unipot.data.spec import DatasetSpec, free_head_name
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.training.metrics import MetricTable
from unipot.workflows.finetuning.alignment import Start, align_to_frames
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.kept_models import MADE_WITH, kept_model
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS, labelled_store
from unipot.workflows.finetuning.replay.mixture import weighted
from unipot.workflows.finetuning.schema import AUTO, NONE, FinetuneConfig, TeacherConfig
from unipot.workflows.finetuning.training_module import train_in_memory
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.origin import settings_fingerprint
from unipot.workflows.runs.run_folder import read_json, write_json
from unipot.zoo.artifact import save_artifact

#: in a run folder: the distilled model, beside the facts that are also in the card
DISTILLED, FACTS = "taught.safetensors", "taught.json"
_HELD_OUT = 0.1
#: options that must be positive
_POSITIVE = (
    "frames", "temperature", "steps_before", "steps_between", "max_steps", "structures_per_step", "own_steps", "own_rate",
    "periodic_atoms", "known_steps", "known_rate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """The model to go on from, and what is said about it in the card; no facts without a teacher."""

    potential: Potential
    facts: dict[str, Any]


def check_teacher(config: FinetuneConfig) -> None:
    """Refuse what contradicts itself before any work.

    Raises:
        ValueError: an option is not allowed, or the teacher's program is not installed.
    """
    options = config.teacher
    if options.method == NONE:
        return
    if options.method not in (AUTO, *METHODS):
        raise InputError(f"teacher.method is {options.method!r}; use one of: {', '.join((NONE, AUTO, *METHODS))}")
    for name in _POSITIVE:
        if not getattr(options, name) > 0:
            raise InputError(f"teacher.{name} is {getattr(options, name)}; it must be positive")
    if not 0 < options.own_share < 1:
        raise InputError(f"teacher.own_share is {options.own_share}; it must be above 0 and below 1")
    if not 0 <= options.known_share < 1:
        raise InputError(f"teacher.known_share is {options.known_share}; it must be at least 0 (none) and below 1")
    if options.method == AUTO:
        return
    if config.from_scratch:
        raise InputError("from_scratch=true trains random weights on your frames alone, so it has no teacher; leave teacher.method out")
    if kept := config.finetune.kept_layers:
        raise InputError(f"distillation changes the whole backbone, of which {kept} keeps weights as they are; leave teacher.method out")
    if config.trainer.in_several_processes:
        raise InputError("distillation runs in one process; set trainer.devices=1 and trainer.num_nodes=1, or teacher.method=none")
    try:
        import tblite.interface  # noqa: F401
    except ImportError as error:
        raise InputError(f"teacher.method={options.method} needs tblite: pip install tblite (or 'unipot[quickstart]')") from error


def distil_plainly(context: FinetuneContext, pretrained: Potential, own: OpenDataset, replay: Sequence[OpenDataset]) -> Distilled:
    """`pretrained` after distillation of the teacher on the systems of the user's training frames; as it is without a teacher.

    A distillation that is over is not repeated when the run is continued.

    Args:
        context: of the run; its folder keeps the result.
        pretrained: changed in place.
        own: the user's frames; their labels are not looked at.
        replay: sets of pretraining that are trained on beside the teacher's labels, with the share that they have
            beside the user's frames.

    Raises:
        ValueError: the method could label no structure.
    """
    options, console = context.config.teacher, context.console
    if options.method == NONE:
        return Distilled(potential=pretrained, facts={})
    facts_file, model_file = context.run.path / FACTS, context.run.path / DISTILLED
    made_with = [settings_fingerprint(context.config), own.store.metadata["content_hash"]]
    kept = kept_model(model_file, made_with, context.dtype) if facts_file.is_file() else None
    if kept is not None:
        return Distilled(potential=kept.potential, facts=read_json(facts_file))
    console.rule(f"distillation of {METHODS[options.method]}")
    began = time.perf_counter()
    starts = [own.store[int(index)] for index in np.asarray(own.train_indices)]
    console.print(f"  {options.frames} structures are labelled and learned for {options.max_steps} steps", highlight=False)
    labelled = _dataset_of(labelled_store(options, starts, context.config.seed, context.cache, console), options, pretrained)
    table = _learn(context, pretrained, labelled, replay)
    errors = {row.property: row.mae for row in table.rows if row.dataset == labelled.spec.name and row.element is None}
    facts = {
        **asdict(options),
        "head": labelled.spec.head,
        "level_of_theory": labelled.spec.level_of_theory,
        "n_labelled": len(labelled.store),
        "held_out_errors": {name: value for name, value in errors.items() if value is not None},
        "seconds": round(time.perf_counter() - began, 1),
    }
    save_artifact(model_file, pretrained.eval(), card={"name": "after the distillation", MADE_WITH: made_with})
    write_json(facts_file, facts)
    energy, forces = 1000 * errors["energy_per_atom"], 1000 * errors["forces"]
    said = f"{len(labelled.store)} structures; {energy:.2f} meV/atom and {forces:.1f} meV/A on those held out; head {labelled.spec.head!r}"
    console.print(f"  {said}; {facts['seconds']:.0f} s", highlight=False)
    return Distilled(potential=pretrained, facts=facts)


def _learn(
    context: FinetuneContext, potential: Potential, labelled: OpenDataset, replay: Sequence[OpenDataset]
) -> MetricTable | None:
    """Train `potential` in place through a head of the teacher's; returns the held-out errors of the averaged weights.

    With replay a step has as many structures more as keep those of the teacher at `structures_per_step`.
    """
    config, options = context.config, context.config.teacher
    own = replace(
        config,
        properties={},
        schedule=replace(config.schedule, max_steps=options.max_steps),
        finetune=replace(config.finetune, method="full"),
    )
    datasets = weighted([labelled], [replace(d, validation_indices=np.empty(0, dtype=np.int64)) for d in replay], config.replay_share)
    share = 1 - config.replay_share if replay else 1.0
    mixture = replace(context.budget, structures_per_step=round(options.structures_per_step / share))
    adaptation = align_to_frames(potential, labelled, AUTO, mixture, config.new_elements)
    for element in adaptation.new_elements:
        context.console.print(f"warning: {element.warning()}", style="yellow", highlight=False, markup=False)
    start = Start(potential=potential, adaptation=adaptation)
    return train_in_memory(replace(context, config=own, budget=mixture), start, datasets)


def _dataset_of(store: Store, options: TeacherConfig, potential: Potential) -> OpenDataset:
    """A dataset with a head of its own; trajectories are not divided between training and held-out structures."""
    groups = np.unique(store.groups)
    held = np.isin(store.groups, groups[:: round(1 / _HELD_OUT)]) if len(groups) > 1 else np.zeros(len(store), dtype=bool)
    if not held.any() or held.all():
        held = np.arange(len(store)) % round(1 / _HELD_OUT) == 0
    spec = DatasetSpec(
        name=store.name,
        path=str(store.path),
        level_of_theory=store.level_of_theory,
        labels=("energy", "forces"),
        head=free_head_name(options.method, potential.head_names),
    )
    return OpenDataset(
        spec=spec, store=store, train_indices=np.flatnonzero(~held), validation_store=store, validation_indices=np.flatnonzero(held)
    )
