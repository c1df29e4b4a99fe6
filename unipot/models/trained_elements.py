"""Elements that a head answers for although none of its own frames held them: said once, refused, or let pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from unipot.errors import InputError
from unipot.models.heads import Head
from unipot.structure import SYMBOLS, symbols_of

#: what is done about such elements
MODES = ("warn", "refuse", "allow")
#: key of a head in the card of an artifact
TRAINED_KEY = "trained_elements"
#: labels that train a head; properties have heads of their own
_TRAINING_LABELS = frozenset({"energy", "forces", "stress"})


class ElementGuard:
    """Looks at the elements of structures before a head predicts them.

    A head has reference energies for every element of the head that it descends from. Its own frames seldom held all of those.

    Args:
        head: that predicts.
        mode: one of `MODES`: say each such element once, refuse it, or allow it in silence.
        say: takes the sentence; a Python warning by default.

    Raises:
        ValueError: the mode is unknown.

    Example:
        >>> head = Head("copper", level_of_theory="PBE", n_channels=4)
        >>> head.trained_elements = frozenset({29})
        >>> guard = ElementGuard(head, say=print)
        >>> guard.check([29, 29])
        >>> guard.check([29, 78])  # doctest: +ELLIPSIS
        head 'copper' was trained on Cu; none of its frames held Pt, so that ...
        >>> guard.check([78])
    """

    def __init__(self, head: Head, mode: str = "warn", say: Callable[[str], Any] | None = None) -> None:
        if mode not in MODES:
            raise InputError(f"unknown_elements is {mode!r}; use one of: {', '.join(MODES)}")
        self.head, self.mode, self._say = head, mode, say
        self._said: set[int] = set()

    def check(self, atomic_numbers: Iterable[int]) -> None:
        """Say or refuse elements that the frames of the head did not hold. Nothing is said of a head that does not tell its frames.

        Raises:
            ValueError: there are some, and the mode is `refuse`.
        """
        new = untrained(self.head, atomic_numbers) - self._said
        if not new or self.mode == "allow":
            return
        sentence = (
            f"head {self.head.name!r} was trained on {symbols_of(sorted(self.head.trained_elements or ()))}; none of its frames held "
            f"{symbols_of(sorted(new))}, so that predictions for structures with {'them' if len(new) > 1 else 'it'} are extrapolation"
        )
        if self.mode == "refuse":
            raise InputError(f"{sentence}; take another head, or allow it with unknown_elements=warn")
        self._said |= new
        if self._say is None:
            warnings.warn(f"{sentence} (unknown_elements='refuse' stops here, 'allow' says nothing)", stacklevel=4)
        else:
            self._say(f"{sentence} (unknown_elements=refuse stops here, unknown_elements=allow says nothing)")


def untrained(head: Head, atomic_numbers: Iterable[int]) -> set[int]:
    """Those that no frame of the head held; none where the head does not tell."""
    return {int(z) for z in atomic_numbers} - head.trained_elements if head.trained_elements else set()


def trained_by(datasets: Any, head: str) -> frozenset[int]:
    """Atomic numbers in the training frames of a head, as the section `datasets` of a card tells them."""
    own = [item for item in _list(datasets) if isinstance(item, dict) and item.get("head") == head]
    own = [item for item in own if any(label in _TRAINING_LABELS for label in _list(item.get("labels")))]
    return frozenset().union(*(_numbers(item.get(TRAINED_KEY, item.get("elements"))) for item in own))


def told_by(card: dict[str, Any], head: str) -> frozenset[int] | None:
    """The same from a whole card: what it says of the head, of older cards what their datasets say; None where neither tells."""
    heads = card.get("heads")
    own = heads.get(head) if isinstance(heads, dict) else None
    told = _numbers(own.get(TRAINED_KEY)) if isinstance(own, dict) else frozenset()
    return told or trained_by(card.get("datasets"), head) or None


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _numbers(symbols: Any) -> frozenset[int]:
    return frozenset(SYMBOLS.index(symbol) for symbol in _list(symbols) if symbol in SYMBOLS[1:])
