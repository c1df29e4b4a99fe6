"""Which models a model was made from, and the terms that their weights bring along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unipot.zoo.licences import Licence, licence_of

#: key of the card: models that this one was made from, the nearest first
ANCESTORS = "ancestors"
#: of them, so many are kept
_MOST = 100


def child_facts(parent: Mapping[str, Any]) -> dict[str, Any]:
    """For the card of a model that starts from the weights of another: name, version, SHA-256 and licence of that one, and its ancestors.

    Where the licence of the parent's weights has terms, it is the child's too.

    Args:
        parent: card of the other model.
    """
    weights = licence_of(parent)
    own = {key: str(parent[key]) for key in ("name", "version", "sha256") if parent.get(key)}
    own |= {"licence": weights.name, **{key: text for key, text in (("licence_url", weights.url), ("terms", weights.terms)) if text}}
    facts: dict[str, Any] = {ANCESTORS: [own, *ancestors_of(parent)][:_MOST]}
    if weights.is_stated and not weights.is_open:
        facts |= {"licence": weights.name, "licences": {"weights": weights.to_dict()}}
    return facts


def ancestors_of(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models that a model was made from, the nearest first."""
    found = card.get(ANCESTORS)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def inherited_licence(ancestor: Mapping[str, Any]) -> Licence:
    """Of the weights of an ancestor."""
    return Licence(
        name=str(ancestor.get("licence") or ""), url=str(ancestor.get("licence_url") or ""), terms=str(ancestor.get("terms") or "")
    )  # fmt: skip
