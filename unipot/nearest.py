"""The name that somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The closest of `names`, or None: one that begins with the word or holds it first (`oc20` means `oc20_s2ef`, not `oc25`).

    Example:
        >>> nearest("oc20", ["oc25", "oc20_s2ef"]), nearest("sede", ["seed", "data"]), nearest("xyz", ["seed"])
        ('oc20_s2ef', 'seed', None)
    """
    names = list(names)
    small = word.lower()
    begins = [name for name in names if len(small) > 2 and name.lower().startswith(small)]
    holds = [name for name in names if len(small) > 2 and small in name.lower()]
    found = begins or holds or get_close_matches(word, names, n=1)
    return min(found, key=len) if begins or holds else (found[0] if found else None)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    name = nearest(word, names)
    return "" if name is None else f" (did you mean {name!r}?)"
