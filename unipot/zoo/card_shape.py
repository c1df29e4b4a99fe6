"""What kind of value stands where in a card: looked at before anything in it is used, so that a stranger's card cannot surprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unipot.errors import InputError

_WORDS = {dict: "keys and values", list: "a list", str: "a text", int: "a whole number", float: "a number"}
_NULL = type(None)

#: place -> kinds that may stand there, where the place exists; `*` is every entry
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("potential", "potential.backbone", "potential.backbone.hyperparameters"), (dict,)),
    **dict.fromkeys(("potential.heads", "potential.heads.*", "potential.property_heads", "potential.property_heads.*"), (dict,)),
    **dict.fromkeys(("potential.backbone.name", "potential.dtype", "potential.heads.*.level_of_theory"), (str,)),
    **dict.fromkeys(("potential.heads.*.n_hidden", "potential.property_heads.*.n_hidden", "potential.property_heads.*.n_members"), (int,)),
    "potential.core_repulsion": (dict, _NULL),
    "potential.core_repulsion.reach": (int, float),
    "potential.core_repulsion.closest": (dict,),
    "potential.core_repulsion.closest.*": (int, float),
    "potential.property_heads.*.threshold": (int, float, _NULL),
    **dict.fromkeys(("heads", "heads.*", "training", "training.validation", "finetune", "units"), (dict, _NULL)),
    **dict.fromkeys(("references", "references.*", "datasets.*.provenance"), (dict, _NULL)),
    **dict.fromkeys(("heads.*.elements", "datasets", "datasets.*.labels", "datasets.*.elements", "conditions"), (list, _NULL)),
    **dict.fromkeys(("heads.*.elements.*", "datasets.*.labels.*", "datasets.*.elements.*", "conditions.*"), (str,)),
    **dict.fromkeys(("datasets.*.n_training", "datasets.*.n_validation", "n_parameters"), (int,)),
    "training.validation.*": (int, float, _NULL),
    "references.*.rmse_per_atom": (int, float, _NULL),
    **dict.fromkeys(("golden", "sample", "differences", "ancestors"), (list,)),
    **dict.fromkeys(("licences", "licences.weights", "licences.code", "ancestors.*"), (dict,)),
    **dict.fromkeys(("datasets.*", "golden.*", "sample.*", "differences.*"), (dict,)),
    **dict.fromkeys(("sample.*.structures", "differences.*.structures", "sample.*.labels", "differences.*.labels"), (list,)),
    **dict.fromkeys(("golden.*.atomic_numbers", "golden.*.positions", "golden.*.forces"), (list,)),
    **dict.fromkeys(("golden.*.id", "golden.*.head", "sha256", "head", "device", "neighbors"), (str,)),
    "golden.*.energy": (int, float),
}


#: places that the description of a model has
NEEDED = ("potential", *(f"potential.{name}" for name in ("backbone", "backbone.name", "backbone.hyperparameters", "heads", "dtype")))


def require_described(card: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: the card lacks something without which no model can be built.
    """
    for place in NEEDED:
        if not any(True for _ in _at(card, place.split("."), "")):
            raise InputError(f"the card has no {place}, without which the model cannot be built")


def require_kinds(card: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: something in the card is of another kind than what belongs there; the sentence says where.
    """
    for place, kinds in KINDS.items():
        for where, value in _at(card, place.split("."), ""):
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(_WORDS[kind] for kind in kinds if kind is not _NULL)
                raise InputError(f"the card has {repr(value)[:60]} at {where[:120]}, where {expected} belongs")


def _at(value: Any, place: list[str], where: str) -> Iterator[tuple[str, Any]]:
    """Values at a place, with the place in words; nothing where it does not exist."""
    if not place:
        yield where, value
        return
    name, *rest = place
    if name == "*":
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    else:
        entries = [(name, value[name])] if isinstance(value, dict) and name in value else []
    for key, item in entries:
        yield from _at(item, rest, f"{where}.{key}" if where else str(key))
