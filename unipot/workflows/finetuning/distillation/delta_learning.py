"""Δ-learning: a teacher corrected by the user's frames, and its distillation at the user's own level of theory.

The difference between the labels and a semi-empirical method is smoother than either (R. Ramakrishnan, P. O. Dral, M.
Rupp, O. A. von Lilienfeld, "Big data meets quantum chemistry approximations: the Δ-machine learning approach", J. Chem.
Theory Comput. 11, 2087, 2015), so few frames teach it better than they teach the labels. A model of the difference is
trained on them, its prediction is added to the labels of the method on structures in thermal motion, and the final
model learns those beside the frames themselves: in use it needs neither the method nor the model of the difference.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from unipot.data.spec import DatasetSpec
from unipot.data.statistics import force_statistics
from unipot.data.store import Store, StoreWriter
from unipot.errors import InputError
from unipot.finetune.alignment.align import restart_readout
from unipot.finetune.lora import merged
from unipot.finetune.search.halving import runner_up
from unipot.models.potential import Potential
from unipot.properties import DIFFERENCE_KIND
from unipot.structure import Structure
from unipot.workflows.construction.model import SMALLEST_SCALE
from unipot.workflows.finetuning.alignment import Adaptation, Start, align_to_frames
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.delta_replay import beside_delta_replay, beside_plan, delta_replay_sets
from unipot.workflows.finetuning.distillation.kept_models import MADE_WITH, kept_model
from unipot.workflows.finetuning.distillation.model_sampling import moved_and_labelled
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS, all_labels_by, labelled_store
from unipot.workflows.finetuning.replay.pseudo_labels import label_structure
from unipot.workflows.finetuning.schema import AUTO, FULL, NONE, FinetuneConfig
from unipot.workflows.finetuning.search.fold_models import FoldModels
from unipot.workflows.finetuning.search.search_plan import Settled, SmallDataPlan, SmallDataReport, plan_search, settle
from unipot.workflows.finetuning.training_module import train_in_memory
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.user_frames import UserFrames, counted_batches
from unipot.workflows.runs.origin import settings_fingerprint
from unipot.zoo.artifact import load_potential, save_artifact

#: in a run folder: the model of the difference; a second one is called difference-2
DIFFERENCE = "difference.safetensors"
#: a head of the checkpoint is the start of the difference where its error is below so much of the difference itself
_WORTH_COPYING = 0.8
#: and what it was trained on is worth learning beside the user's difference where it is below so much: on ethanol,
#: acetylacetone and aspirin (0.07 to 0.1) it was, on 3BPA, of another functional than the head (0.69), it was not (33.2
#: instead of 32.7 meV/Å in the end)
_WORTH_REPLAYING = 0.5
_LABELS = ("energy", "forces")
#: one corrected structure of so many is not trained on: how closely the final model follows them is said on these
_MEASURED = 20
_TRAINING, _HELD_OUT = "training", "held-out"


@dataclass(frozen=True, kw_only=True)
class CorrectedDistillation:
    """What is learned beside the user's frames.

    Attributes:
        dataset: structures in thermal motion with corrected labels, through the head of the user's frames.
        searched: what small-data mode tried for the difference; None without it.
        folds: models of the difference that have not seen the frames of their fold; None without them.
        facts: for the card.
    """

    dataset: OpenDataset
    searched: SmallDataReport | None
    folds: FoldModels | None
    facts: dict[str, Any]


def why_not_corrected(config: FinetuneConfig, frames: UserFrames, replay: Sequence[OpenDataset]) -> str | None:
    """What stands against correcting the teacher, as the end of a sentence; None where it is done."""
    if "forces" not in frames.dataset.spec.labels:
        return "your frames have no forces"
    if replay or frames.further or config.properties:
        return "replay, further sets and properties are learned after a distillation of the method as it is"
    if config.finetune.method != FULL or config.finetune.l2_to_start:
        return "the strategy holds on to the pretrained model"
    return None


def is_corrected(config: FinetuneConfig, frames: UserFrames, replay: Sequence[OpenDataset], console: Console | None = None) -> bool:
    """Whether there is a teacher and it is corrected; says why not where the user could expect it."""
    if config.teacher.method == NONE or not config.teacher.corrected:
        return False
    against = why_not_corrected(config, frames, replay)
    if against and console is not None:
        console.print(f"  the teacher is not corrected by your frames: {against}", highlight=False)
    return against is None


def correct_teacher(context: FinetuneContext, pretrained: Potential, frames: UserFrames) -> CorrectedDistillation:
    """Learn the difference between the frames and the teacher, and label structures around the frames with both.

    Args:
        context: of the run; small-data mode searches how the difference is learned, and the folder of the run keeps the
            model of it, which is not trained again when the run is continued.
        pretrained: not changed.
        frames: the user's.

    Raises:
        ValueError: the method could label no frame or no structure.
    """
    options, began = context.config.teacher, time.perf_counter()
    context.console.rule(f"Δ-learning: how your labels differ from {METHODS[options.method]}")
    own = difference_frames(options.method, frames, context.cache, context.console)
    start = difference_start(context, pretrained, own)
    plan = plan_search(context.config, own, start.potential, Console(quiet=True))  # what it says was said of the frames themselves
    own = plan.frames if plan else own
    known = delta_replay_sets(context, pretrained, knowing_head(start.adaptation, own.dataset))
    beside, datasets = beside_delta_replay(context, own.dataset, known)
    plan = beside_plan(plan, beside.config) if plan and known else plan
    settled = settle(beside, plan, start, datasets)
    configs = _members(settled, plan)
    files = [context.run.path / (DIFFERENCE if k == 0 else f"{Path(DIFFERENCE).stem}-{k + 1}.safetensors") for k in range(len(configs))]
    made_with = [settings_fingerprint(context.config), *(item.store.metadata["content_hash"] for item in datasets)]
    for file, member in zip(files, configs, strict=True):
        _keep_model(file, made_with, replace(beside, config=member) if member else None, start, datasets)
    store = _corrected_store(_labelled(context, pretrained, frames), files, context.dtype, frames.dataset, context.cache)
    seconds = round(time.perf_counter() - began, 1)
    said = f"{len(store)} structures labelled by {METHODS[options.method]} and {_models(len(files))}; {seconds:.0f} s"
    context.console.print(f"  {said}", highlight=False)
    facts = {
        **asdict(options),
        "start": start.adaptation.parent,
        "n_known": sum(len(item.store) for item in known),
        "n_frames": own.n_frames,
        "steps": [member.schedule.max_steps if member else 0 for member in configs],
        "n_labelled": len(store),
        "seconds": seconds,
    }
    folds = settled.folds
    if folds is not None:
        folds = of_difference(folds, own.dataset, files[0] if settled.searched and settled.searched.keeps_start else None)
    return CorrectedDistillation(dataset=_dataset_of(store, frames.dataset), searched=settled.searched, folds=folds, facts=facts)


def of_difference(folds: FoldModels, difference: OpenDataset, start: Path | None) -> FoldModels:
    """Models of the folds as those of the difference; where nothing was trained they are its `start`, not the result of the run."""
    models = folds.models if start is None else tuple(replace(model, path=start) for model in folds.models)
    return replace(folds, models=models, dataset=difference)


def difference_frames(method: str, frames: UserFrames, cache: Path, console: Console) -> UserFrames:
    """The frames with the teacher's energies and forces taken off their labels, split as they are.

    Raises:
        ValueError: the teacher could calculate none of the training frames.
    """
    own = frames.dataset
    parts = {
        _TRAINING: [own.store[int(k)] for k in np.asarray(own.train_indices)],
        _HELD_OUT: [own.validation_store[int(k)] for k in np.asarray(own.validation_indices)],
    }
    digest = hashlib.sha256(method.encode())
    for structure in (s for part in parts.values() for s in part):
        digest.update(structure.input_bytes() + b"".join(np.asarray(v).tobytes() for _, v in sorted(structure.labels.items())))
    path = cache / f"{DIFFERENCE_KIND}-{digest.hexdigest()[:12]}.unipot"
    found = _labels_of(frames)
    labels = tuple(name for name in own.spec.labels if name in found or name not in (*_LABELS, "stress"))
    n_frames = sum(map(len, parts.values()))
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with StoreWriter(
            path,
            name=own.spec.name,
            level_of_theory=f"{own.spec.level_of_theory} less {METHODS[method]} (tblite)",
            energy_kind=DIFFERENCE_KIND,
            labels=labels,
        ) as writer:
            writer.extend(_differences(method, parts, labels))
    store = Store(path)
    if len(store) < n_frames:
        said = f"warning: {METHODS[method]} failed on {n_frames - len(store)} of {n_frames} frames, which say nothing of the difference"
        console.print(said, style="yellow", highlight=False)
    of_part = np.array([str(name).partition("-")[0] == _TRAINING for name in store.ids])
    spec = replace(own.spec, path=str(path), level_of_theory=store.level_of_theory, energy_kind=DIFFERENCE_KIND, labels=labels)
    dataset = OpenDataset(
        spec=spec, store=store, train_indices=np.flatnonzero(of_part), validation_store=store, validation_indices=np.flatnonzero(~of_part)
    )
    return UserFrames(dataset=dataset, test=None, n_frames=len(store))


def difference_start(context: FinetuneContext, pretrained: Potential, own: UserFrames) -> Start:
    """A copy of the pretrained model whose new head begins as a head for differences that fits, else with a fresh readout.

    Heads for the labels themselves say nothing of a difference: to start from one of them is worse than from random
    weights.
    """
    potential, dataset, console = copy.deepcopy(pretrained), own.dataset, context.console
    kinds = {name: potential.heads[name].energy_kind for name in potential.head_names}
    heads = [name for name, kind in kinds.items() if kind == DIFFERENCE_KIND]
    candidates = heads or [potential.head_names[0]]
    adaptation = align_to_frames(potential, dataset, AUTO, context.budget, context.config.new_elements, parents=candidates)
    size = _mean_size(dataset)
    if heads and adaptation.scores[0].force_mae < _WORTH_COPYING * size:
        error, head = 1000 * adaptation.scores[0].force_mae, adaptation.parent
        console.print(f"  starts from head {head!r}: {error:.0f} of {1000 * size:.0f} meV/A are left to learn", highlight=False)
        return Start(potential=potential, adaptation=adaptation)
    name = dataset.spec.head
    batches = counted_batches(potential, dataset.store, dataset.train_indices, name, context.budget)
    rms = force_statistics(dataset.store, dataset.train_indices).rms
    restart_readout(potential, name, batches, scale=max(rms, SMALLEST_SCALE), seed=context.config.seed)
    console.print(f"  starts from a fresh readout: {1000 * size:.0f} meV/A are to be learned", highlight=False)
    return Start(potential=potential, adaptation=Adaptation(new_elements=adaptation.new_elements))


def knowing_head(start: Adaptation, dataset: OpenDataset) -> str | None:
    """The head that the model of the difference starts from, where it leaves so little to learn that its training set is of the kind."""
    return start.parent if start.scores and start.scores[0].force_mae < _WORTH_REPLAYING * _mean_size(dataset) else None


def _labelled(context: FinetuneContext, pretrained: Potential, frames: UserFrames) -> Store:
    """Structures around the frames with the teacher's labels; where they are periodic, a first model moves them, not the teacher."""
    own, config = frames.dataset, context.config
    starts = [own.store[int(index)] for index in np.asarray(own.train_indices)]
    if any(start.pbc.any() for start in starts):
        return moved_and_labelled(context, pretrained, frames, _labels_of(frames))
    return labelled_store(config.teacher, starts, config.seed, context.cache, context.console)


