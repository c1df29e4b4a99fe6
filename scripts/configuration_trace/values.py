"""What an expression may be, as a set of kinds, and the operations on such sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

#: what an expression may be: ("instance", class), also a list of such | ("function", room, arguments already given) | ("class", class) |
#: ("tuple", elements) | ("mapping", its values) | ("list", tuples)
Kind = tuple
Value = frozenset
NOTHING: Value = frozenset()


def join(*values: Value) -> Value:
    """Everything that may be; tuples of one length are one tuple, and all mappings one, so that values stay small."""
    kinds = frozenset().union(*values)
    rows: dict[int, list[tuple[Value, ...]]] = defaultdict(list)
    held: dict[str, list[Value]] = defaultdict(list)
    for kind in kinds:
        if kind[0] == "tuple":
            rows[len(kind[1])].append(kind[1])
        elif kind[0] in ("mapping", "list"):
            held[kind[0]].append(kind[1])
    merged = {("tuple", tuple(without_tuples(join(*column)) for column in zip(*each, strict=True))) for each in rows.values()}
    merged |= {(name, join(*each)) for name, each in held.items()}
    return frozenset({kind for kind in kinds if kind[0] not in ("tuple", "mapping", "list")} | merged)


def mapping(value: Value) -> Value:
    """A mapping to `value`; one to mappings counts as one to what they hold."""
    return frozenset({("mapping", join(*(kind[1] if kind[0] == "mapping" else frozenset({kind}) for kind in without_tuples(value))))})


def listed(value: Value) -> Value:
    """A list of `value`: only lists of tuples need to be told from what they hold."""
    tuples = frozenset(kind for kind in value if kind[0] == "tuple")
    return join(value - tuples, frozenset({("list", tuples)})) if tuples else value


def contents(value: Iterable[Kind]) -> Value:
    """What looking up in a container may give."""
    return join(*(kind[1] if kind[0] == "mapping" else flat({kind}) for kind in value))


def flat(value: Iterable[Kind]) -> Value:
    """What iterating may give: elements of tuples and lists, keys of mappings."""
    parts = {"tuple": lambda held: join(*held), "list": lambda held: held, "mapping": lambda held: NOTHING}
    return join(*(parts[kind[0]](kind[1]) if kind[0] in parts else frozenset({kind}) for kind in value))


def without_tuples(value: Iterable[Kind]) -> Value:
    return join(*(without_tuples(flat({kind})) if kind[0] in ("tuple", "list") else frozenset({kind}) for kind in value))


def item(kind: Kind, number: int, length: int) -> Value:
    """Element `number` of `kind`: of a tuple that one, of anything else any. `length` is that of the names unpacked to, if any."""
    if kind[0] != "tuple":
        return flat({kind}) if length else contents({kind})
    fits = -len(kind[1]) <= number < len(kind[1]) and length in (0, len(kind[1]))
    return kind[1][number] if fits else join(*kind[1])
