"""`teacher.method=auto`: distillation of xTB where it can be had in minutes and the user's own frames speak for it.

Distillation helps where the teacher's forces follow those of the labels: on molecules with cosines of 0.87 to 0.98
between the two, errors after fine-tuning on 30 frames fell by 20 to 30 %. The cosine costs one calculation for each of
a few frames, so it is measured. Metals and their surfaces are left out by it: charges do not converge, or bonds are far
too stiff.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console

from unipot.structure import Structure
from unipot.workflows.finetuning.distillation.delta_learning import DIFFERENCE
from unipot.workflows.finetuning.distillation.plain import FACTS
from unipot.workflows.finetuning.distillation.xtb_labels import METHODS, labels_by
from unipot.workflows.finetuning.schema import AUTO, FULL, NONE, FinetuneConfig
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.runs.run_folder import RunFolder

#: what `auto` teaches: molecules, and periodic systems, where the second converges less often and takes three times as
#: long
METHOD, PERIODIC_METHOD = "gfn2-xtb", "gfn1-xtb"
#: with as many frames or more there is enough to learn from, without the method; where it is corrected by the frames it
#: still halved errors with 300 of ethanol
FEW, FEW_CORRECTED = 100, 500
#: atoms of the largest molecule: thousands of calculations, each of a cost that grows with the cube of it; of the
#: largest periodic cell, of which a hundred are calculated
MOST_ATOMS, MOST_PERIODIC_ATOMS = 50, 200
#: last element that the method has parameters for
LAST_ELEMENT = 86
#: frames that are compared, of molecules and of periodic systems, and the cosine of forces below which nothing is
#: distilled
COMPARED, COMPARED_PERIODIC, FOLLOWS = 10, 3, 0.8
#: the largest difference of forces over them (2-norms) with which there is one: of molecules 0.35 still halved errors.
#: What it lacks in periodic systems is not all local (one k-point): at 0.1 (liquid water) differences are learned to
#: half the error of the labels, at 0.4 (silicon) to more than that
TOO_FAR, TOO_FAR_PERIODIC = 0.7, 0.25
#: a relative difference of forces below which the labels are the teacher's own
OWN_LABELS = 1e-3


def choose_teacher(config: FinetuneConfig, own: OpenDataset, run: RunFolder, console: Console) -> FinetuneConfig:
    """`config` with `teacher.method` settled: what the user said, or for `auto` the method or none; what was decided is printed.

    Args:
        config: of the run.
        own: the user's frames; force labels of a few of the training ones are compared with the teacher's.
        run: one that is continued keeps what it decided, whatever is installed by now.
        console: the reason is said here, where molecules are few enough for a distillation.
    """
    if config.teacher.method != AUTO:
        return config
    was_distilled = any((run.path / file).is_file() for file in (FACTS, DIFFERENCE))
    method, reason = (method_for(own) if was_distilled else NONE, "") if run.resume else _method_and_reason(config, own)
    if reason:
        what = METHODS[method] if method != NONE else "none"
        console.print(f"  distillation first: {what}, {reason}", highlight=False, markup=False)
    return replace(config, teacher=replace(config.teacher, method=method))


def _method_and_reason(config: FinetuneConfig, own: OpenDataset) -> tuple[str, str]:
    """Method or none, and why; no reason where nobody would expect a distillation."""
    few = FEW_CORRECTED if config.teacher.corrected else FEW
    if config.from_scratch or "forces" not in own.spec.labels or len(own.train_indices) >= few:
        return NONE, ""
    frames = [own.store[int(index)] for index in np.asarray(own.train_indices)]
    if not _affordable(frames) or (frames[0].pbc.any() and (not config.teacher.corrected or config.also or config.properties)):
        return NONE, ""
    if config.trainer.in_several_processes:
        return NONE, f"because distillation runs in one process; so few frames ({len(frames)}) are best learned in one (trainer.devices=1)"
    if importlib.util.find_spec("tblite") is None:
        return NONE, "because tblite is not installed; with it (pip install tblite) these systems would be learned from xTB first"
    method = method_for(own)
    keeps = _what_is_kept(config)
    if keeps:
        instead = "" if config.finetune.kept_layers else f"; teacher.method={method} takes one all the same"
        return NONE, f"because it changes the whole backbone and {keeps} is to keep it{instead}"
    return _by_evidence(method, frames)


def method_for(own: OpenDataset) -> str:
    """What teaches the user's systems."""
    return PERIODIC_METHOD if any(own.store[int(index)].pbc.any() for index in np.asarray(own.train_indices)) else METHOD


def _affordable(frames: Sequence[Structure]) -> bool:
    """Whether all are molecules, or all fully periodic, and small enough."""
    periodic, most = frames[0].pbc.any(), MOST_PERIODIC_ATOMS if frames[0].pbc.any() else MOST_ATOMS
    alike = all(s.pbc.all() if periodic else not s.pbc.any() for s in frames)
    return alike and all(s.n_atoms <= most and s.atomic_numbers.max() <= LAST_ELEMENT for s in frames)


def _what_is_kept(config: FinetuneConfig) -> str:
    """The option by which the user holds on to what pretraining knew; empty without one."""
    if config.finetune.method != FULL:
        return f"the strategy {config.finetune.method}"
    if config.finetune.l2_to_start:
        return "l2_to_start"
    return "replay" if config.replay or config.replay_pretrain_run or config.self_replay.wanted else ""


def _by_evidence(method: str, frames: Sequence[Structure]) -> tuple[str, str]:
    name = METHODS[method]
    compared = _compared(method, frames)
    if compared is None:
        return NONE, f"because {name} could not calculate the frames that have forces; check their charge and spin"
    labels, predicted = compared
    size = float(np.linalg.norm(labels))
    cosine = float(labels @ predicted / max(size * float(np.linalg.norm(predicted)), 1e-12))
    apart = float(np.linalg.norm(labels - predicted)) / max(size, 1e-12)
    if apart < OWN_LABELS:
        return NONE, f"because your labels are those of {name} itself"
    told = f"whose forces have a cosine of {cosine:.2f} with yours"
    if cosine < FOLLOWS:
        return NONE, f"because {name}, {told}, does not follow them (at least {FOLLOWS:g} would be needed)"
    too_far = TOO_FAR_PERIODIC if frames[0].pbc.any() else TOO_FAR
    if apart > too_far:
        return NONE, f"because {name}, {told}, is {apart:.2f} of their size away from them (at most {too_far:g} would help)"
    return method, f"{told} (teacher.method=none leaves it out)"


def _compared(method: str, frames: Sequence[Structure]) -> tuple[np.ndarray, np.ndarray] | None:
    """Force labels (eV/Å) of a few frames, and the teacher's forces there, both flat; None where nothing could be compared.

    Atoms that were fixed, and frames of weight zero, do not count, as in the loss. Where a periodic frame fails, others
    would.
    """
    labelled = [s for s in frames if "forces" in s.labels and not s.fixed.all() and s.labels.get("weight") != 0]
    periodic = frames[0].pbc.any()
    pairs = []
    for k in spread(len(labelled), COMPARED_PERIODIC if periodic else COMPARED):
        free, found = ~labelled[k].fixed, labels_by(method, labelled[k], ("forces",))
        if found is not None:
            pairs.append((labelled[k].labels["forces"][free], found["forces"][free]))
        elif periodic:
            return None
    if not pairs:
        return None
    return np.concatenate([one.ravel() for one, _ in pairs]), np.concatenate([other.ravel() for _, other in pairs])
