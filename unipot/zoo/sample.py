"""The sample of a model: a few structures of each dataset it was trained on, as text in its card.

Most are there by geometry only: a later fine-tuning labels them with the model itself and replays them
as pseudo-labels. Of differences between two levels of theory there are more, and with their labels, because a
difference is learned best beside those known already. Numbers are written as text, so that
nothing in a card is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.structure import Structure
from unipot.zoo.card import ArtifactError

#: keys in the card: structures by geometry only, and differences with their labels
SAMPLE, DIFFERENCES = "sample", "differences"
#: of all sets of a key together, as JSON
MAX_BYTES = {SAMPLE: 1_000_000, DIFFERENCES: 3_000_000}
#: labels that are written, and their decimals (eV, eV/Å)
_LABEL_DECIMALS = {"energy": 6, "forces": 4}
#: that every difference in a card has
CARRIED_LABELS = tuple(_LABEL_DECIMALS)


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Structures of one dataset.

    Attributes:
        dataset: its name.
        head: that was trained on it.
        labels: that it was trained on.
        structures: the most diverse first; their labels are those that are written.
    """

    dataset: str
    head: str
    labels: tuple[str, ...]
    structures: tuple[Structure, ...]


def packed_sample(sets: Sequence[SampleSet], max_bytes: int = MAX_BYTES[SAMPLE]) -> list[dict[str, Any]]:
    """JSON-able form for the card; positions and cells in Å to 1e-4, energies in eV to 1e-6 and forces in eV/Å to 1e-4 where a structure
    has them, no ids or constraints.

    Where it would be larger than `max_bytes`, the largest set gives up its last structure, again and again.
    """
    packed = [[_packed(structure) for structure in item.structures] for item in sets]
    sizes = [[len(json.dumps(entry, indent=2)) for entry in entries] for entries in packed]
    while sum(map(sum, sizes)) > max_bytes:
        largest = max(range(len(sizes)), key=lambda k: sum(sizes[k]))
        sizes[largest].pop(), packed[largest].pop()
    return [
        {"dataset": item.dataset, "head": item.head, "labels": list(item.labels), "structures": entries}
        for item, entries in zip(sets, packed, strict=True)
        if entries
    ]


def sample_of(card: Mapping[str, Any], key: str = SAMPLE) -> list[SampleSet]:
    """The sample in a card, or with `DIFFERENCES` as `key` its labelled differences; empty where there are none.

    Raises:
        ArtifactError: it is malformed.
    """
    try:
        return [
            SampleSet(
                dataset=str(entry["dataset"]),
                head=str(entry["head"]),
                labels=tuple(entry["labels"]),
                structures=tuple(_unpacked(packed, f"{entry['dataset']}-{k}") for k, packed in enumerate(entry["structures"])),
            )
            for entry in card.get(key, [])
        ]
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the sample in the card is malformed ({error}); download or copy the model again") from error


def _packed(structure: Structure) -> dict[str, Any]:
    numbers = " ".join(map(str, structure.atomic_numbers.tolist()))
    entry: dict[str, Any] = {"atomic_numbers": numbers, "positions": _text(structure.positions)}
    if structure.cell.any():
        entry |= {"cell": _text(structure.cell), "pbc": "".join("T" if axis else "F" for axis in structure.pbc)}
    if structure.total_charge:
        entry["total_charge"] = structure.total_charge
    if structure.spin_multiplicity is not None:
        entry["spin_multiplicity"] = structure.spin_multiplicity
    for name, decimals in _LABEL_DECIMALS.items():
        if name in structure.labels:
            entry[name] = _text(np.asarray(structure.labels[name]), decimals)
    return entry


def _unpacked(entry: Mapping[str, Any], name: str) -> Structure:
    cell = _numbers(entry["cell"]) if "cell" in entry else np.zeros((3, 3))
    return Structure(
        atomic_numbers=[int(number) for number in entry["atomic_numbers"].split()],
        positions=_numbers(entry["positions"]),
        cell=cell,
        pbc=[axis == "T" for axis in entry.get("pbc", "FFF")],
        total_charge=entry.get("total_charge", 0.0),
        spin_multiplicity=entry.get("spin_multiplicity"),
        labels=_unpacked_labels(entry),
        id=name,
    )


def _unpacked_labels(entry: Mapping[str, Any]) -> dict[str, Any]:
    labels: dict[str, Any] = {"energy": float(entry["energy"])} if "energy" in entry else {}
    return labels | ({"forces": _numbers(entry["forces"])} if "forces" in entry else {})


def _text(numbers: np.ndarray, decimals: int = 4) -> str:
    return " ".join(f"{value:.{decimals}f}" for value in numbers.ravel().tolist())


def _numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()]).reshape(-1, 3)


def kept_sample(card: Mapping[str, Any]) -> dict[str, Any]:
    """For the card of a model that keeps the heads of another: that one's sample, nothing where it has none."""
    return {key: card[key] for key in (SAMPLE, DIFFERENCES) if card.get(key)}


def describe_sample(card: Mapping[str, Any]) -> str:
    """One line for a table."""
    kinds = {SAMPLE: "geometry only", DIFFERENCES: "differences with their labels"}
    said = [f"{_n_structures(card, key)} structures of {len(card[key])} dataset(s), {what}" for key, what in kinds.items() if card.get(key)]
    return "; ".join(said) or "none"


def _n_structures(card: Mapping[str, Any], key: str) -> int:
    entries: Iterable[Mapping[str, Any]] = card[key]
    return sum(len(entry.get("structures", [])) for entry in entries)
