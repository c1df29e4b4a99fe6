"""Two models side by side: heads, elements, weights, settings, and how far apart their predictions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipot.errors import InputError
from unipot.structure import Structure
from unipot.zoo.golden import golden_structures_of, predicted, structures_for
from unipot.zoo.loading import Artifact

#: of a card: what training was told, beside the description of the model
_SETTINGS = ("potential", "training", "finetune", "licence", "licences", "conditions")
#: keys that differ between any two runs and say nothing
_PASSING = ("validation", "step")


@dataclass(frozen=True, kw_only=True)
class HeadDifference:
    """Largest differences of predictions through one head that both models have.

    Attributes:
        head: its name.
        n_structures: that were predicted by both.
        energy: eV per atom.
        forces: eV/Å, of a component.
        stress: eV/Å³, of a component; None without periodic structures.
    """

    head: str
    n_structures: int
    energy: float
    forces: float
    stress: float | None


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """What differs between a first and a second model.

    Attributes:
        heads: sentences about heads: which one model lacks, and other levels of theory, kinds of energy or elements.
        weights: tensor -> largest change, for those of one shape that differ; the largest first.
        n_same: tensors that are equal to the last bit.
        only: sentences about tensors that one model lacks or that have other shapes.
        settings: setting -> values in the first and the second, None where it is absent.
        predictions: for each head that both have and that knows a structure.
    """

    heads: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    n_same: int = 0
    only: list[str] = field(default_factory=list)
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    predictions: list[HeadDifference] = field(default_factory=list)


def difference(first: Artifact, second: Artifact, structures: Sequence[Structure] = ()) -> ModelDifference:
    """Compare two models on their golden structures and on those given.

    Args:
        first, second: in evaluation mode, on one device.
        structures: to predict as well; of those with elements that a head does not know nothing is said.

    Raises:
        ValueError: structures are given, and no head that both have knows one of them.
    """
    weights, n_same, only = _weights(dict(first.potential.state_dict()), dict(second.potential.state_dict()))
    both = [name for name in first.potential.head_names if name in second.potential.head_names]
    own = [*golden_structures_of(first.card["golden"]), *golden_structures_of(second.card["golden"])]
    compared = [_predictions(first, second, name, [*own, *structures]) for name in both]
    if structures and not any(_known_by_both(first, second, name, structures) for name in both):
        raise InputError("no head that both models have knows the elements of one of the structures; give others")
    return ModelDifference(
        heads=_heads(first, second), weights=weights, n_same=n_same, only=only, settings=_settings(first.card, second.card),
        predictions=[item for item in compared if item is not None],
    )  # fmt: skip


def _heads(first: Artifact, second: Artifact) -> list[str]:
    old, new = first.card["heads"], second.card["heads"]
    said = [f"{name}: in the first only" for name in old if name not in new]
    said += [f"{name}: in the second only ({new[name]['level_of_theory']})" for name in new if name not in old]
    for name in [name for name in old if name in new]:
        for key in ("level_of_theory", "energy_kind"):
            if old[name].get(key) != new[name].get(key):
                said.append(f"{name}: {key} {old[name].get(key)} -> {new[name].get(key)}")
        for key in ("elements", "trained_elements"):
            before, after = (set(card[name].get(key) or []) for card in (old, new))
            gone, come = sorted(before - after), sorted(after - before)
            words = [f"without {' '.join(gone)}"] * bool(gone) + [f"with {' '.join(come)}"] * bool(come)
            said += [f"{name}: {key} {' and '.join(words)}"] if words else []
    return said


def _weights(old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[dict[str, float], int, list[str]]:
    only = [f"{name}: in the first only" for name in old if name not in new]
    only += [f"{name}: in the second only" for name in new if name not in old]
    changed, n_same = {}, 0
    for name in [name for name in old if name in new]:
        a, b = old[name], new[name]
        if a.shape != b.shape:
            only.append(f"{name}: {tuple(a.shape)} -> {tuple(b.shape)}")
        elif torch.equal(a.double(), b.double()):
            n_same += 1
        else:
            changed[name] = float((a.double() - b.double()).abs().max())
    return dict(sorted(changed.items(), key=lambda item: -item[1])), n_same, only


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat = [{k: v for key in _SETTINGS if key in card for k, v in _flat(card[key], key).items()} for card in (old, new)]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if not set(key.split(".")) & set(_PASSING)]
    return {key: (flat[0].get(key), flat[1].get(key)) for key in keys if flat[0].get(key) != flat[1].get(key)}


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}").items()}
    return {prefix: value}


def _known_by_both(first: Artifact, second: Artifact, head: str, structures: Sequence[Structure]) -> list[Structure]:
    known = None
    for potential in (first.potential, second.potential):
        own = set(np.flatnonzero(potential.heads[head].reference.known.cpu().numpy()).tolist()) & set(potential.backbone.elements)
        known = own if known is None else known & own
    return [s for s in structures if (known or set()).issuperset(s.atomic_numbers.tolist())]


def _predictions(first: Artifact, second: Artifact, head: str, structures: Sequence[Structure]) -> HeadDifference | None:
    """None where no structure is of elements that the head knows in both."""
    chosen = _known_by_both(first, second, head, [*structures_for(first.potential, head), *structures])
    energy, forces, stress = 0.0, 0.0, None
    for structure in chosen:
        a, b = (predicted(model.potential, structure, head) for model in (first, second))
        energy = max(energy, abs(a["energy"] - b["energy"]) / structure.n_atoms)
        forces = max(forces, _largest(a["forces"], b["forces"]))
        if "stress" in a:
            stress = max(stress or 0.0, _largest(a["stress"], b["stress"]))
    return HeadDifference(head=head, n_structures=len(chosen), energy=energy, forces=forces, stress=stress) if chosen else None


def _largest(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())