def _labels_of(frames: UserFrames) -> tuple[str, ...]:
    """Energies and forces as far as the frames have them, and stress where all of them are fully periodic."""
    own = frames.dataset
    stress = all(own.store[int(index)].pbc.all() for index in np.asarray(own.train_indices))
    return tuple(name for name in (*_LABELS, "stress") if name in own.spec.labels and (name != "stress" or stress))


def _mean_size(dataset: OpenDataset) -> float:
    """Mean absolute force component of the training frames, eV/Å."""
    forces = [dataset.store[int(k)].labels.get("forces") for k in np.asarray(dataset.train_indices)]
    return float(np.mean(np.abs(np.concatenate([f for f in forces if f is not None])))) if any(f is not None for f in forces) else 0.0


def _differences(method: str, parts: dict[str, list[Structure]], labels: Sequence[str]) -> Iterator[Structure]:
    n_found = dict.fromkeys(parts, 0)
    for part, structures in parts.items():
        for number, (structure, known) in enumerate(zip(structures, all_labels_by(method, structures, labels), strict=True)):
            if known is None:
                continue
            n_found[part] += 1
            left = {k: v - known[k] if k in known else v for k, v in structure.labels.items() if k in labels}
            yield replace(structure, labels=left, id=f"{part}-{number}")
    if not n_found[_TRAINING]:
        raise InputError(f"teacher.method={method} could calculate none of your frames; check their elements, charge and geometry")


