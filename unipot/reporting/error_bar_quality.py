"""Do the error bars of a head hold on a dataset: coverage, miscalibration, correlation with the errors, as table, JSON and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from unipot.errors import InputError
from unipot.finetune.uncertainty.calibration import COVERAGE, ErrorsAndWidths, calibration_of
from unipot.models.posterior import NORMAL_90
from unipot.reporting.canvas import colour_of, new_figure, png_bytes
from unipot.reporting.tables import ReportTable

#: nominal levels of a calibration curve
LEVELS = np.linspace(0.0, 1.0, 101)
DIFFERENCES = "energy differences"
UNITS = {"energy": "eV per structure", DIFFERENCES: "eV per pair", "forces": "eV/Å per component"}


@dataclass(frozen=True, kw_only=True)
class ErrorBarQuality:
    """Of one property on one dataset; intervals are normal, ± Φ⁻¹((1 + p)/2) standard deviations for level p.

    Attributes:
        property: `energy` (eV per structure), `energy differences` (eV, of structures of one composition) or `forces` (eV/Å per
            component).
        n: errors.
        n_structures: that they come from.
        factor: calibration factor stored with the head.
        coverage_before: share of the errors within the 90 % interval without that factor.
        coverage: the same with it.
        expected_error_before: miscalibration area without the factor, the mean of |observed − nominal| coverage over all levels
            (K. Tran et al., Mach. Learn.: Sci. Technol. 1, 025006, 2020); 0 is calibrated, 0.5 the worst.
        expected_error: the same with the factor.
        spearman: rank correlation of |error| and standard deviation; None where one of them does not vary.
        interval_width: mean width of the 90 % intervals.
        sharpness: root mean square of the standard deviations.
        rmse: of the errors.
        mae: of the errors.
        needed_factor: split-conformal factor by which these frames would widen the intervals once more; 1 if they are honest.
        observed_before: observed coverage at `LEVELS` without the factor.
        observed: the same with it.
    """

    property: str
    n: int
    n_structures: int
    factor: float
    coverage_before: float
    coverage: float
    expected_error_before: float
    expected_error: float
    spearman: float | None
    interval_width: float
    sharpness: float
    rmse: float
    mae: float
    needed_factor: float
    observed_before: tuple[float, ...]
    observed: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "interval": COVERAGE, "levels": LEVELS.round(2).tolist()}


def error_bar_quality(name: str, found: ErrorsAndWidths, factor: float) -> ErrorBarQuality:
    """Judge calibrated standard deviations by the errors.

    Args:
        name: property.
        found: at least one error.
        factor: that the widths contain.

    Raises:
        ValueError: there are no errors.
    """
    found = found.informative()
    if not len(found.errors):
        raise InputError(f"no structure has a label of {name} that symmetry leaves open, so its error bars cannot be judged")
    after, before = observed_coverage(found.ratios), observed_coverage(found.ratios * factor)
    varied = np.ptp(found.errors) > 0 and np.ptp(found.widths) > 0
    return ErrorBarQuality(
        property=name,
        n=len(found.errors),
        n_structures=found.n_structures,
        factor=factor,
        coverage_before=float(np.mean(found.ratios * factor <= NORMAL_90)),
        coverage=float(np.mean(found.ratios <= NORMAL_90)),
        expected_error_before=miscalibration_area(before),
        expected_error=miscalibration_area(after),
        spearman=float(stats.spearmanr(found.errors, found.widths).statistic) if varied else None,
        interval_width=2 * NORMAL_90 * float(np.mean(found.widths)),
        sharpness=float(np.sqrt(np.mean(found.widths**2))),
        rmse=float(np.sqrt(np.mean(found.errors**2))),
        mae=float(np.mean(found.errors)),
        needed_factor=calibration_of(found.ratios, found.structures).factor,
        observed_before=tuple(before.tolist()),
        observed=tuple(after.tolist()),
    )


def observed_coverage(ratios: np.ndarray) -> np.ndarray:
    """(n_levels,) share of `ratios` = |error| / standard deviation within the normal interval of each of `LEVELS`."""
    return np.searchsorted(np.sort(ratios), stats.norm.ppf((1 + LEVELS) / 2), side="right") / len(ratios)


def miscalibration_area(observed: np.ndarray) -> float:
    """∫ |observed(p) − p| dp over the levels."""
    return float(np.trapezoid(np.abs(observed - LEVELS), LEVELS))


def quality_table(dataset: str, head: str, found: Sequence[ErrorBarQuality]) -> ReportTable:
    """Each property with its error bars, in milli-units; shares of the errors within 90 % intervals, calibrated and before, in %."""
    columns = (
        "property", "frames", "errors", "in 90 %, %", "before, %", "calibration error", "rank correlation", "half-width of 90 %", "MAE",
        "RMSE", "factor needed",
    )  # fmt: skip
    rows = tuple(
        (
            f"{q.property}, m{UNITS[q.property].split()[0]}", q.n_structures, q.n, 100 * q.coverage, 100 * q.coverage_before,
            q.expected_error, q.spearman, 500 * q.interval_width, 1e3 * q.mae, 1e3 * q.rmse, q.needed_factor,
        )
        for q in found
    )  # fmt: skip
    return ReportTable(title=f"{dataset}, error bars of head {head}", columns=columns, rows=rows)


def calibration_figure(found: Mapping[str, Sequence[ErrorBarQuality]], title: str = "") -> bytes:
    """Observed against nominal coverage, one panel per property, every dataset in its colour, dashed without the factor; PNG.

    Raises:
        ValueError: there is nothing to draw.
    """
    panels = [name for name in UNITS if any(q.property == name for own in found.values() for q in own)]
    if not panels:
        raise InputError("a calibration plot needs error bars of at least one property")
    figure, axes = new_figure(len(panels), title, size=(4.0 * len(panels), 3.9))
    for axis, name in zip(axes, panels, strict=True):
        axis.plot((0, 1), (0, 1), color="#888888", linewidth=0.8)
        for number, (dataset, own) in enumerate(found.items()):
            for q in (q for q in own if q.property == name):
                colour = colour_of(number)
                axis.plot(LEVELS, q.observed_before, color=colour, linestyle="--", linewidth=1.0, label=f"{dataset}, uncalibrated")
                label = f"{dataset}: {100 * q.coverage:.0f} % in 90 %, error {q.expected_error:.3f}"
                axis.plot(LEVELS, q.observed, color=colour, linewidth=1.6, label=label)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel=f"observed coverage: {name}", aspect="equal")
        axis.legend(fontsize=7, loc="upper left")
    return png_bytes(figure)
