"""Tables and figure of a learning-curve study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unipot.errors import InputError
from unipot.reporting.canvas import colour_of, new_figure, png_bytes, styled
from unipot.reporting.data_efficiency import Median
from unipot.reporting.error_bar_quality import DIFFERENCES
from unipot.reporting.learning_curves import COMPARED, CurvePoint, RunResult, Spread, forgotten
from unipot.reporting.tables import ReportTable, cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: columns of the error table: heading, property, statistic
_ERRORS = (
    ("energy MAE meV/atom", "energy_per_atom", "mae"),
    ("force MAE meV/Å", "forces", "mae"),
    ("force RMSE meV/Å", "forces", "rmse"),
    ("stress MAE meV/Å³", "stress", "mae"),
)
#: columns of the error-bar table: heading, property, statistic, factor
_BARS = (
    ("energies in 90 % intervals, %", "energy", "coverage", 1e2),
    ("differences of energies, %", DIFFERENCES, "coverage", 1e2),
    ("forces in 90 % intervals, %", "forces", "coverage", 1e2),
    ("energies, rank correlation", "energy", "spearman", 1.0),
    ("forces, rank correlation", "forces", "spearman", 1.0),
    ("forces, half-width of 90 %, meV/Å", "forces", "width", 1e3),
    ("forces, mean error, meV/Å", "forces", "mae", 1e3),
)
_LINES = ("-", "--", ":", "-.")


def error_curve_table(points: Sequence[CurvePoint]) -> ReportTable:
    """Mean ± standard deviation over seeds of every point, with the force error of the start and of the parent."""
    columns = [column for column in _ERRORS if any(column[1:] in p.errors for p in points)]
    rows = tuple(
        (
            p.target, p.test, p.strategy, p.n_frames, max((s.n for s in p.errors.values()), default=0),
            *(_in_words(p.errors.get(column[1:])) for column in columns),
            _in_words(p.parent.get(COMPARED)), _in_words(p.start.get(COMPARED)),
            "–" if p.factor is None else str(p.factor),
        )
        for p in points
    )  # fmt: skip
    head = ("target", "test set", "strategy", "frames", "seeds", *(c[0] for c in columns))
    tail = ("parent, force MAE meV/Å", "step 0, force MAE meV/Å", "data efficiency")
    return ReportTable(title="Errors against frames, mean ± standard deviation over seeds", columns=(*head, *tail), rows=rows)


def error_bar_table(points: Sequence[CurvePoint]) -> ReportTable:
    """Shares of errors (of forces by component) within their 90 % intervals, and whether error bars rank errors; of points with them."""
    rows = tuple(
        (p.target, p.test, p.strategy, p.n_frames, *(_in_words(p.error_bars.get((name, kind)), factor) for _, name, kind, factor in _BARS))
        for p in points
        if p.error_bars
    )
    columns = ("target", "test set", "strategy", "frames", *(heading for heading, *_ in _BARS))
    return ReportTable(title="Error bars, mean ± standard deviation over seeds", columns=columns, rows=rows)


def short_table(points: Sequence[CurvePoint]) -> ReportTable:
    """What fits a terminal of `error_curve_table`."""
    rows = tuple(
        (
            f"{p.target}, {p.test}", p.strategy, p.n_frames, _in_words(p.start.get(COMPARED)), _in_words(p.errors.get(COMPARED)),
            "–" if p.factor is None else str(p.factor),
        )
        for p in points
    )  # fmt: skip
    columns = ("test set", "strategy", "frames", "step 0", "trained", "efficiency")
    return ReportTable(title="Force MAE, meV/Å, mean ± standard deviation over seeds", columns=columns, rows=rows)


def median_table(medians: Mapping[tuple[str, int], Median], reference: str) -> ReportTable:
    """Median data efficiency over targets."""
    rows = tuple((strategy, n_frames, str(median), median.n, median.n_bounds) for (strategy, n_frames), median in medians.items())
    return ReportTable(
        title=f"Data efficiency against {reference}: median over targets, first test set of each",
        columns=("strategy", "frames", "median factor", "targets", "of them bounds"),
        rows=rows,
    )


def run_table(results: Sequence[RunResult]) -> ReportTable:
    """Every run with its steps, time and forgetting."""
    rows = []
    for r in results:
        lost = forgotten(r) or (None, None)
        state = "failed" if r.failure else "done"
        rows.append((r.target, r.strategy, r.n_frames, r.seed, state, r.n_steps, r.best_step, r.seconds, *lost))
    columns = ("target", "strategy", "frames", "seed", "state", "steps", "best step", "seconds", "forgetting, mean ratio", "worst ratio")
    return ReportTable(title="Runs", columns=columns, rows=tuple(rows))


@styled
def learning_curve_figure(points: Sequence[CurvePoint]) -> bytes:
    """One panel per target, force MAE (energy MAE without forces) against frames on logarithmic axes; PNG.

    Circles: after training, with the standard deviation over seeds; pale crosses: the aligned model before the first step.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise InputError("a learning curve needs at least one finished run")
    targets = list(dict.fromkeys(p.target for p in points))
    strategies = list(dict.fromkeys(p.strategy for p in points))
    n_columns = min(3, len(targets))
    n_rows = math.ceil(len(targets) / n_columns)
    figure, axes = new_figure(len(targets), n_columns=n_columns, size=(4.4 * n_columns, 3.5 * n_rows))
    for axis, target in zip(axes, targets, strict=True):
        _panel(axis, [p for p in points if p.target == target], strategies)
        axis.set_title(target)
    return png_bytes(figure)


