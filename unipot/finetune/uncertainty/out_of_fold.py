"""How wrong models are on frames that they were trained without, fold by fold, in the error bars of the final model.

What calibrates error bars when the final model is trained on every frame, see `unipot.finetune.uncertainty.calibration.OutOfFold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unipot.batch import AtomBatch
from unipot.finetune.alignment.align import elements_of, energy_labels, for_head, predicted_energies
from unipot.finetune.alignment.composition_shift import fit_composition_shift
from unipot.finetune.uncertainty.calibration import ErrorsAndWidths, OutOfFold, errors_and_widths
from unipot.models.potential import Potential


@dataclass(frozen=True, kw_only=True)
class FoldFrames:
    """A model and the frames of its fold.

    Attributes:
        potential: trained on `training`.
        training: frames it has seen.
        held_out: frames it has not seen.
    """

    potential: Potential
    training: Sequence[AtomBatch]
    held_out: Sequence[AtomBatch]


def out_of_fold(final: Potential, folds: Iterable[FoldFrames], name: str, *, start_has_seen: bool = False) -> OutOfFold:
    """Errors of held-out frames under the models of their folds, with the standard deviations of the final model.

    The shift per element that the models started from was fitted to all frames, held-out ones too. So an energy counts with the larger
    error of two: as predicted, and with the shift fitted again to the training frames of the fold.

    Args:
        final: its head has a posterior.
        folds: one after the other; a model may be dropped before the next is loaded.
        name: of the head.
        start_has_seen: see `OutOfFold`.

    Raises:
        KeyError: there is no such head.
        ValueError: the head of `final` has no posterior.
    """
    found, n_frames, index = [], 0, final.heads.index(name)
    for fold in folds:
        errors = errors_and_widths(fold.potential, (for_head(batch, index) for batch in fold.held_out), judge=final)
        found.append({**errors, "energy": _without_leak(errors["energy"], fold, name)})
        n_frames += sum(batch.n_structures for batch in fold.held_out)
    return OutOfFold(folds=tuple(found), n_frames=n_frames, start_has_seen=start_has_seen)


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
