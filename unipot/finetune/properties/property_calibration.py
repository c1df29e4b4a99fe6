"""Uncertainties of property heads: split-conformal intervals, and how well they cover.

The spread of an ensemble tells which structures are hard, not how large errors are. One factor per property makes it so
(Papadopoulos et al. 2002; Angelopoulos and Bates 2023, 2.3): with r_i = |error_i| / spread_i on n held-out structures, the
interval spread · r_(k), k = ⌈0.9 (n + 1)⌉, covers a new structure of the same kind with probability of at least 0.9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from unipot.batch import AtomBatch
from unipot.models.potential import Potential
from unipot.models.property_heads import COVERAGE, NORMAL_QUANTILE
from unipot.training.losses import labelled_mask

#: structures without which the quantile is not defined
FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class IntervalReport:
    """How the intervals of one property do on structures with values.

    Attributes:
        property: name.
        n: structures.
        factor: half-width of an interval over the spread of the members; 1.645 where the head is not calibrated.
        coverage: share of values inside. Of the structures that calibration used: each half by the factor of the other half, None
            for fewer than twenty.
        coverage_before: with the spread taken as a standard deviation, before calibration.
        mean_width: mean half-width of the intervals, in the unit of the property.
        correlation: Spearman's, of |error| and spread.
    """

    property: str
    n: int
    factor: float
    coverage: float | None
    coverage_before: float
    mean_width: float
    correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def calibrate_property(potential: Potential, name: str, batches: Iterable[AtomBatch]) -> IntervalReport | None:
    """Set `interval` of a property head from held-out structures; None, and no change, where fewer than ten have a value.

    Args:
        potential: its head changes in place.
        name: of the property.
        batches: structures that the head was not trained on.
    """
    head = potential.property_heads[name]
    errors, spreads = _errors_and_spreads(potential, name, batches)
    if len(errors) < FEWEST or head.n_members == 1:
        return None
    ratios = errors / np.maximum(spreads, np.finfo(np.float64).tiny)
    factor = _conformal_factor(ratios)
    head.interval = torch.tensor(factor, dtype=torch.float64, device=head.interval.device)
    halves = (ratios[::2], ratios[1::2])
    crossed = [own <= _conformal_factor(other) for own, other in (halves, halves[::-1])] if len(ratios) >= 2 * FEWEST else []
    return _report(name, errors, spreads, factor, covered=np.concatenate([np.empty(0), *crossed]))


def measure_intervals(potential: Potential, name: str, batches: Iterable[AtomBatch]) -> IntervalReport | None:
    """How the intervals of a property head do on other structures; None where none has a value or there is no ensemble."""
    head = potential.property_heads[name]
    errors, spreads = _errors_and_spreads(potential, name, batches)
    if not len(errors) or head.n_members == 1:
        return None
    factor = float(head.interval) or NORMAL_QUANTILE
    return _report(name, errors, spreads, factor, covered=errors <= factor * spreads)


def _report(name: str, errors: np.ndarray, spreads: np.ndarray, factor: float, covered: np.ndarray) -> IntervalReport:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (errors, spreads)]
    varied = len(errors) > 2 and np.ptp(errors) > 0 and np.ptp(spreads) > 0
    return IntervalReport(
        property=name,
        n=len(errors),
        factor=factor,
        coverage=float(covered.mean()) if len(covered) else None,
        coverage_before=float((errors <= NORMAL_QUANTILE * spreads).mean()),
        mean_width=float(factor * spreads.mean()),
        correlation=float(np.corrcoef(*ranks)[0, 1]) if varied else None,
    )


def _conformal_factor(ratios: np.ndarray) -> float:
    """The smallest factor that covers 90 % of structures like these (n of at least 9)."""
    return float(np.sort(ratios)[math.ceil(COVERAGE * (len(ratios) + 1)) - 1])


def _errors_and_spreads(potential: Potential, name: str, batches: Iterable[AtomBatch]) -> tuple[np.ndarray, np.ndarray]:
    errors, spreads = [np.empty(0)], [np.empty(0)]
    training = potential.training
    potential.eval()
    with torch.no_grad():
        for batch in batches:
            chosen = labelled_mask(name, batch)
            if bool(chosen.any()):
                members = potential(batch.to(potential.device), properties=("energy", name)).members[name].cpu()[chosen.cpu()]
                errors.append((members.mean(dim=1) - batch.labels[name].cpu()[chosen.cpu()]).abs().numpy())
                spreads.append(members.std(dim=1).numpy() if members.shape[1] > 1 else np.zeros(len(members)))
    potential.train(training)
    return np.concatenate(errors), np.concatenate(spreads)