def _panel(axis: Axes, points: Sequence[CurvePoint], strategies: Sequence[str]) -> None:
    forces = any(COMPARED in p.errors for p in points)
    key, text = (COMPARED, "force MAE, meV/Å") if forces else (("energy_per_atom", "mae"), "energy MAE, meV/atom")
    for line, test in enumerate(dict.fromkeys(p.test for p in points)):
        for number, strategy in enumerate(strategies):
            own = sorted((p for p in points if (p.test, p.strategy) == (test, strategy) and key in p.errors), key=lambda p: p.n_frames)
            if not own:
                continue
            colour, style = colour_of(number), _LINES[line % len(_LINES)]
            _draw(axis, own, [p.errors[key] for p in own], color=colour, linestyle=style, marker="o", label=f"{strategy}, {test}")
            started = [p for p in own if key in p.start]
            _draw(axis, started, [p.start[key] for p in started], color=colour, linestyle=style, marker="x", alpha=0.35)
    axis.set(xscale="log", yscale="log", xlabel="frames", ylabel=text)
    ticks = sorted({p.n_frames for p in points})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    values = [1e3 * p.errors[key].mean for p in points if key in p.errors]
    if values:
        low, high = math.log10(min(values)), math.log10(max(values))
        ticks_of_errors = np.unique([float(f"{10**v:.2g}") for v in np.linspace(low, high, 4)])
        axis.set_yticks(ticks_of_errors, [f"{v:g}" for v in ticks_of_errors])
    axis.legend(fontsize=7)


def _draw(axis: Axes, points: Sequence[CurvePoint], spreads: Sequence[Spread], **style: object) -> None:
    if points:
        frames, means = [p.n_frames for p in points], [1e3 * s.mean for s in spreads]
        # a bar below zero has no place on a logarithmic axis
        below = [min(1e3 * (s.deviation or 0.0), 0.9 * m) for s, m in zip(spreads, means, strict=True)]
        axis.errorbar(frames, means, yerr=[below, [1e3 * (s.deviation or 0.0) for s in spreads]], markersize=4, capsize=2, **style)


def _in_words(spread: Spread | None, factor: float = 1e3) -> str:
    if spread is None:
        return "–"
    mean = cell_text(factor * spread.mean)
    return mean if spread.deviation is None else f"{mean} ± {cell_text(factor * spread.deviation)}"
