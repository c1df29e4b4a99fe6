"""Structures in thermal motion under a first model of the user's frames, for a teacher that is too slow to drive them itself.

A semi-empirical method takes seconds for a periodic cell of a hundred atoms, a dynamics of thousands of steps with it
hours. A model that has learned the frames for a minute is wrong by tenths of the forces, but what its atoms pass
through in a tenth of a picosecond is what atoms pass through; the method is asked for labels of some of these
structures alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from ase.md.langevin import Langevin
from rich.console import Console

from unipot.calculator import UnipotCalculator
from unipot.data.store import Store
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.workflows.finetuning.alignment import starting_point
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.label_parts import KeptParts
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS, all_labels_by, store_of, thermal_motion
from unipot.workflows.finetuning.schema import TeacherConfig
from unipot.workflows.finetuning.training_module import train_in_memory
from unipot.workflows.inputs.user_frames import UserFrames
from unipot.workflows.runs.origin import settings_fingerprint

#: fs between two labelled structures of a trajectory, at least: they are few, so that they should differ
_APART = 25
#: a trajectory ends where a force is so many times the largest of the user's labels, and above so many eV/Å: there the
#: model knows nothing
_TOO_LARGE, _NEVER_TOO_LARGE = 2.0, 5.0
#: structures that are kept at a time; after the first so many it is said how long all of them will take
_PART = 10


def moved_and_labelled(context: FinetuneContext, pretrained: Potential, frames: UserFrames, labels: Sequence[str]) -> Store:
    """The store of structures that a first model moved and the teacher labelled, made unless it is there.

    Args:
        context: of the run; its optimizer and schedule are those of the first model, without a search.
        pretrained: not changed.
        frames: the user's; every training frame is the start of a trajectory.
        labels: that the teacher gives.

    Raises:
        ValueError: the method could label no structure.
    """
    options = context.config.teacher
    starts = [frames.dataset.store[int(index)] for index in np.asarray(frames.dataset.train_indices)]
    made_with = [settings_fingerprint(context.config), frames.dataset.store.metadata["content_hash"], list(labels)]
    digest = hashlib.sha256(json.dumps(made_with).encode())
    for start in starts:
        digest.update(start.input_bytes())
    path = context.cache / f"{options.method}-{digest.hexdigest()[:12]}.unipot"
    moved = partial(_moved_by_first_model, context, pretrained, frames, starts)
    return store_of(path, options, labels, partial(_labelled, options.method, moved, labels, context.console))


def n_labelled(options: TeacherConfig, starts: Sequence[Structure]) -> int:
    """How many periodic structures are labelled: as many as have `periodic_atoms` together, one per start at least."""
    n_atoms = float(np.mean([start.n_atoms for start in starts]))
    return min(options.frames, max(len(starts), round(options.periodic_atoms / n_atoms)))


def _moved_by_first_model(
    context: FinetuneContext, pretrained: Potential, frames: UserFrames, starts: Sequence[Structure]
) -> list[Structure]:
    """Structures under the aligned model after a training with the optimizer and schedule of the run."""
    start = starting_point(context.quietly(), copy.deepcopy(pretrained), frames)
    train_in_memory(context, start, [frames.dataset])
    config, head = context.config, frames.dataset.spec.head
    return _moved_structures(config.teacher, start.potential.eval(), head, starts, config.seed, context.console)


def _moved_structures(
    options: TeacherConfig, model: Potential, head: str, starts: Sequence[Structure], seed: int, console: Console
) -> list[Structure]:
    """Structures of one Langevin dynamics per start, without labels."""
    calculator = UnipotCalculator(model, head)
    largest = max((float(np.abs(start.labels["forces"]).max()) for start in starts if "forces" in start.labels), default=0.0)
    limit, n_wanted = max(_TOO_LARGE * largest, _NEVER_TOO_LARGE), n_labelled(options, starts)
    found: list[Structure] = []
    n_ended = 0
    for number, start in enumerate(starts):
        n_each = (n_wanted * (number + 1)) // len(starts) - (n_wanted * number) // len(starts)
        atoms = replace(start, labels={}).to_ase()
        atoms.calc = calculator
        own = list(_trajectory(options, thermal_motion(atoms, options.temperature, seed, number), n_each, limit))
        n_ended += len(own) < n_each
        found += [replace(start, positions=at, labels={}, id=f"{number}-{k}", group=str(number)) for k, at in enumerate(own)]
    if n_ended:
        said = f"warning: {n_ended} of {len(starts)} trajectories under the first model ended early, at forces above {limit:.0f} eV/A"
        console.print(said, style="yellow", highlight=False)
    return found


def _trajectory(options: TeacherConfig, dynamics: Langevin, n_structures: int, limit: float) -> Iterator[np.ndarray]:
    """(n_atoms, 3) positions, Å, until a force exceeds `limit` (eV/Å)."""
    apart = max(options.steps_between, _APART)
    for k in range(n_structures):
        for _ in range(apart if k else options.steps_before):
            dynamics.run(1)
            if not np.abs(dynamics.atoms.get_forces()).max() < limit:
                return
        yield dynamics.atoms.positions.copy()


def _labelled(
    method: str, moved: Callable[[], list[Structure]], labels: Sequence[str], console: Console, parts: KeptParts
) -> Iterator[Structure]:
    structures = moved()
    known = {(structure.id, structure.input_bytes()): structure for structure in parts.everything()}
    missing = [structure for structure in structures if (structure.id, structure.input_bytes()) not in known]
    also = f", {len(known)} of which a killed run has kept" if known else ""
    console.print(f"  {len(structures)} structures of a dynamics under a first model are labelled{also}", highlight=False)
    for structure in _kept_as_they_come(method, missing, labels, len(known), parts, console):
        known[structure.id, structure.input_bytes()] = structure
    if failed := len(structures) - len(known):
        console.print(f"warning: {METHODS[method]} failed on {failed} of {len(structures)} structures", style="yellow")
    every = (known.get((structure.id, structure.input_bytes())) for structure in structures)
    yield from (structure for structure in every if structure is not None)


def _kept_as_they_come(
    method: str, structures: Sequence[Structure], labels: Sequence[str], n_before: int, parts: KeptParts, console: Console
) -> Iterator[Structure]:
    """Those that the method could label; a part is kept as soon as it is full, named after the structures before it."""
    began, part = time.perf_counter(), []
    for k, (structure, found) in enumerate(zip(structures, all_labels_by(method, structures, labels), strict=True)):
        if k == _PART - 1:
            minutes = (time.perf_counter() - began) / _PART * len(structures) / 60
            console.print(f"  which takes {'about ' + format(minutes, '.0f') if minutes >= 1 else 'less than 1'} min", highlight=False)
        if found is not None:
            part.append(structure.with_labels(**found))
            yield part[-1]
        if len(part) == _PART:
            parts.keep(n_before + k, part)
            part = []
