"""Which trained elements stand in for one that a backbone has never seen: its neighbours in the periodic table."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS

#: atomic number of the last element of each period, the zeroth included
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Period 1…7, block s, p, d or f, and column: group 1…18, 101…114 in the f block, 0 for hydrogen, which has no group."""

    period: int
    block: str
    column: int


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Elements and weights (sum 1) whose mean starts a new one, and the rule that chose them, in words."""

    elements: tuple[int, ...]
    weights: tuple[float, ...]
    rule: str

    def in_words(self) -> str:
        """`0.50 C + 0.50 Ge`."""
        return " + ".join(f"{weight:.2f} {SYMBOLS[z]}" for z, weight in zip(self.elements, self.weights, strict=True))


def place_of(atomic_number: int) -> Place:
    """Where an element stands.

    Raises:
        ValueError: the number is not from 1 to 118.

    Example:
        >>> place_of(6), place_of(58)
        (Place(period=2, block='p', column=14), Place(period=6, block='f', column=102))
    """
    if not 1 <= atomic_number <= MAX_ATOMIC_NUMBER:
        raise InputError(f"atomic number {atomic_number} is not from 1 to {MAX_ATOMIC_NUMBER}")
    period = next(k for k in range(1, 8) if atomic_number <= _NOBLE[k])
    number, length = atomic_number - _NOBLE[period - 1], _NOBLE[period] - _NOBLE[period - 1]
    if period == 1:  # hydrogen is neither an alkali metal nor a halogen
        return Place(period=1, block="s", column=0 if atomic_number == 1 else 18)
    if number <= 2:
        return Place(period=period, block="s", column=number)
    if length == 32 and number <= 16:  # La to Yb, Ac to No
        return Place(period=period, block="f", column=98 + number)
    column = 18 - (length - number)
    return Place(period=period, block="p" if column > 12 else "d", column=column)


def stand_in_for(atomic_number: int, trained: Collection[int]) -> StandIn:
    """The nearest trained elements around it, each weighted by 1 / distance, by the first of these rules that finds any:

    1. in the same group (column of the f block) the nearest above and below, at a distance of the difference in period, and
       in the same period and block the nearest to the left and right, at a distance of the difference in atomic number;
    2. in the same block the nearest in atomic number on either side;
    3. of all elements the nearest in atomic number on either side.

    Measured on a small model of ten sets, whose rows of eleven known elements were replaced one at a time, without training:
    force MAE rises 1.06 times (1.21 on the atoms of the element) from group and period together, 1.16 (1.28) from the group
    alone, 1.07 (1.11) from the period alone, 1.31 (1.52) from random rows.

    Args:
        atomic_number: of the new element.
        trained: atomic numbers to choose from.

    Raises:
        ValueError: no other element is trained.

    Example:
        >>> stand_in_for(14, [1, 6, 8, 32]).in_words()
        '0.50 C + 0.50 Ge'
        >>> stand_in_for(27, [6, 25, 28]).in_words()
        '0.33 Mn + 0.67 Ni'
    """
    others = sorted(set(trained) - {atomic_number})
    if not others:
        raise InputError(f"no element is trained, so {SYMBOLS[atomic_number]} has no neighbour in the periodic table to start from")
    here, places = place_of(atomic_number), {z: place_of(z) for z in others}
    group = [z for z in others if here.column and places[z].column == here.column]
    row = [z for z in others if (places[z].period, places[z].block) == (here.period, here.block)]
    block = [z for z in others if places[z].block == here.block]
    in_period, in_number = (lambda z: places[z].period - here.period), (lambda z: z - atomic_number)
    found = {**_either_side(group, in_period), **_either_side(row, in_number)}
    rule = " and ".join(name for name, members in (("group", group), ("period", row)) if members)
    if not found:
        rule = "block" if block else "nearest atomic number"
        found = _either_side(block or others, in_number)
    total = sum(found.values())
    elements = tuple(sorted(found))
    return StandIn(elements=elements, weights=tuple(found[z] / total for z in elements), rule=rule)


def _either_side(candidates: list[int], distance: Callable[[int], int]) -> dict[int, float]:
    """The nearest candidate on each side, and 1 / its distance."""
    below = [z for z in candidates if distance(z) < 0]
    above = [z for z in candidates if distance(z) > 0]
    chosen = [*([max(below, key=distance)] if below else []), *([min(above, key=distance)] if above else [])]
    return {z: 1 / abs(distance(z)) for z in chosen}
