"""What the slope between energies and the work of forces and stress says of units, signs and orders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipot.data.quality.frame_pairs import OTHER_ORDERS, Pair
from unipot.properties import property_named

#: numbers kept of a pair: change of energy, work of forces, work of stress, atoms, and the work of stress in each other order
ROW_LENGTH = 4 + len(OTHER_ORDERS)
_ENERGY, _FORCES, _STRESS, _ATOMS = range(4)
_COLUMNS = {"forces": _FORCES, "stress": _STRESS}
MIN_PAIRS = 5
#: a slope counts as determined when it stands this far above its standard error
_MIN_SIGNIFICANCE = 10.0
#: a wrong sign or unit is claimed only when the slope is this close to the one it would give
_SIGN_TOLERANCE = 0.3
_UNIT_TOLERANCE = 0.05  # of the logarithm
#: how far a slope may be from 1 before it means anything
_NEAR_ONE = 0.5
#: energies per atom are claimed when slopes times the number of atoms are this close to 1
_PER_ATOM_TOLERANCE = 0.2
#: another order is claimed when it explains the energies this much better: ratio of squared residuals, logarithm of the odds
_MIN_RESIDUAL_RATIO, _MIN_LOG_ODDS = 1.5, 8.0
#: share of the energies' changes, root mean square, that a wrong order or factor must make, so that other errors do not pass for it
_MIN_EFFECT = 0.1


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Regression slope of one label.

    Attributes:
        property: `forces` or `stress`.
        value: 1 where the label agrees with the energies.
        error: standard error.
        determined: it stands far enough above its error to be judged.
        effect: by how much a slope of 1 would change the energies, as a share of their changes (root mean squares).
    """

    property: str
    value: float
    error: float
    determined: bool
    effect: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Energies against works: one slope per label that varied, and the share of the energies' changes that they explain."""

    slopes: tuple[Slope, ...]
    r_squared: float


def row_of(pair: Pair) -> tuple[float, ...]:
    """The numbers of a pair that slopes are made of."""
    return (pair.energy, pair.of_forces, pair.of_stress, float(pair.n_atoms), *pair.of_other_orders)


def fit_slopes(rows: np.ndarray) -> Fit | None:
    """Slopes of (n, `ROW_LENGTH`) rows; None where nothing varied or there are too few."""
    columns = {name: column for name, column in _COLUMNS.items() if np.abs(rows[:, column]).max(initial=0.0) > 1e-9}
    if len(rows) < MIN_PAIRS + len(columns) or not columns:
        return None
    return _fit(rows[:, _ENERGY], rows[:, list(columns.values())], tuple(columns))


def energies_per_atom(rows: np.ndarray, fit: Fit) -> bool:
    """Whether energies times the number of atoms agree with forces and stress where the energies as they are do not."""
    scaled = _fit(rows[:, _ENERGY] * rows[:, _ATOMS], rows[:, [_COLUMNS[s.property] for s in fit.slopes]], [s.property for s in fit.slopes])
    judged = [(before, after) for before, after in zip(fit.slopes, scaled.slopes, strict=True) if is_off(before) and after.determined]
    return (
        bool(judged)
        and not any(map(is_off, scaled.slopes))
        and scaled.r_squared > max(fit.r_squared - 0.02, 0.5)
        and all(abs(after.value - 1) < _PER_ATOM_TOLERANCE for _, after in judged)
    )


def better_order(rows: np.ndarray) -> tuple[tuple[int, int, int], Fit] | None:
    """The order of the shears of the stress that fits the energies clearly better than the one they were read in.

    Returns:
        One of `OTHER_ORDERS` and its fit; None where the order read fits as well, or the pairs do not tell.
    """
    others = rows[:, _ATOMS + 1 :]
    sheared = np.abs(others - rows[:, [_STRESS]]).max(axis=1, initial=0.0) > 1e-9
    if sheared.sum() < MIN_PAIRS + 2:
        return None
    rows, others = rows[sheared], others[sheared]
    forces = [_FORCES] if np.abs(rows[:, _FORCES]).max() > 1e-9 else []
    names = [*(["forces"] if forces else []), "stress"]
    works = [np.column_stack([rows[:, forces], stress]) for stress in (rows[:, _STRESS], *others.T)]
    fits = [_fit(rows[:, _ENERGY], work, names) for work in works]
    residuals = np.array([max(1 - fit.r_squared, 1e-12) for fit in fits])
    best, second = np.argsort(residuals[1:])[:2] + 1
    odds = 0.5 * len(rows) * np.log(residuals / residuals[best])
    slope = fits[best].slopes[-1]
    clear = residuals[0] > _MIN_RESIDUAL_RATIO * residuals[best] and odds[0] > _MIN_LOG_ODDS and odds[second] > 0.5 * _MIN_LOG_ODDS
    effect, changes = works[best][:, -1] - works[0][:, -1], rows[:, _ENERGY]
    matters = residuals[0] > _MIN_EFFECT**2 and effect @ effect > _MIN_EFFECT**2 * (changes @ changes)
    sound = fits[best].r_squared > 0.5 and 0.5 < abs(slope.value) < 2 and abs(slope.value) > 5 * slope.error
    return (OTHER_ORDERS[best - 1], fits[best]) if clear and matters and sound else None  # type: ignore[return-value]


def meaning(slope: Slope) -> str | None:
    """What a wrong slope most likely stands for, None when it is near 1 or near nothing known."""
    units = property_named(slope.property).units
    if abs(slope.value + 1) < _SIGN_TOLERANCE:
        return "their sign is reversed" + (" (tension <-> compression)" if slope.property == "stress" else "")
    if abs(slope.value - 1) < _NEAR_ONE:
        return None
    ratios = {true / stated: (a, b) for a, true in units.items() for b, stated in units.items() if a != b}
    nearest = min(ratios, key=lambda ratio: abs(np.log(ratio / abs(slope.value))))
    if abs(np.log(nearest / abs(slope.value))) > _UNIT_TOLERANCE:
        return None
    words = "their unit is wrong" if slope.value > 0 else "their unit is wrong and their sign reversed"
    return f"{words} (as when numbers in {ratios[nearest][0]} are stated to be in {ratios[nearest][1]})"


def is_off(slope: Slope) -> bool:
    """Whether a slope is far from 1, whatever it stands for, and matters."""
    return slope.determined and not abs(slope.value - 1) < _NEAR_ONE and slope.effect > _MIN_EFFECT


def _fit(energies: np.ndarray, works: np.ndarray, names: tuple[str, ...] | list[str]) -> Fit:
    """Least squares without intercept."""
    inverse = np.linalg.pinv(works.T @ works)
    values = inverse @ works.T @ energies
    residual = energies - works @ values
    variance = float(residual @ residual) / max(len(energies) - works.shape[1], 1)
    errors = np.sqrt(np.maximum(np.diag(inverse) * variance, 0.0))
    sizes = np.linalg.norm(works, axis=0) / max(np.linalg.norm(energies), 1e-300)
    slopes = [
        Slope(property=name, value=v, error=e, determined=abs(v) > _MIN_SIGNIFICANCE * e, effect=abs(v - 1) * size)
        for name, v, e, size in zip(names, values.tolist(), errors.tolist(), sizes.tolist(), strict=True)
    ]
    return Fit(slopes=tuple(slopes), r_squared=1.0 - float(residual @ residual) / max(float(energies @ energies), 1e-300))
