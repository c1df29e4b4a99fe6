"""Do energies, forces and stress of a dataset agree? Unit and sign of labels tested on near-identical frames.

Between two near-identical frames of the same atoms dE = −F·dx + V σ:ε to second order (trapezoid rule). Regressing dE
of many pairs on the two works gives one slope for forces and one for stress: 1 where labels, units and signs agree,
−1 where a sign is reversed, a ratio of units where a unit is wrong.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unipot.properties import property_named
from unipot.structure import Structure

_MAX_STRAIN = 0.06  # largest component between two frames; the error of the trapezoid rule grows with its cube
_MAX_DISPLACEMENT = 0.25  # Å
_KEPT_PER_COMPOSITION = 8
_KEPT_COMPOSITIONS = 5000
_MAX_PAIRS = 3000
_MIN_PAIRS = 5
#: a slope counts as determined when it stands this far above its standard error
_MIN_SIGNIFICANCE = 10.0
#: a wrong sign or unit is claimed only when the slope is this close to the one it would give
_MIN_R_SQUARED = 0.5
_SIGN_TOLERANCE = 0.3
_UNIT_TOLERANCE = 0.05  # of the logarithm


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Regression slope of one label.

    Attributes:
        property: `forces` or `stress`.
        value: 1 where the label agrees with the energies.
        error: standard error.
        determined: it stands far enough above its error to be judged.
    """

    property: str
    value: float
    error: float
    determined: bool