def _members(settled: Settled, plan: SmallDataPlan | None) -> list[FinetuneConfig | None]:
    """Settings of the models whose mean is the difference: the best, and the second best where it is nearly as good; None keeps the start.

    Errors of models trained with different optimizers or rates are not the same ones, so that their mean is better than
    either.
    """
    if plan is None or settled.searched is None:
        return [settled.config]
    if settled.searched.keeps_start:
        return [None]
    second = runner_up(settled.searched.trials, settled.searched.choice)
    if second is None:
        return [settled.config]
    name, steps = second
    return [settled.config, replace(plan.candidates[name], schedule=replace(settled.config.schedule, max_steps=steps))]


def _keep_model(
    file: Path, made_with: Sequence[str], member: FinetuneContext | None, start: Start, datasets: Sequence[OpenDataset]
) -> None:
    """Train a model of the difference on all frames and write it, unless the very same is there; without a `member` it is the start."""
    if kept_model(file, made_with, start.potential.dtype) is not None:
        return
    own = replace(start, potential=copy.deepcopy(start.potential))
    if member is not None:
        train_in_memory(member, own, datasets)
    save_artifact(file, merged(own.potential.eval()), card={"name": "the difference to the teacher", MADE_WITH: list(made_with)})


def _models(n: int) -> str:
    return "a model of the difference" if n == 1 else f"the mean of {n} models of the difference"


