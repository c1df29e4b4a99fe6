"""What a composition regression leaves of each energy, fitted so that outliers do not hide themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipot.composition import CompositionRegression
from unipot.data.storage.shard_rows import ShardRows

#: frames further away than this many robust standard deviations (and 20 meV/atom) are left out of the next fit
_EXCLUDED_SPREADS, _EXCLUDED_FLOOR = 5.0, 0.02
_MAX_FITS = 10
#: eV/atom below which a residual is no outlier however narrow the distribution is
SPREAD_FLOOR = 1.0


@dataclass(frozen=True, eq=False)
class EnergyResiduals:
    """Energies less what the composition says.

    Attributes:
        values: (n,) float32, eV/atom (adsorption energies: eV from the median); NaN where there is no energy or no statement.
        spread: robust standard deviation, 1.4826 times the median of |values|.
    """

    values: np.ndarray
    spread: float


def energy_residuals(rows: ShardRows, energy_kind: str = "total") -> EnergyResiduals:
    """Residuals of every row, in a few passes over the columns.

    Args:
        rows: finished shards.
        energy_kind: `adsorption` energies do not grow with the number of atoms: theirs are compared with their median.
    """
    if energy_kind == "adsorption":
        return _from_median(rows)
    included = np.ones(len(rows), dtype=bool)
    values = np.full(len(rows), np.nan, dtype=np.float32)
    spread = 0.0
    for _ in range(_MAX_FITS):
        if not _fit(rows, included, values):
            return EnergyResiduals(values, 0.0)
        spread = _spread(values)
        with np.errstate(invalid="ignore"):
            inside = ~(np.abs(values) > max(_EXCLUDED_SPREADS * spread, _EXCLUDED_FLOOR))
        if (inside == included).all():
            break
        included = inside
    return EnergyResiduals(values, spread)


def _fit(rows: ShardRows, included: np.ndarray, values: np.ndarray) -> bool:
    """Regress the included rows and write the residuals of all to `values`; False without energies."""
    regression = CompositionRegression()
    for start, (counts, energies) in rows.chunks("composition", "energy"):
        chosen = included[start : start + len(energies)] & np.isfinite(energies)
        if chosen.any():
            regression.add(counts[chosen], energies[chosen])
    if regression.n_frames == 0:
        return False
    fit = regression.solve()
    for start, (counts, energies) in rows.chunks("composition", "energy"):
        residuals = (energies - counts @ fit.values) / counts.sum(axis=1)
        # an element that only excluded frames have keeps the residual of the fit that knew it
        known = ~(counts[:, ~fit.known] > 0).any(axis=1)
        part = values[start : start + len(energies)]
        part[known] = residuals[known]
    return True


def _from_median(rows: ShardRows) -> EnergyResiduals:
    values = np.concatenate([np.empty(0), *rows.columns("energy")])
    if not np.isfinite(values).any():
        return EnergyResiduals(values.astype(np.float32), 0.0)
    values = (values - np.nanmedian(values)).astype(np.float32)
    return EnergyResiduals(values, _spread(values))


def _spread(values: np.ndarray) -> float:
    return 1.4826 * float(np.nanmedian(np.abs(values)))