@dataclass(frozen=True, kw_only=True)
class ConsistencyReport:
    """Outcome of `ConsistencyCheck`.

    Attributes:
        n_pairs: near-identical pairs used.
        r_squared: of the regression; nan without one.
        slopes: one per label that varied.
    """

    n_pairs: int
    r_squared: float
    slopes: tuple[Slope, ...]

    def slope(self, property_name: str) -> Slope | None:
        """The slope of `forces` or `stress`, if there is one."""
        return next((slope for slope in self.slopes if slope.property == property_name), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; nan becomes null."""
        return {**asdict(self), "r_squared": None if np.isnan(self.r_squared) else self.r_squared}

    def describe(self) -> str:
        """One line for a table."""
        if not self.slopes:
            return f"not determined ({self.n_pairs} near-identical pairs)"
        parts = [f"{s.property} {s.value:.3f} ± {s.error:.3f}{'' if s.determined else ' (not significant)'}" for s in self.slopes]
        return f"{', '.join(parts)} (1 = agrees; {self.n_pairs} pairs, R² {self.r_squared:.4f})"

    def refuse_contradictions(self, name: str) -> None:
        """Stop where a determined slope says that a sign or a unit is wrong.

        Raises:
            ValueError: it does; the message names the label, the slope and what it means.
        """
        for slope in self.slopes:
            meaning = _meaning(slope) if slope.determined and self.r_squared > _MIN_R_SQUARED else None
            if meaning:
                raise ValueError(
                    f"dataset {name!r}: the {slope.property} labels contradict the energies: between {self.n_pairs} pairs of "
                    f"near-identical frames dE follows them with slope {slope.value:.3f} instead of 1, so {meaning}; "
                    f"correct the unit and sign stated for {slope.property}, or prepare with check_labels=false"
                )


class ConsistencyCheck:
    """Collects pairs of near-identical frames from a stream of structures, within bounded memory.

    Example:
        >>> check = ConsistencyCheck()
        >>> check.report().n_pairs
        0
    """

    def __init__(self) -> None:
        self._recent: OrderedDict[bytes, deque[Structure]] = OrderedDict()
        self._rows: list[tuple[float, float, float]] = []

    def add(self, structure: Structure) -> None:
        """Compare with recent frames of the same atoms."""
        if len(self._rows) >= _MAX_PAIRS or "energy" not in structure.labels or not {"forces", "stress"} & set(structure.labels):
            return
        state = repr((structure.pbc.tolist(), structure.total_charge, structure.spin_multiplicity)).encode()
        key = hashlib.blake2b(structure.atomic_numbers.tobytes() + state, digest_size=16).digest()
        recent = self._recent.setdefault(key, deque(maxlen=_KEPT_PER_COMPOSITION))
        self._recent.move_to_end(key)
        if len(self._recent) > _KEPT_COMPOSITIONS:
            self._recent.popitem(last=False)
        for other in recent:
            row = _works(other, structure)
            if row is not None:
                self._rows.append(row)
        recent.append(structure)

    def report(self) -> ConsistencyReport:
        """Slopes from the pairs so far."""
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 3)
        columns = [c for c in (1, 2) if np.abs(rows[:, c]).max(initial=0.0) > 1e-9]
        if len(rows) < _MIN_PAIRS + len(columns) or not columns:
            return ConsistencyReport(n_pairs=len(rows), r_squared=float("nan"), slopes=())
        works, energies = rows[:, columns], rows[:, 0]
        values, errors, r_squared = _regress(works, energies)
        slopes = [
            Slope(property=("forces", "stress")[c - 1], value=float(v), error=float(e), determined=bool(abs(v) > _MIN_SIGNIFICANCE * e))
            for c, v, e in zip(columns, values, errors, strict=True)
        ]
        return ConsistencyReport(n_pairs=len(rows), r_squared=r_squared, slopes=tuple(slopes))


def _works(a: Structure, b: Structure) -> tuple[float, float, float] | None:
    """(dE, work of forces, work of stress) in eV from `a` to `b`, None when they are too far apart or labels differ."""
    strain = np.zeros((3, 3))
    shift = b.positions - a.positions
    if a.pbc.all():
        deformation = np.linalg.solve(a.cell, b.cell)
        strain = deformation - np.eye(3)
        if np.abs(strain).max() > _MAX_STRAIN:
            return None
        fractional = b.positions @ np.linalg.inv(b.cell) - a.positions @ np.linalg.inv(a.cell)
        # in the frame halfway between both cells, where the trapezoid rule is of second order
        shift = (fractional - np.round(fractional)) @ (0.5 * (a.cell + b.cell))
    elif not np.allclose(a.cell, b.cell, atol=1e-6):
        return None
    shift = shift - shift.mean(axis=0)  # a rigid translation does no work, forces that do not sum to zero would
    if np.linalg.norm(shift, axis=1).max() > _MAX_DISPLACEMENT:
        return None
    moved, strained = np.abs(shift).max() > 1e-6, np.abs(strain).max() > 1e-7
    if not (moved or strained) or (strained and not ("stress" in a.labels and "stress" in b.labels)):
        return None
    if moved and not ("forces" in a.labels and "forces" in b.labels):
        return None
    of_forces = -0.5 * float(np.sum((a.labels["forces"] + b.labels["forces"]) * shift)) if moved else 0.0
    of_stress = 0.0
    if strained:
        # symmetric strain seen from the middle: (F − 1) after the frame halfway
        middle = np.linalg.solve(0.5 * (a.cell + b.cell), b.cell - a.cell)
        symmetric = 0.5 * (middle + middle.T)
        of_stress = 0.5 * float(np.sum((a.volume * a.labels["stress"] + b.volume * b.labels["stress"]) * symmetric))
    return float(b.labels["energy"] - a.labels["energy"]), of_forces, of_stress


def _regress(works: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Least squares without intercept: slopes, standard errors, R²."""
    inverse = np.linalg.pinv(works.T @ works)
    values = inverse @ works.T @ energies
    residual = energies - works @ values
    variance = float(residual @ residual) / max(len(energies) - works.shape[1], 1)
    errors = np.sqrt(np.maximum(np.diag(inverse) * variance, 0.0))
    return values, errors, 1.0 - float(residual @ residual) / max(float(energies @ energies), 1e-300)


def _meaning(slope: Slope) -> str | None:
    """What a wrong slope most likely stands for, None when it is near 1 or near nothing known."""
    units = property_named(slope.property).units
    if abs(slope.value + 1) < _SIGN_TOLERANCE:
        return "their sign is reversed" + (" (tension <-> compression)" if slope.property == "stress" else "")
    if abs(slope.value - 1) < 0.5:
        return None
    ratios = {true / stated: (a, b) for a, true in units.items() for b, stated in units.items() if a != b}
    nearest = min(ratios, key=lambda ratio: abs(np.log(ratio / abs(slope.value))))
    if abs(np.log(nearest / abs(slope.value))) > _UNIT_TOLERANCE:
        return None
    words = "their unit is wrong" if slope.value > 0 else "their unit is wrong and their sign reversed"
    return f"{words} (as when numbers in {ratios[nearest][0]} are stated to be in {ratios[nearest][1]})"
