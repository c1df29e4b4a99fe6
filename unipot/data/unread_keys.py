"""Keys and columns of a source that nothing reads: named once, with the option that would read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: keys that say nothing about a structure that its geometry does not
_SILENT = frozenset(("numbers", "positions", "masses", "unique_id", "pbc", "cell"))
_CHARGE, _SPIN = re.compile("charge", re.IGNORECASE), re.compile("spin|multiplic|uhf", re.IGNORECASE)
_WEIGHTS = ("weight", "atom_weights")
_MOST_NAMED = 20


@dataclass(frozen=True)
class UnreadKey:
    """A key or column that is in a source and that no option reads.

    Attributes:
        key: its name.
        per_atom: it has a row for every atom.
        size: numbers of a structure or atom; 0 where it is no number.
        where: the first structure that has it.
    """

    key: str
    per_atom: bool
    size: int
    where: str

    @classmethod
    def of(cls, key: str, value: Any, where: str, *, per_atom: bool) -> UnreadKey:
        """What `value` is."""
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal length
            array = np.array("")
        size = int(array[0].size if per_atom and len(array) else array.size) if array.dtype.kind in "iuf" else 0
        return cls(key, per_atom, size, where)

    @property
    def could_be(self) -> str:
        """A label, charge or spin that it might be; "" for anything else."""
        if self.key in _WEIGHTS:
            return self.key
        if self.per_atom:
            return "forces" if self.size == 3 else ""
        if self.size in (6, 9):
            return "stress"
        if self.size != 1:
            return ""
        if "energy" in self.key.lower():
            return "energy"
        return "spin_multiplicity" if _SPIN.search(self.key) else "total_charge" if _CHARGE.search(self.key) else ""

    def in_words(self) -> str:
        """Name and kind."""
        kind = f"{self.size} number{'s' * (self.size != 1)}{' an atom' * self.per_atom}" if self.size else ""
        details = [text for text in (kind, f"could be {self.could_be}" if self.could_be else "") if text]
        return f"{'column' if self.per_atom else 'key'} {self.key!r}" + (f" ({', '.join(details)})" if details else "")


class UnreadKeys:
    """Collects them, each once.

    Args:
        known: keys that are read.
        tell: called with each new one.
    """

    def __init__(self, known: Collection[str], tell: Callable[[UnreadKey], None]) -> None:
        self._seen = set(known) | _SILENT
        self._tell = tell

    def look(self, where: str, values: Mapping[str, Any], per_atom: Collection[str] = ()) -> None:
        """Go through the keys of one structure.

        Args:
            where: its id.
            values: by key.
            per_atom: those of the keys that have a row for every atom.
        """
        seen = self._seen
        for key in values:
            if key not in seen:
                seen.add(key)
                self._tell(UnreadKey.of(key, values[key], where, per_atom=key in per_atom))


def state_lookalikes(info: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """Keys of `info` that seem to state a charge or spin but are not among those that are read."""
    found = (UnreadKey.of(key, value, "", per_atom=False) for key, value in info.items() if key not in read)
    return [unread.key for unread in found if unread.could_be in ("spin_multiplicity", "total_charge")]


def sentences(unread: Iterable[UnreadKey]) -> list[str]:
    """What to print: one line that names them all, and one on the options that read those that look like something.

    Args:
        unread: of one dataset; of equal names the first counts.
    """
    found = list({item.key: item for item in reversed(list(unread))}.values())[::-1]
    if not found:
        return []
    found.sort(key=lambda item: item.could_be == "")  # what may be missed stands first
    named = [item.in_words() for item in found[:_MOST_NAMED]]
    more = f" and {len(found) - _MOST_NAMED} more (all are in census.json)" if len(found) > _MOST_NAMED else ""
    options = []
    labels = [item.could_be for item in found if item.could_be and item.could_be not in ("spin_multiplicity", "total_charge")]
    if labels:
        key = next(item.key for item in found if item.could_be == labels[0])
        options.append(
            f"sources.{labels[0]}='{{key: {key}, unit: ...}}' (unipot prepare: labels.{labels[0]}.key={key} labels.{labels[0]}.unit=...)"
        )
    for state in ("total_charge", "spin_multiplicity"):
        options += [f"columns.{state}={item.key}" for item in found if item.could_be == state][:1]
    if any(item.could_be == "" and not item.per_atom for item in found):
        options.append("group_key, id_key or properties.<name>.key")
    lines = [f"in the source and not read: {', '.join(named)}{more}"]
    return lines + ([f"to read one of them: {', '.join(options)}"] if options else [])
