"""Error bars of a finished head, posterior or ensemble, their scale calibrated on frames that were not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from unipot.batch import AtomBatch
from unipot.finetune.alignment.align import elements_of, for_head
from unipot.finetune.alignment.readout_fit import free_of_composition
from unipot.finetune.linear.evidence import LinearPosterior, laplace_posterior
from unipot.finetune.linear.frame_sums import FrameSums, frame_sums
from unipot.finetune.linear.readout_rows import ReadoutRows, readout_rows
from unipot.finetune.uncertainty.calibration import (
    COVERAGE,
    ENOUGH_ERRORS,
    TOO_WIDE,
    Calibration,
    ErrorsAndWidths,
    OutOfFold,
    calibrated,
    cautious,
    errors_and_widths,
)
from unipot.finetune.uncertainty.energy_zero import EnergyZero, energy_zero
from unipot.finetune.uncertainty.head_ensemble import ensemble_factor
from unipot.finetune.uncertainty.leave_one_out import leave_one_out_residuals
from unipot.finetune.uncertainty.out_of_fold import FoldFrames, out_of_fold
from unipot.models.last_layer import fingerprint_of
from unipot.models.posterior import POSTERIOR_VERSIONS, LastLayerPosterior
from unipot.models.potential import Potential

LAST_LAYER, ENSEMBLE, NONE = "last-layer", "ensemble", "none"
#: values of the option `uncertainty`
UNCERTAINTIES = (LAST_LAYER, ENSEMBLE, NONE)
#: what error bars are calibrated on
HELD_OUT, OUT_OF_FOLD, LEFT_OUT = "held-out", "out-of-fold", "left-out"


@dataclass(frozen=True, kw_only=True)
class PosteriorReport:
    """What the error bars of a head rest on, for its card.

    Attributes:
        head: its name.
        method: `last-layer` (posterior) or `ensemble`.
        n_frames: that the posterior was fitted to.
        effective_parameters: last-layer weights that they determine.
        noise: property -> misfit of the training frames, eV/atom, eV/Å, eV/Å³.
        calibrated_on: `held-out` frames (few of them: and left-out ones), frames `out-of-fold`, or `left-out` training
            frames; see the modules of these names beside this one.
        energy: eV per structure.
        forces: eV/Å per component.
        warnings: sentences the user should read.
        calibration_frames: frames that it was calibrated on.
        n_folds: that they are of, `out-of-fold`.
    """

    head: str
    method: str
    n_frames: int
    effective_parameters: float
    noise: dict[str, float]
    calibrated_on: str
    energy: Calibration
    forces: Calibration
    warnings: tuple[str, ...]
    calibration_frames: int = 0
    n_folds: int = 0

    def calibrated_in_words(self) -> str:
        """What the scale of the error bars rests on."""
        if self.calibrated_on == OUT_OF_FOLD:
            folds = "1 fold" if self.n_folds == 1 else f"{self.n_folds} folds"
            return f"calibrated out of fold on {self.calibration_frames} frames of {folds}"
        if self.calibrated_on == LEFT_OUT:
            return f"calibrated on {self.calibration_frames} training frames, leave-one-out"
        return f"calibrated on {self.calibration_frames} {self.calibrated_on} frames"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; a number that does not exist is None."""
        content = asdict(self)
        for name in ("energy", "forces"):
            content[name] = {key: None if np.isnan(value) else value for key, value in content[name].items()}
        return {**content, "interval": COVERAGE, "warnings": list(self.warnings), "calibration": self.calibrated_in_words()}


def fit_posterior(
    potential: Potential,
    name: str,
    batches: Sequence[AtomBatch],
    held_out: Sequence[AtomBatch],
    *,
    method: str = LAST_LAYER,
    groups: Sequence[Any] | None = None,
    folds: Iterable[FoldFrames] | None = None,
    start_has_seen: bool = False,
    open_zero: np.ndarray | None = None,
) -> PosteriorReport:
    """Give head `name` a covariance of its last layer around its present weights, which do not change.

    Args:
        potential: gets `heads[name].posterior`.
        name: of the head.
        batches: frames that it was trained on.
        held_out: frames that it was not trained on, for the calibration. Where they are few, and alone without any, training
            frames count that are left out of the last layer one at a time, in closed form; that is a warning.
        method: `last-layer`, the posterior; `ensemble`, the covariance of last layers solved for on resamples of the frames.
        groups: of `batches`, frame by frame: relatives are resampled and left out together; None: every frame for itself.
        folds: models trained without part of `batches`, whose errors on them take the place of `held_out` where that is empty.
        start_has_seen: see `unipot.finetune.uncertainty.calibration.OutOfFold`.
        open_zero: (119, 119) eV/atom, see `unipot.finetune.alignment.composition_shift.open_compositions`; None: not known.

    Raises:
        KeyError: there is no such head.
        NothingToFit: nothing is labelled, beyond energies that shifts per element explain; or one frame is to make an ensemble.
        ValueError: the head predicts forces directly, or an element has no reference.
    """
    posterior, rows, sums, solution, zero = attach_uncalibrated(potential, name, batches, method=method, groups=groups)
    if open_zero is not None:
        posterior.open_compositions = torch.from_numpy(open_zero).to(potential.device)
    chosen = leave_one_out_calibrations(rows, sums, zero, posterior.factor.cpu().numpy())
    calibrated_on, n_frames, n_folds, crossed = LEFT_OUT, rows.n_frames, 0, None
    if held_out:
        calibrated_on, n_frames = HELD_OUT, sum(batch.n_structures for batch in held_out)
        chosen = tuple(cautious(*pair) for pair in zip(calibrations(potential, name, held_out), chosen, strict=True))
    elif folds is not None:
        crossed = out_of_fold(potential, folds, name, start_has_seen=start_has_seen)
        calibrated_on, n_frames, n_folds = OUT_OF_FOLD, crossed.n_frames, len(crossed.folds)
        chosen = crossed_calibrations(crossed, chosen)
    energy, forces = _shared(*chosen)
    posterior.calibration.copy_(torch.tensor([energy.factor, forces.factor], dtype=torch.float64))
    return PosteriorReport(
        head=name,
        method=method,
        n_frames=rows.n_frames,
        effective_parameters=solution.effective,
        noise=solution.noise,
        calibrated_on=calibrated_on,
        energy=energy,
        forces=forces,
        warnings=tuple(_warnings(calibrated_on, crossed, energy, forces)),
        calibration_frames=n_frames,
        n_folds=n_folds,
    )