def _corrected_store(labelled: Store, files: Sequence[Path], dtype: torch.dtype, own: OpenDataset, cache: Path) -> Store:
    """The teacher's structures with labels of the user's level: the teacher's and the mean difference."""
    digest = hashlib.sha256(labelled.path.name.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    path, labels = cache / f"corrected-{digest}.unipot", tuple(name for name in labelled.labels if name in own.spec.labels)
    if not path.exists():
        models = [load_potential(file, dtype=dtype).eval() for file in files]
        with StoreWriter(
            path, name="corrected-teacher", level_of_theory=own.spec.level_of_theory, energy_kind=own.store.energy_kind, labels=labels
        ) as writer:
            writer.extend(_corrected(labelled, models, own.spec.head, labels))
    return Store(path)


def _corrected(labelled: Store, models: Sequence[Potential], head: str, labels: Sequence[str]) -> Iterator[Structure]:
    for structure in labelled:
        left = [label_structure(model, structure, head, labels).labels for model in models]
        yield replace(structure, labels={name: structure.labels[name] + np.mean([one[name] for one in left], axis=0) for name in labels})


def _dataset_of(store: Store, own: OpenDataset) -> OpenDataset:
    spec = DatasetSpec(
        name=store.name,
        path=str(store.path),
        level_of_theory=own.spec.level_of_theory,
        energy_kind=store.energy_kind,
        labels=store.labels,
        head=own.spec.head,
    )
    every = min(_MEASURED, max(len(store) // 2, 2))
    measured = np.arange(len(store)) % every == every - 1
    return OpenDataset(
        spec=spec, store=store, train_indices=np.flatnonzero(~measured), validation_store=store, validation_indices=np.flatnonzero(measured)
    )
