"""`teacher.method=auto`: a lesson from xTB where it can be had in minutes and the user's own frames speak for it.

A lesson helps where the teacher's forces follow those of the labels: on molecules with cosines of 0.87 to 0.98 between the two, errors
after fine-tuning on 30 frames fell by 20 to 30 %. The cosine costs one calculation for each of a few frames, so it is measured.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from unipot.structure import Structure
from unipot.workflows.datasets import OpenDataset
from unipot.workflows.difference import DIFFERENCE
from unipot.workflows.frame_limits import spread
from unipot.workflows.run_folder import RunFolder
from unipot.workflows.strategy import FULL
from unipot.workflows.teacher import FACTS
from unipot.workflows.teacher_labels import AUTO, METHODS, NONE, driven_by

if TYPE_CHECKING:
    from unipot.workflows.finetune import FinetuneConfig

#: what `auto` teaches
METHOD = "gfn2-xtb"
#: with as many frames or more there is enough to learn from, without the method; where it is corrected by the frames it still halved
#: errors with 300 of ethanol
FEW, FEW_CORRECTED = 100, 500
#: atoms of the largest molecule: thousands of calculations, each of a cost that grows with the cube of it
MOST_ATOMS = 50
#: last element that the method has parameters for
LAST_ELEMENT = 86
#: frames that are compared, and the cosine of forces below which there is no lesson
COMPARED, FOLLOWS = 10, 0.8
#: a relative difference of forces below which the labels are the teacher's own
OWN_LABELS = 1e-3


def choose_teacher(config: FinetuneConfig, own: OpenDataset, run: RunFolder, console: Console) -> FinetuneConfig:
    """`config` with `teacher.method` settled: what the user said, or for `auto` the method or none; what was decided is printed.

    Args:
        config: of the run.
        own: the user's frames; force labels of a few of the training ones are compared with the teacher's.
        run: one that is continued keeps what it decided, whatever is installed by now.
        console: the reason is said here, where molecules are few enough for a lesson.
    """
    if config.teacher.method != AUTO:
        return config
    had_lesson = METHOD if any((run.path / file).is_file() for file in (FACTS, DIFFERENCE)) else NONE
    method, reason = (had_lesson, "") if run.resume else _choice(config, own)
    if reason:
        what = METHODS[method] if method != NONE else "none"
        console.print(f"  a lesson first: {what}, {reason}", highlight=False, markup=False)
    return replace(config, teacher=replace(config.teacher, method=method))


def _choice(config: FinetuneConfig, own: OpenDataset) -> tuple[str, str]:
    """Method or none, and why; no reason where nobody would expect a lesson."""
    few = FEW_CORRECTED if config.teacher.corrected else FEW
    if config.from_scratch or config.trainer.in_several_processes or "forces" not in own.spec.labels or len(own.train_indices) >= few:
        return NONE, ""
    frames = [own.store[int(index)] for index in np.asarray(own.train_indices)]
    small = all(not s.pbc.any() and s.n_atoms <= MOST_ATOMS and s.atomic_numbers.max() <= LAST_ELEMENT for s in frames)
    if not small:
        return NONE, ""
    if importlib.util.find_spec("tblite") is None:
        return NONE, "because tblite is not installed; with it (pip install tblite) these molecules would be learned from xTB first"
    keeps = _what_is_kept(config)
    if keeps:
        return NONE, f"because it changes the whole backbone and {keeps} is to keep it; teacher.method={METHOD} takes one all the same"
    return _by_evidence(frames)


def _what_is_kept(config: FinetuneConfig) -> str:
    """The option by which the user holds on to what pretraining knew; empty without one."""
    if config.finetune.method != FULL:
        return f"the strategy {config.finetune.method}"
    if config.finetune.l2_to_start:
        return "l2_to_start"
    return "replay" if config.replay or config.replay_pretrain_run or config.self_replay.wanted else ""


def _by_evidence(frames: Sequence[Structure]) -> tuple[str, str]:
    compared = _compared(frames)
    if compared is None:
        return NONE, f"because {METHODS[METHOD]} could calculate none of the frames that have forces; check their charge and spin"
    labels, predicted = compared
    cosine = float(labels @ predicted / max(np.linalg.norm(labels) * np.linalg.norm(predicted), 1e-12))
    if np.linalg.norm(labels - predicted) < OWN_LABELS * np.linalg.norm(labels):
        return NONE, f"because your labels are those of {METHODS[METHOD]} itself"
    told = f"whose forces have a cosine of {cosine:.2f} with yours"
    if cosine < FOLLOWS:
        return NONE, f"because {METHODS[METHOD]}, {told}, does not follow them (at least {FOLLOWS:g} would be needed)"
    return METHOD, f"{told} (teacher.method=none leaves it out)"


def _compared(frames: Sequence[Structure]) -> tuple[np.ndarray, np.ndarray] | None:
    """Force labels (eV/Å) of a few frames, and the teacher's forces there, both flat; None where nothing could be compared.

    Atoms that were fixed, and frames of weight zero, do not count, as in the loss.
    """
    from ase.calculators.calculator import CalculationFailed

    labelled = [s for s in frames if "forces" in s.labels and not s.fixed.all() and s.labels.get("weight") != 0]
    pairs = []
    for k in spread(len(labelled), COMPARED):
        free = ~labelled[k].fixed
        try:
            forces = driven_by(METHOD, labelled[k]).get_forces(apply_constraint=False)
        except CalculationFailed:
            continue
        pairs.append((labelled[k].labels["forces"][free], forces[free]))
    if not pairs:
        return None
    return np.concatenate([one.ravel() for one, _ in pairs]), np.concatenate([other.ravel() for _, other in pairs])
