"""Do energies, forces and stress of a dataset agree? Tested on near-identical frames.

Between two near-identical frames of the same atoms dE = −F·dx + V σ:ε to second order (trapezoid rule). Regressing dE
of many pairs on the two works gives one slope for forces and one for stress: 1 where labels, units and signs agree,
−1 where a sign is reversed, a ratio of units where a unit is wrong. Where most pairs agree, a frame that disagrees with
all its neighbours is the one with the wrong numbers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unipot.data.quality.frame_pairs import KEPT_PER_COMPOSITION, Frame, Pair, Window
from unipot.properties import property_named
from unipot.structure import Structure

#: lists of atoms whose latest frames are kept, and the largest structure that is kept
_KEPT_COMPOSITIONS = 1000
_MAX_ATOMS = 2000
#: pairs kept for the slopes: a random sample of all, which does not depend on where a stream was cut
_MAX_PAIRS = 3000
_MIN_PAIRS = 5
#: a frame is suspect when it disagrees with this many neighbours, and with this many for each one it agrees with
_MIN_DISAGREEING = 2
_DISAGREEING_PER_AGREEING = 4
#: above this share of pairs that disagree the set as a whole is inconsistent and no single frame is to blame
_MAX_DISAGREEING_SHARE = 0.3
_MAX_SUSPECTS = 100_000
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
        n_pairs: near-identical pairs met.
        r_squared: of the regression; nan without one.
        slopes: one per label that varied.
        n_disagreeing: pairs whose energies change by far more or less than the work between them.
    """

    n_pairs: int
    r_squared: float
    slopes: tuple[Slope, ...]
    n_disagreeing: int = 0

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
        return f"{', '.join(parts)} (1 = agrees; {self.n_pairs:,} pairs, {self.n_disagreeing:,} disagree, R² {self.r_squared:.4f})"

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


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A frame whose labels disagree with those of its near-identical neighbours.

    Attributes:
        id: of the structure.
        disagreement: largest |dE − work| ÷ uncertainty of its pairs.
        pairs: how many disagree.
    """

    id: str
    disagreement: float
    pairs: int


class ConsistencyCheck:
    """Collects pairs of near-identical frames from a stream of structures, within bounded memory.

    Args:
        max_disagreement: |dE − work| ÷ uncertainty above which a pair disagrees, see `unipot.data.quality.frame_pairs.Pair`;
            None looks for no single frames.

    Attributes:
        n_pairs: pairs met.
        n_disagreeing: those that disagree.

    Example:
        >>> check = ConsistencyCheck()
        >>> check.report().n_pairs
        0
    """

    def __init__(self, max_disagreement: float | None = 5.0) -> None:
        self.max_disagreement = max_disagreement
        self.n_pairs, self.n_disagreeing = 0, 0
        self._windows: OrderedDict[bytes, Window] = OrderedDict()
        self._rows: list[tuple[float, float, float]] = []
        self._suspects: list[Suspect] = []
        self._random = np.random.default_rng(0)

    def add(self, structure: Structure) -> None:
        """Compare with recent frames of the same atoms."""
        if "energy" not in structure.labels or not {"forces", "stress"} & set(structure.labels) or structure.n_atoms > _MAX_ATOMS:
            return
        state = repr((structure.pbc.tolist(), structure.total_charge, structure.spin_multiplicity)).encode()
        key = hashlib.blake2b(structure.atomic_numbers.tobytes() + state, digest_size=16).digest()
        window = self._windows.setdefault(key, Window())
        self._windows.move_to_end(key)
        if len(self._windows) > _KEPT_COMPOSITIONS:
            self._judge(self._windows.popitem(last=False)[1].frames)
        pairs, gone = window.add(structure)
        for first, last, pair in pairs:
            self._count(first, last, pair)
        self._judge(gone)

    @property
    def widespread(self) -> bool:
        """Whether so many pairs disagree that no single frame is to blame."""
        return self.n_disagreeing > max(_MAX_DISAGREEING_SHARE * self.n_pairs, KEPT_PER_COMPOSITION)

    def suspects(self) -> list[Suspect]:
        """Frames that disagree with nearly all their neighbours; none where the set as a whole disagrees.

        The latest frames are judged as they stand, so ask when everything has been added.
        """
        if self.widespread:
            return []
        return self._suspects + [s for s in map(_suspect, self._latest()) if s is not None]

    def report(self) -> ConsistencyReport:
        """Slopes from the pairs so far."""
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 3)
        columns = [c for c in (1, 2) if np.abs(rows[:, c]).max(initial=0.0) > 1e-9]
        if len(rows) < _MIN_PAIRS + len(columns) or not columns:
            return ConsistencyReport(n_pairs=self.n_pairs, r_squared=float("nan"), slopes=(), n_disagreeing=self.n_disagreeing)
        works, energies = rows[:, columns], rows[:, 0]
        values, errors, r_squared = _regress(works, energies)
        slopes = [
            Slope(property=("forces", "stress")[c - 1], value=float(v), error=float(e), determined=bool(abs(v) > _MIN_SIGNIFICANCE * e))
            for c, v, e in zip(columns, values, errors, strict=True)
        ]
        return ConsistencyReport(n_pairs=self.n_pairs, r_squared=r_squared, slopes=tuple(slopes), n_disagreeing=self.n_disagreeing)

    def state(self, max_pairs: int = 200) -> dict[str, Any]:
        """JSON-able outcome of a finished stream, for `merge`; at most `max_pairs` pairs are handed on."""
        chosen = np.sort(self._random.permutation(len(self._rows))[:max_pairs])
        return {
            "n_pairs": self.n_pairs,
            "n_disagreeing": self.n_disagreeing,
            "rows": [list(self._rows[k]) for k in chosen],
            # whether the set as a whole agrees is for the whole to say
            "suspects": [asdict(s) for s in (*self._suspects, *filter(None, map(_suspect, self._latest())))][:_MAX_SUSPECTS],
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another check's `state` says; its frames are not compared with ours."""
        self.n_pairs += int(state["n_pairs"])
        self.n_disagreeing += int(state["n_disagreeing"])
        self._rows += [tuple(row) for row in state["rows"]]  # type: ignore[misc]
        if len(self._rows) > _MAX_PAIRS:
            chosen = np.sort(self._random.permutation(len(self._rows))[:_MAX_PAIRS])
            self._rows = [self._rows[k] for k in chosen]
        self._suspects += [Suspect(**suspect) for suspect in state["suspects"]][: _MAX_SUSPECTS - len(self._suspects)]

    def _latest(self) -> list[Frame]:
        return [frame for window in self._windows.values() for frame in window.frames]

    def _count(self, first: Frame, last: Frame, pair: Pair) -> None:
        self.n_pairs += 1
        row = (pair.energy, pair.of_forces, pair.of_stress)
        if len(self._rows) < _MAX_PAIRS:
            self._rows.append(row)
        elif (place := int(self._random.integers(self.n_pairs))) < _MAX_PAIRS:
            self._rows[place] = row
        if self.max_disagreement is None:
            return
        disagrees = pair.disagreement > self.max_disagreement
        self.n_disagreeing += disagrees
        for frame in (first, last):
            frame.agreeing += not disagrees
            frame.disagreeing += disagrees
            frame.worst = max(frame.worst, pair.disagreement)

    def _judge(self, frames: list[Frame]) -> None:
        self._suspects += [s for s in map(_suspect, frames) if s is not None][: _MAX_SUSPECTS - len(self._suspects)]


def _suspect(frame: Frame) -> Suspect | None:
    needed = max(_MIN_DISAGREEING, _DISAGREEING_PER_AGREEING * frame.agreeing)
    if frame.disagreeing < needed:
        return None
    return Suspect(id=frame.structure.id, disagreement=frame.worst, pairs=frame.disagreeing)


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
