"""The sample of a model: a few structures of each dataset it was trained on, geometry only, as text in its card.

A later fine-tuning labels them with the model itself and replays them (`unipot.workflows.finetuning.self_replay`). Numbers are written
as text, so that a card with a sample stays readable and nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.structure import Structure
from unipot.zoo.card import ArtifactError

#: key in the card
SAMPLE = "sample"
#: of all sets together, as JSON
MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Structures of one dataset.

    Attributes:
        dataset: its name.
        head: that was trained on it.
        labels: that it was trained on.
        structures: without labels, the most telling first.
    """

    dataset: str
    head: str
    labels: tuple[str, ...]
    structures: tuple[Structure, ...]


def packed_sample(sets: Sequence[SampleSet], max_bytes: int = MAX_BYTES) -> list[dict[str, Any]]:
    """JSON-able form for the card; positions and cells in Å to 1e-4, no labels, ids or constraints.

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


def sample_of(card: Mapping[str, Any]) -> list[SampleSet]:
    """The sample in a card; empty where there is none.

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
            for entry in card.get(SAMPLE, [])
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
        id=name,
    )


def _text(rows: np.ndarray) -> str:
    return " ".join(f"{value:.4f}" for value in rows.ravel().tolist())


def _numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()]).reshape(-1, 3)


def kept_sample(card: Mapping[str, Any]) -> dict[str, Any]:
    """For the card of a model that keeps the heads of another: that one's sample, nothing where it has none."""
    return {SAMPLE: card[SAMPLE]} if card.get(SAMPLE) else {}


def describe_sample(card: Mapping[str, Any]) -> str:
    """One line for a table."""
    entries: Iterable[Mapping[str, Any]] = card.get(SAMPLE, [])
    n = sum(len(entry.get("structures", [])) for entry in entries)
    return f"{n} structures of {len(card[SAMPLE])} dataset(s), geometry only" if n else "none"
