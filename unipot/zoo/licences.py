"""Licences of weights: which ones ask for something that a user must hear before the weights are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: what a card or registry says where nobody has said anything
NOT_STATED = "not stated"
#: beginnings of names of licences that allow every use, if the author is named at the most
_OPEN = ("mit", "apache-2", "bsd-", "cc0", "cc-by-4", "cc-by-3", "isc", "zlib", "unlicense", "public domain", "mpl-2", "0bsd")
_NON_COMMERCIAL = re.compile(r"(^|[^a-z])(nc|non[ -]?commercial|academic|asl)([^a-z]|$)")


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Of code or of weights.

    Attributes:
        name: best the SPDX one.
        url: of its text; "" where there is none.
        terms: what it asks for, in a sentence; "" where the name says it.
    """

    name: str
    url: str = ""
    terms: str = ""

    @property
    def is_stated(self) -> bool:
        return bool(self.name.strip()) and self.name.strip().lower() not in (NOT_STATED, "unknown", "none")

    @property
    def is_non_commercial(self) -> bool:
        """Whether name or terms say that commercial use is not allowed.

        Example:
            >>> Licence(name="CC-BY-NC-4.0").is_non_commercial, Licence(name="CC-BY-4.0").is_non_commercial
            (True, False)
        """
        return _NON_COMMERCIAL.search(f"{self.name} {self.terms}".lower()) is not None

    @property
    def is_open(self) -> bool:
        """Whether it is one that is known to allow every use."""
        return self.name.lower().startswith(_OPEN) and not self.terms and not self.is_non_commercial

    def notice(self, what: str) -> str:
        """What a user must hear of `what`, in a sentence; "" of an open licence."""
        if self.is_open:
            return ""
        where = f" ({self.url})" if self.url else ""
        if not self.is_stated:
            return f"the licence of {what} is not stated; ask its authors before you use it"
        terms = f": {self.terms.rstrip('.')}" if self.terms else ""
        kind = "is for non-commercial use only" if self.is_non_commercial else "has terms of its own"
        return f"{what} {kind}, under {self.name}{where}{terms}; the terms hold for models fine-tuned from it too"

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in (("name", self.name), ("url", self.url), ("terms", self.terms)) if value}


def licence_of(card: Mapping[str, Any], what: str = "weights") -> Licence:
    """Licence of the weights (or the `code`) of a model by its card; cards of before there were two have one text."""
    apart = card.get("licences")
    said = apart.get(what) if isinstance(apart, dict) else None
    if isinstance(said, dict) and isinstance(said.get("name"), str):
        return Licence(**{key: str(said[key]) for key in ("name", "url", "terms") if key in said})
    text = card.get("licence") if what == "weights" else None
    return Licence(name=text if isinstance(text, str) and text.strip() else NOT_STATED)
