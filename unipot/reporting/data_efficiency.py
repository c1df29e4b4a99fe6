"""Data-efficiency factor: frames that a reference needs for the same error, divided by the frames used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unipot.errors import InputError

EXACT, LOWER, UPPER = "exact", "lower", "upper"


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A number, or what it is certainly above or below.

    Attributes:
        value: the number or the bound.
        bound: `exact`, `lower` (the truth is above `value`) or `upper` (the truth is below it).
    """

    value: float
    bound: str = EXACT

    def __str__(self) -> str:
        return {EXACT: "", LOWER: "> ", UPPER: "< "}[self.bound] + f"{self.value:#.3g}".rstrip(".")

    def over(self, number: float) -> Bounded:
        """The same, divided by a positive number."""
        return Bounded(value=self.value / number, bound=self.bound)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Median:
    """Median of numbers of which some are bounds: what it lies between, equal where the bounds do not matter.

    Attributes:
        low, high: 0 and infinity where nothing is known.
        n: numbers.
        n_bounds: of them, bounds.
    """

    low: float
    high: float
    n: int
    n_bounds: int

    def __str__(self) -> str:
        if self.low == self.high:
            return str(Bounded(value=self.low))
        if math.isinf(self.high):
            return str(Bounded(value=self.low, bound=LOWER)) if self.low > 0 else "unknown"
        return str(Bounded(value=self.high, bound=UPPER)) if self.low == 0 else f"{Bounded(value=self.low)} to {Bounded(value=self.high)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; an unknown end is None."""
        return {**asdict(self), "low": self.low or None, "high": None if math.isinf(self.high) else self.high}


def monotone(curve: Mapping[int, float]) -> dict[int, float]:
    """The smallest error with at most that many frames.

    More frames may always be left out, so noise that makes an error grow with the frames is taken in favour of the
    reference: the factor is never flattered by it.
    """
    best, found = math.inf, {}
    for n_frames in sorted(curve):
        best = min(best, curve[n_frames])
        found[n_frames] = best
    return found


def frames_needed(reference: Mapping[int, float], error: float) -> Bounded:
    """Frames with which the reference reaches `error`: log error is linear in log frames between neighbours.

    Nothing is extrapolated: an error below that of the most frames gives a lower bound, one above that of the fewest an
    upper bound.

    Args:
        reference: frames -> error, both positive; made monotone first, see `monotone`.
        error: to be reached, same unit.

    Raises:
        ValueError: the curve is empty, or a number is not positive.

    Example:
        >>> str(frames_needed({10: 100.0, 1000: 10.0}, 31.6227766)), str(frames_needed({10: 100.0, 1000: 10.0}, 5.0))
        ('100.', '> 1e+03')
    """
    if not reference:
        raise InputError("the reference has no finished run; frames cannot be compared")
    if min(*reference, *reference.values(), error) <= 0:
        raise InputError(f"frames and errors must be positive, found {min(*reference, *reference.values(), error)}")
    points = list(monotone(reference).items())
    first, last = points[0], points[-1]
    if error > first[1]:
        return Bounded(value=first[0], bound=UPPER)
    if error < last[1]:
        return Bounded(value=last[0], bound=LOWER)
    k = next(k for k, (_, own) in enumerate(points) if own <= error)
    if k == 0:
        return Bounded(value=float(first[0]))
    (n_before, before), (n_after, after) = points[k - 1], points[k]
    part = math.log(before / error) / math.log(before / after)
    return Bounded(value=math.exp(math.log(n_before) + part * math.log(n_after / n_before)))


def data_efficiency(reference: Mapping[int, float], n_frames: int, error: float) -> Bounded:
    """`frames_needed` divided by the frames used; see there for arguments and errors."""
    return frames_needed(reference, error).over(n_frames)


def median_of(factors: Sequence[Bounded]) -> Median:
    """Median over targets; a lower bound counts as anything from it to infinity, an upper one as anything from 0 to it.

    Raises:
        ValueError: there are none.
    """
    if not factors:
        raise InputError("a median needs at least one number")
    low = [0.0 if f.bound == UPPER else f.value for f in factors]
    high = [math.inf if f.bound == LOWER else f.value for f in factors]
    return Median(low=_median(low), high=_median(high), n=len(factors), n_bounds=sum(f.bound != EXACT for f in factors))


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    if len(values) % 2 or ordered[half - 1] == ordered[half]:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2
