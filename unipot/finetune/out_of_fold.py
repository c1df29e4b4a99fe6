"""How wrong models are on frames that they were trained without, fold by fold, in their own error bars.

What calibrates error bars when the final model is trained on every frame, see `unipot.finetune.calibration.OutOfFold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unipot.batch import AtomBatch
from unipot.finetune.align import elements_of, energy_labels, for_head, predicted_energies
from unipot.finetune.calibrated_posterior import LAST_LAYER, attach_uncalibrated
from unipot.finetune.calibration import ErrorsAndWidths, OutOfFold, errors_and_widths
from unipot.finetune.composition_shift import fit_composition_shift
from unipot.models.potential import Potential


@dataclass(frozen=True, kw_only=True)
class FoldFrames:
    """A model and the frames of its fold.

    Attributes:
        potential: trained on `training`; its head gets a posterior of those frames.
        steps: that it was trained for.
        training: frames it has seen.
        groups: of these, frame by frame, or None.
        held_out: frames it has not seen.
    """

    potential: Potential
    steps: int
    training: Sequence[AtomBatch]
    groups: Sequence[Any] | None
    held_out: Sequence[AtomBatch]


def out_of_fold(folds: Iterable[FoldFrames], name: str, *, method: str = LAST_LAYER, start_has_seen: bool = False) -> OutOfFold:
    """Errors of held-out frames in standard deviations of a posterior fitted to the other frames.

    The shift per element that the models started from was fitted to all frames, held-out ones too. So an energy counts with the larger
    error of two: as predicted, and with the shift fitted again to the training frames of the fold.

    Args:
        folds: one after the other; a model may be dropped before the next is loaded.
        name: of the head.
        method: of the error bars, as for `fit_posterior`.
        start_has_seen: see `OutOfFold`.

    Raises:
        KeyError: there is no such head.
        NothingToFit: the training frames of a fold leave nothing to fit.
    """
    found, steps, n_frames = [], [], 0
    for fold in folds:
        attach_uncalibrated(fold.potential, name, fold.training, method=method, groups=fold.groups)
        index = fold.potential.heads.index(name)
        errors = errors_and_widths(fold.potential, (for_head(batch, index) for batch in fold.held_out))
        found.append({**errors, "energy": _without_leak(errors["energy"], fold, name)})
        steps.append(fold.steps)
        n_frames += sum(batch.n_structures for batch in fold.held_out)
    return OutOfFold(folds=tuple(found), steps=tuple(steps), n_frames=n_frames, start_has_seen=start_has_seen)


def _without_leak(energy: ErrorsAndWidths, fold: FoldFrames, name: str) -> ErrorsAndWidths:
    """The larger of the errors as they are and with the shift of the fold's training frames."""
    elements = elements_of([*fold.training, *fold.held_out])
    counts, labels = energy_labels(fold.training, elements)
    if not len(labels) or not len(energy.errors):
        return energy
    residuals = labels - predicted_energies(fold.potential, name, fold.training)
    shift = fit_composition_shift(counts, residuals, elements).shift
    others, targets = energy_labels(fold.held_out, elements)
    shifted = np.abs(targets - predicted_energies(fold.potential, name, fold.held_out) - others @ shift)
    return replace(energy, errors=np.maximum(energy.errors, shifted))