def attach_uncalibrated(
    potential: Potential, name: str, batches: Sequence[AtomBatch], *, method: str = LAST_LAYER, groups: Sequence[Any] | None = None
) -> tuple[LastLayerPosterior, ReadoutRows, FrameSums, LinearPosterior, EnergyZero | None]:
    """`fit_posterior` without the calibration, its factors being 1; returns the posterior and what it was made of."""
    head, elements = potential.heads[name], elements_of(batches)
    rows = readout_rows(potential, name, batches, elements, ["last-layer"])["last-layer"]
    weights = head.readout.output.weight.detach()[0].double().cpu().numpy()
    solution = laplace_posterior(free_of_composition(rows), weights)
    sums = frame_sums(rows, solution, groups)
    factor = ensemble_factor(sums) if method == ENSEMBLE else solution.factor
    zero = energy_zero(rows, factor)
    posterior = LastLayerPosterior(head.n_hidden, POSTERIOR_VERSIONS[-1])
    mean, columns = torch.from_numpy(solution.mean), torch.from_numpy(np.ascontiguousarray(factor))
    posterior.set(mean, columns, (1.0, 1.0), fingerprint_of(potential, head))
    if zero is not None:
        posterior.set_zero(elements, torch.from_numpy(zero.average_features), torch.from_numpy(zero.factor))
    head.posterior = posterior.to(potential.device)
    return head.posterior, rows, sums, solution, zero


def calibrations(potential: Potential, name: str, batches: Sequence[AtomBatch]) -> tuple[Calibration, Calibration]:
    """Of energies and forces, by the errors of head `name` on `batches`; its posterior is to have no calibration yet."""
    index = potential.heads.index(name)
    found = errors_and_widths(potential, (for_head(batch, index) for batch in batches))
    energy, forces = (calibrated(found[p]) for p in ("energy", "forces"))
    return energy, forces


def crossed_calibrations(crossed: OutOfFold, left_out: Sequence[Calibration]) -> tuple[Calibration, ...]:
    """Of energies and forces: out of fold, not below those of leave-one-out where that is wise, see `cautious`."""
    enough = math.inf if crossed.start_has_seen else ENOUGH_ERRORS
    found = [crossed.calibration(name) for name in ("energy", "forces")]
    return tuple(cautious(own, left, enough) for own, left in zip(found, left_out, strict=True))


def leave_one_out_calibrations(
    rows: ReadoutRows, sums: FrameSums, zero: EnergyZero | None, factor: np.ndarray
) -> tuple[Calibration, Calibration]:
    """The same without held-out frames: errors of training frames that the last layer does not see."""
    found = []
    for name in ("energy", "forces"):
        residual, exists = leave_one_out_residuals(rows, sums, name)
        centred = name == "energy" and zero is not None
        widths = zero.widths(rows, factor) if centred else np.linalg.norm(rows.blocks[name].design @ factor, axis=1)
        own = ErrorsAndWidths(errors=np.abs(residual)[exists], widths=widths[exists], structures=rows.frames[name][exists])
        found.append(calibrated(own))
    return found[0], found[1]


def _shared(energy: Calibration, forces: Calibration) -> tuple[Calibration, Calibration]:
    """A property without errors takes the factor of the other."""
    if energy.n == 0:
        return replace(energy, factor=forces.factor), forces
    return energy, forces if forces.n else replace(forces, factor=energy.factor)


def _warnings(calibrated_on: str, crossed: OutOfFold | None, energy: Calibration, forces: Calibration) -> Iterator[str]:
    if calibrated_on == LEFT_OUT:
        yield (
            "no frames were held out: uncertainties are calibrated on training frames by leave-one-out of the last layer, in closed form; "
            "the rest of the model has seen them, so expect the error bars to be too small"
        )
    careful = calibrated_on != LEFT_OUT
    if crossed is not None and crossed.start_has_seen:
        careful = False
        yield (
            "the readout that the folds started from was solved for on all frames, so the larger of the factor out of fold and that of "
            "training frames by leave-one-out of the last layer is taken"
        )
    for name, own in (("energies", energy), ("forces", forces)):
        if own.n == 0:
            yield f"no frame has {name} to calibrate their uncertainties on; they take the other factor"
        elif own.n_effective < ENOUGH_ERRORS:
            also = ", so the larger of their factor and that of leave-one-out on training frames is taken" if careful else ""
            yield f"{name}: {own.n_effective:.0f} independent errors are few to calibrate 90 % intervals on{also}; the intervals are rough"
        if own.too_wide:
            unit = "meV/A" if name == "forces" else "meV"
            yield (
                f"{name}: the 90 % intervals are too wide to be of use (±{1000 * own.width:.3g} {unit} where errors are "
                f"{1000 * own.error:.3g} {unit} on average, more than {TOO_WIDE:g} times); calibrate on more frames"
            )
