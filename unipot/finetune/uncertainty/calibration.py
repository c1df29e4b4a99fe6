"""From errors and standard deviations to a factor that makes ± 1.645 standard deviations cover 90 % of the errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from torch import nn

from unipot.batch import AtomBatch
from unipot.models.last_layer import predict_uncertainty
from unipot.models.posterior import NORMAL_90
from unipot.models.potential import Potential
from unipot.training.losses import labelled_mask

COVERAGE = 0.9
#: below which the conformal quantile does not exist
FEWEST_ERRORS = 9
#: independent held-out errors below which left-out training frames are asked as well
ENOUGH_ERRORS = 20
#: eV, eV/Å; no standard deviation counts as smaller
SMALLEST_WIDTH = 1e-12
#: of the root mean square of all standard deviations; smaller ones are zero by symmetry, up to rounding
FIXED_BY_SYMMETRY = 1e-4
#: half-widths of 90 % intervals that are so many times the mean error say little; for normal errors it is 2.06
TOO_WIDE = 5.0


@dataclass(frozen=True, kw_only=True)
class ErrorsAndWidths:
    """Of one property, number by number.

    Attributes:
        errors: (n,) |prediction − label|, eV or eV/Å.
        widths: (n,) standard deviations in the same unit, calibrated as stored with the head.
        structures: (n,) number of the structure; components of one do not err independently.
    """

    errors: np.ndarray
    widths: np.ndarray
    structures: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """(n,) errors in standard deviations."""
        return self.errors / np.maximum(self.widths, SMALLEST_WIDTH)

    @property
    def n_structures(self) -> int:
        return len(np.unique(self.structures))

    def informative(self) -> ErrorsAndWidths:
        """Without the numbers that symmetry fixes, as force components on the sites of a perfect crystal.

        Whatever the weights are they come out as zero, so their error is that of the label alone, and its ratio to a
        standard deviation of nothing but rounding has no meaning. Of the frames of copper in the mlearn set they are 43
        %; with them the factor of forces was 75 to 443 instead of about 10.
        """
        if not len(self.widths):
            return self
        kept = self.widths > FIXED_BY_SYMMETRY * np.sqrt(np.mean(np.square(self.widths)))
        return ErrorsAndWidths(errors=self.errors[kept], widths=self.widths[kept], structures=self.structures[kept])


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of the standard deviations of one property.

    Attributes:
        factor: that they are multiplied by, so that ± 1.645 of them cover 90 %; this one is applied.
        rms_factor: that would make their mean square that of the errors; larger than `factor` where errors are
            heavy-tailed. For the record; nan without labels.
        coverage_before: share of the errors within ± 1.645 standard deviations without the factor; nan without labels.
        n: errors (structures for energies, components for forces).
        n_effective: independent errors that these are worth, see `effective_number`.
        error: mean of the errors, eV or eV/Å; nan without labels.
        unit_width: mean half-width of the 90 % intervals without the factor, same unit.
    """

    factor: float
    coverage_before: float
    n: int
    rms_factor: float = float("nan")
    n_effective: float = 0.0
    error: float = float("nan")
    unit_width: float = float("nan")

    @property
    def width(self) -> float:
        """Mean half-width of the 90 % intervals, eV or eV/Å; of use only where it is not far above `error`."""
        return self.factor * self.unit_width

    @property
    def too_wide(self) -> bool:
        """Whether the intervals cover because they are wide, and say little."""
        return bool(self.width > TOO_WIDE * self.error)


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Errors of frames under models that were trained without them, one model per fold of cross-validation.

    Attributes:
        folds: per fold, property -> errors, and the standard deviations that the final model has for the same numbers,
            uncalibrated.
        n_frames: held out, all folds together.
        start_has_seen: whether the readout that the models started from was solved for on all frames.
    """

    folds: tuple[dict[str, ErrorsAndWidths], ...]
    n_frames: int
    start_has_seen: bool = False

    def calibration(self, name: str) -> Calibration:
        """Of property `name`: the conformal factor of the errors of all folds together, see `calibration_of`.

        Cross-conformal prediction (V. Vovk, Ann. Math. Artif. Intell. 74, 9, 2015) in the form with one final model,
        trained on all frames, whose error bars are scaled: the K-fold variant of the jackknife (R. F. Barber, E. J.
        Candès, A. Ramdas, R. J. Tibshirani, "Predictive inference with the jackknife+", Ann. Statist. 49, 486, 2021).
        It covers 90 % where training is stable, that is leaving a fold out changes errors little; the bound of CV+,
        which needs all fold models at prediction, does not hold for it. The standard deviations are those of the final
        model: a model of a fold is the surer of itself the longer it saw its fewer frames, and a factor of its own
        error bars would be too large. The final model has seen the frames, which makes its error bars on them smaller
        than on new ones (by their leverage on the last layer), and errors of models with fewer frames are larger: both
        make the factor larger than needed, never smaller.
        """
        return calibrated(pooled([fold[name] for fold in self.folds]))


def pooled(parts: Sequence[ErrorsAndWidths]) -> ErrorsAndWidths:
    """All errors in one; structures of different parts are different ones."""
    first, structures = 0, []
    for part in parts:
        structures.append(part.structures + first)
        first += int(part.structures.max()) + 1 if len(part.structures) else 0
    return ErrorsAndWidths(
        errors=np.concatenate([part.errors for part in parts]),
        widths=np.concatenate([part.widths for part in parts]),
        structures=np.concatenate(structures),
    )


def errors_and_widths(potential: Potential, batches: Iterable[AtomBatch], judge: Potential | None = None) -> dict[str, ErrorsAndWidths]:
    """`energy` (per structure) and `forces` (per component) of all labelled structures; a property without labels is empty.

    Args:
        potential: whose errors they are.
        batches: of one head each, on any device; forces of fixed atoms do not count.
        judge: whose standard deviations are taken, from the posterior of its head of the same number; `potential` by
            default. It is on the same device.

    Raises:
        ValueError: see `predict_uncertainty`.
    """
    found: dict[str, list[np.ndarray]] = {"energy": [np.zeros((3, 0))], "forces": [np.zeros((3, 0))]}
    training, first = potential.training, 0
    potential.eval()
    judge = potential if judge is None else judge
    with _without_weight_gradients(potential), _without_weight_gradients(judge):
        for batch in (given.to(potential.device) for given in batches):
            chosen = {p: labelled_mask(p, batch) for p in found}
            needed = bool(chosen["forces"].any())
            predictions = potential(batch, properties=("energy", "forces") if needed else ("energy",))
            widths = predict_uncertainty(judge, batch, forces=needed)
            structures = batch.structure_index[:, None].expand(-1, 3), batch.head_index.new_tensor(range(batch.n_structures))
            for p, mask in chosen.items():
                if bool(mask.any()):
                    error = (predictions[p].detach().double() - batch.labels[p].double()).abs()
                    owners = (structures[0] if p == "forces" else structures[1]) + first
                    columns = (error, getattr(widths, p), owners)
                    found[p].append(np.stack([column[mask].reshape(-1).double().cpu().numpy() for column in columns]))
            first += batch.n_structures
    potential.train(training)
    joined = {p: np.concatenate(parts, axis=1) for p, parts in found.items()}
    return {p: ErrorsAndWidths(errors=e, widths=w, structures=s.astype(np.int64)) for p, (e, w, s) in joined.items()}


def calibrated(found: ErrorsAndWidths) -> Calibration:
    """`calibration_of` the numbers that symmetry leaves open, with their mean error and the width of the intervals."""
    own = found.informative()
    if not len(own.errors):
        return calibration_of(own.ratios)
    width = NORMAL_90 * float(np.mean(own.widths))
    return replace(calibration_of(own.ratios, own.structures), error=float(np.mean(own.errors)), unit_width=width)


def calibration_of(ratios: np.ndarray, structures: np.ndarray | None = None) -> Calibration:
    """Split-conformal factor from |error| / standard deviation: the ⌈(n + 1)·0.9⌉-th smallest of n, over 1.645.

    J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman, JASA 113, 1094 (2018), with the error scaled by the
    standard deviation: a new error is covered with probability ≥ 0.9 whatever its distribution, if it is exchangeable
    with these. Components of one structure are not, so with `structures` n in that rule is the number of independent
    errors that they are worth (`effective_number`): the level is 0.9·(1 + 1/n_effective), and coverage is approximate.
    Fewer than nine independent errors cannot bound 90 % in that way: the plain quantile is widened as Student's is over
    the normal one (a single error per structure: errors are taken as normal of unknown scale). Without any the factor
    is 1.

    Args:
        ratios: (n,) |error| / standard deviation.
        structures: (n,) that each belongs to; None: all are independent.
    """
    n = len(ratios)
    if n == 0:
        return Calibration(factor=1.0, coverage_before=float("nan"), n=0)
    effective = float(n) if structures is None else effective_number(ratios, structures)
    rms = float(np.sqrt(np.mean(ratios**2)))
    if effective >= FEWEST_ERRORS:
        rank = min(int(np.ceil(n * COVERAGE * (1 + 1 / effective) - 1e-9)), n)
        bound = float(np.sort(ratios)[rank - 1])
    else:
        wider = stats.t.ppf((1 + COVERAGE) / 2, effective)
        bound = rms * wider if n < FEWEST_ERRORS else float(np.quantile(ratios, COVERAGE)) * wider / NORMAL_90
    return Calibration(
        factor=float(max(bound / NORMAL_90, 1e-6)),
        coverage_before=float(np.mean(ratios <= NORMAL_90)),
        n=n,
        rms_factor=rms,
        n_effective=effective,
    )


def cautious(held_out: Calibration, left_out: Calibration, enough: float = ENOUGH_ERRORS) -> Calibration:
    """`held_out`, with the larger of both factors if it rests on fewer than `enough` independent errors.

    Either may be too small: held-out frames chose the best weights, and the backbone has learned from training frames.
    """
    if held_out.n == 0:
        return left_out
    if held_out.n_effective >= enough or left_out.n == 0:
        return held_out
    return replace(held_out, factor=max(held_out.factor, left_out.factor))


def effective_number(ratios: np.ndarray, structures: np.ndarray) -> float:
    """Independent errors with the same uncertainty of a 90 % quantile: n over the design effect 1 + (m − 1)·ρ.

    ρ is the intraclass correlation (one-way analysis of variance) of "lies within the quantile" among errors of one
    structure, m their mean number (L. Kish, Survey Sampling, 1965, ch. 5). Between the number of structures and the
    number of errors; fewer than nine structures do not tell ρ, so each counts as one error.
    """
    n = len(ratios)
    _, owners, sizes = np.unique(structures, return_inverse=True, return_counts=True)
    n_groups = len(sizes)
    if n_groups < FEWEST_ERRORS or n_groups == n:
        return float(n_groups)
    inside = (ratios <= np.quantile(ratios, COVERAGE)).astype(float)
    means = np.bincount(owners, inside) / sizes
    size = (n - np.sum(sizes**2) / n) / (n_groups - 1)
    between = np.sum(sizes * (means - inside.mean()) ** 2) / (n_groups - 1)
    within = np.sum((inside - means[owners]) ** 2) / (n - n_groups)
    total = between + (size - 1) * within
    correlation = np.clip((between - within) / total, 0.0, 1.0) if total > 0 else 0.0
    return float(max(n / (1 + (n / n_groups - 1) * correlation), n_groups))


@contextmanager
def _without_weight_gradients(module: nn.Module) -> Iterator[None]:
    """Gradients of weights are not needed here."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
