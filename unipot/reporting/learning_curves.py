"""Learning curves: from the results of many runs to means over seeds, data-efficiency factors and their medians."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unipot.reporting.data_efficiency import Bounded, Median, data_efficiency, median_of

#: test set -> property -> statistic -> number: mae and rmse in canonical units; of error bars coverage (a share) and spearman
Errors = dict[str, dict[str, dict[str, float]]]
#: property and statistic that frames are compared by
COMPARED = ("forces", "mae")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One fine-tuning run of a study.

    Attributes:
        target, strategy: names in the configuration.
        n_frames: used, those that chose the weights included.
        seed: of their choice and of the training.
        stamp: hash of everything that the result depends on.
        failure: last lines of the log of a run that failed; empty otherwise.
        errors: of the chosen weights.
        start: the same before the first step; empty from scratch.
        parent: the same of the parent head after the composition shift alone; empty from scratch.
        error_bars: share of the errors of the chosen weights within their 90 % intervals, and the rank correlation of both; of energy and
            forces, empty for heads without error bars.
        forgetting: rows {dataset, head, property, before, after, ratio} of the MAE of pretraining sets.
        seconds: wall time of the whole command, search and distillation included; of the last call where a run was continued.
        n_steps, best_step: of training.
    """

    target: str
    strategy: str
    n_frames: int
    seed: int
    stamp: str
    failure: str = ""
    errors: Errors = field(default_factory=dict)
    start: Errors = field(default_factory=dict)
    parent: Errors = field(default_factory=dict)
    error_bars: Errors = field(default_factory=dict)
    forgetting: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    n_steps: int = 0
    best_step: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean over seeds, and the sample standard deviation (None of a single seed)."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one number."""
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
        return cls(mean=mean, deviation=deviation, n=len(values))


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Every seed of one target, test set, strategy and number of frames.

    Attributes:
        errors, start, parent, error_bars: (property, statistic) -> spread over seeds, see `RunResult`.
        factor: data-efficiency; None of the reference itself, and where forces or its curve are missing.
    """

    target: str
    test: str
    strategy: str
    n_frames: int
    errors: dict[tuple[str, str], Spread]
    start: dict[tuple[str, str], Spread]
    parent: dict[tuple[str, str], Spread]
    error_bars: dict[tuple[str, str], Spread] = field(default_factory=dict)
    factor: Bounded | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        flat = lambda table: {f"{p}/{s}": asdict(spread) for (p, s), spread in table.items()}  # noqa: E731
        own = {"target": self.target, "test": self.test, "strategy": self.strategy, "n_frames": self.n_frames}
        factor = None if self.factor is None else self.factor.to_dict()
        tables = {name: flat(getattr(self, name)) for name in ("errors", "start", "parent", "error_bars")}
        return {**own, **tables, "data_efficiency": factor}


def learning_curves(results: Iterable[RunResult], reference: str) -> list[CurvePoint]:
    """Points in the order of the results, with factors against the curve of the strategy `reference`.

    Runs that failed are left out.
    """
    groups: dict[tuple[str, str, str, int], list[RunResult]] = {}
    for result in results:
        if not result.failure:
            for test in result.errors:
                groups.setdefault((result.target, test, result.strategy, result.n_frames), []).append(result)
    points = [_point(key, group) for key, group in groups.items()]
    curves = {(p.target, p.test): force_curve(points, p.target, p.test, reference) for p in points}
    return [_with_factor(p, curves[p.target, p.test], reference) for p in points]


def force_curve(points: Iterable[CurvePoint], target: str, test: str, strategy: str) -> dict[int, float]:
    """Frames -> mean force MAE, eV/Å, ascending."""
    chosen = [p for p in points if (p.target, p.test, p.strategy) == (target, test, strategy) and COMPARED in p.errors]
    return {p.n_frames: p.errors[COMPARED].mean for p in sorted(chosen, key=lambda p: p.n_frames)}


def median_factors(points: Sequence[CurvePoint], first_tests: Mapping[str, str]) -> dict[tuple[str, int], Median]:
    """(strategy, frames) -> median over targets, each with its first test set.

    Args:
        points: with factors.
        first_tests: target -> name of the test set that stands for it.
    """
    found: dict[tuple[str, int], list[Bounded]] = {}
    for p in points:
        if p.factor is not None and first_tests.get(p.target) == p.test:
            found.setdefault((p.strategy, p.n_frames), []).append(p.factor)
    return {key: median_of(factors) for key, factors in sorted(found.items())}


def forgotten(result: RunResult) -> tuple[float, float] | None:
    """Mean and worst ratio of MAE after and before over pretraining sets and properties, or None where none was watched."""
    ratios = [row["ratio"] for row in result.forgetting]
    return (math.fsum(ratios) / len(ratios), max(ratios)) if ratios else None


def _point(key: tuple[str, str, str, int], group: Sequence[RunResult]) -> CurvePoint:
    target, test, strategy, n_frames = key
    tables = {name: _spreads([getattr(r, name).get(test, {}) for r in group]) for name in ("errors", "start", "parent", "error_bars")}
    return CurvePoint(target=target, test=test, strategy=strategy, n_frames=n_frames, **tables)


def _spreads(tables: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[tuple[str, str], Spread]:
    values: dict[tuple[str, str], list[float]] = {}
    for table in tables:
        for property, statistics in table.items():
            for statistic, value in statistics.items():
                values.setdefault((property, statistic), []).append(value)
    return {key: Spread.of(own) for key, own in values.items()}


def _with_factor(point: CurvePoint, curve: Mapping[int, float], reference: str) -> CurvePoint:
    own = point.errors.get(COMPARED)
    if point.strategy == reference or own is None or not curve or min(own.mean, *curve.values()) <= 0:
        return point
    return CurvePoint(**{**vars(point), "factor": data_efficiency(curve, point.n_frames, own.mean)})
