"""Do energies, forces and stress of a dataset agree? Tested on near-identical frames.

Between two near-identical frames of the same atoms dE = −F·dx + V σ:ε to second order (trapezoid rule). Regressing dE
of many pairs on the two works gives one slope for forces and one for stress: 1 where labels, units and signs agree,
−1 where a sign is reversed, a ratio of units where a unit is wrong. Where most pairs agree, a frame that disagrees with
all its neighbours is the one with the wrong numbers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unipot.data.labels import order_where
from unipot.data.quality.frame_pairs import KEPT_PER_COMPOSITION, Frame, Pair, Window
from unipot.data.quality.label_slopes import ROW_LENGTH, Slope, better_order, energies_per_atom, fit_slopes, is_off, meaning, row_of
from unipot.errors import InputError
from unipot.structure import Structure

#: lists of atoms whose latest frames are kept, and the largest structure that is kept
_KEPT_COMPOSITIONS = 1000
_MAX_ATOMS = 2000
#: pairs kept for the slopes: a random sample of all, which does not depend on where a stream was cut
_MAX_PAIRS = 3000
#: a frame is suspect when it disagrees with this many neighbours, and with this many for each one it agrees with
_MIN_DISAGREEING = 2
_DISAGREEING_PER_AGREEING = 4
#: above this share of pairs that disagree the set as a whole is inconsistent and no single frame is to blame
_MAX_DISAGREEING_SHARE = 0.3
_MAX_SUSPECTS = 100_000
#: R² from which a wrong sign or unit is believed, and from which a factor is that no unit explains
_MIN_R_SQUARED, _CERTAIN_R_SQUARED = 0.5, 0.9
#: such a factor stands this far above its standard error
_CERTAIN_SIGNIFICANCE = 30.0


@dataclass(frozen=True, kw_only=True)
class ConsistencyReport:
    """Outcome of `ConsistencyCheck`.

    Attributes:
        n_pairs: near-identical pairs met.
        r_squared: of the regression; nan without one.
        slopes: one per label that varied.
        n_disagreeing: pairs whose energies change by far more or less than the work between them.
        per_atom: energies times the number of atoms agree with the other labels, energies as they are do not.
        read_as: another order of the stress components fits the energies clearly better: for each of the true yz, xz,
            xy which of the three that were read holds it.
    """

    n_pairs: int
    r_squared: float
    slopes: tuple[Slope, ...]
    n_disagreeing: int = 0
    per_atom: bool = False
    read_as: tuple[int, int, int] | None = None

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

    def refuse_contradictions(self, name: str, order: str = "voigt") -> None:
        """Stop where labels contradict the energies.

        Args:
            name: of the dataset.
            order: that six stress numbers were read in.

        Raises:
            ValueError: a determined slope says that a sign or unit is wrong, that energies are per atom or off by a
                factor that no unit explains, or another order of the stress fits clearly better; the message says what
                it means.
        """
        found = self._wrong_order(order) or self._per_atom() or next(filter(None, map(self._contradiction, self.slopes)), "")
        if found:
            raise InputError(f"dataset {name!r}: {found}, or read it with check_labels=false")

    def doubts(self) -> list[str]:
        """Sentences on factors that no unit explains and that are not certain enough to refuse."""
        doubted = [s for s in self.slopes if is_off(s) and self.r_squared > _MIN_R_SQUARED]
        return [f"{self._between(s)}: check the unit of {s.property}, and that energies are of whole structures" for s in doubted]

    def _wrong_order(self, order: str) -> str:
        if self.read_as is None:
            return ""
        return (
            f"the stress was read in the order {order!r}, but between {self.n_pairs} pairs of near-identical frames energies follow it "
            f"clearly better in the order {order_where(order, self.read_as)!r}; state the order of the six numbers with "
            "labels.stress.order (sources.stress.order outside unipot prepare)"
        )

    def _per_atom(self) -> str:
        if not self.per_atom:
            return ""
        slope = next(filter(is_off, self.slopes))
        also = f"; or, of the {slope.property}, {meaning(slope)}" if meaning(slope) else ""
        return (
            f"the energies look like energies per atom: {self._between(slope)}, and times the number of atoms they agree{also}; "
            "give energies of whole structures"
        )

    def _contradiction(self, slope: Slope) -> str:
        if not slope.determined or not self.r_squared > _MIN_R_SQUARED:
            return ""
        what = meaning(slope)
        certain = self.r_squared > _CERTAIN_R_SQUARED and abs(slope.value) > _CERTAIN_SIGNIFICANCE * slope.error
        if not what and is_off(slope) and certain:
            what = f"they are {1 / slope.value:.3g} times what the energies say, a factor that fits no unit"
        return f"{self._between(slope)}, so {what}; correct the unit and sign stated for {slope.property}" if what else ""

    def _between(self, slope: Slope) -> str:
        return (
            f"the {slope.property} labels contradict the energies: between {self.n_pairs} pairs of near-identical frames dE follows them "
            f"with slope {slope.value:.3f} instead of 1"
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
        max_disagreement: |dE − work| ÷ uncertainty above which a pair disagrees, see
            `unipot.data.quality.frame_pairs.Pair`; None looks for no single frames.

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
        self._rows: list[tuple[float, ...]] = []
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
            self._note_suspects(self._windows.popitem(last=False)[1].frames)
        pairs, gone = window.add(structure)
        for first, last, pair in pairs:
            self._count(first, last, pair)
        self._note_suspects(gone)

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
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, ROW_LENGTH)
        counts = {"n_pairs": self.n_pairs, "n_disagreeing": self.n_disagreeing}
        fit = fit_slopes(rows)
        if fit is None:
            return ConsistencyReport(r_squared=float("nan"), slopes=(), **counts)
        found = better_order(rows)
        return ConsistencyReport(
            r_squared=fit.r_squared, slopes=fit.slopes, per_atom=energies_per_atom(rows, fit), read_as=found[0] if found else None, **counts
        )

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
        self._rows += [_whole_row(row) for row in state["rows"]]
        if len(self._rows) > _MAX_PAIRS:
            chosen = np.sort(self._random.permutation(len(self._rows))[:_MAX_PAIRS])
            self._rows = [self._rows[k] for k in chosen]
        self._suspects += [Suspect(**suspect) for suspect in state["suspects"]][: _MAX_SUSPECTS - len(self._suspects)]

    def _latest(self) -> list[Frame]:
        return [frame for window in self._windows.values() for frame in window.frames]

    def _count(self, first: Frame, last: Frame, pair: Pair) -> None:
        self.n_pairs += 1
        row = row_of(pair)
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

    def _note_suspects(self, frames: list[Frame]) -> None:
        self._suspects += [s for s in map(_suspect, frames) if s is not None][: _MAX_SUSPECTS - len(self._suspects)]


def _suspect(frame: Frame) -> Suspect | None:
    needed = max(_MIN_DISAGREEING, _DISAGREEING_PER_AGREEING * frame.agreeing)
    if frame.disagreeing < needed:
        return None
    return Suspect(id=frame.structure.id, disagreement=frame.worst, pairs=frame.disagreeing)


def _whole_row(row: Sequence[float]) -> tuple[float, ...]:
    """A row of a finished piece; those of an earlier version say nothing of atoms and of other orders."""
    return tuple(row) if len(row) == ROW_LENGTH else (*row, 1.0, *[row[2]] * (ROW_LENGTH - 4))
