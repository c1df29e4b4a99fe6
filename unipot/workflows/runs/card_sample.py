"""Which structures of its datasets a pretrained model carries in its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from unipot.errors import InputError
from unipot.properties import DIFFERENCE_KIND
from unipot.structure import Structure
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.zoo.sample import CARRIED_LABELS, DIFFERENCES, MAX_BYTES, SAMPLE, SampleSet, packed_sample

#: differences of one composition that the card carries, at most
_OF_ONE_COMPOSITION = 100

#: atoms of a structure of the sample, at most, unless all of a dataset are larger
PREFERRED_ATOMS = 64
#: structures that are looked at, evenly spread over the training structures
_CANDIDATES = 4096


def sample_facts(datasets: Sequence[OpenDataset], n_structures: int, n_differences: int) -> dict[str, Any]:
    """The samples for the card.

    Args:
        datasets: of the pretraining.
        n_structures: training structures of each dataset by geometry only; with 0 nothing of the data is in the card.
        n_differences: training structures of each dataset of differences between levels of theory, with energies and forces.

    Raises:
        ValueError: a number is negative.
    """
    for name, n in (("sample_structures", n_structures), ("sample_differences", n_differences)):
        if n < 0:
            raise InputError(f"{name} is {n}; give a number of structures per dataset, 0 to ship none")
    if n_structures == 0:
        return {}
    found = {SAMPLE: [_sample_set(item, [s.with_labels() for s in select_structures(item, n_structures)]) for item in datasets]}
    labelled = [item for item in datasets if item.store.energy_kind == DIFFERENCE_KIND]
    if labelled and n_differences:
        found[DIFFERENCES] = [_sample_set(item, _varied_structures(item, n_differences)) for item in labelled]
    return {key: packed_sample(sets, MAX_BYTES[key]) for key, sets in found.items()}


def _sample_set(item: OpenDataset, structures: Sequence[Structure]) -> SampleSet:
    labels = tuple(item.store.metadata["label_counts"])
    return SampleSet(dataset=item.spec.name, head=item.spec.head, labels=labels, structures=tuple(structures))


def _varied_structures(item: OpenDataset, n: int) -> list[Structure]:
    """Up to `n` structures with their labels, of no composition more than a hundred: more of the same molecules says little."""
    found: list[Structure] = []
    seen: Counter[bytes] = Counter()
    for structure in select_structures(item, _CANDIDATES):
        composition = np.sort(structure.atomic_numbers).tobytes()
        if len(found) < n and seen[composition] < _OF_ONE_COMPOSITION and all(name in structure.labels for name in CARRIED_LABELS):
            seen[composition] += 1
            found.append(structure.with_labels(**{name: structure.labels[name] for name in CARRIED_LABELS}))
    return found


def select_structures(item: OpenDataset, n: int) -> list[Structure]:
    """Up to `n` training structures that cover the elements of the dataset, rare ones first; the same ones every time."""
    if not len(item.train_indices):
        return []
    spread = np.unique(np.linspace(0, len(item.train_indices) - 1, _CANDIDATES).astype(int))
    candidates = np.random.default_rng(0).permutation(np.asarray(item.train_indices[spread]))
    sizes = np.asarray(item.store.n_atoms)[candidates]
    small = sizes <= PREFERRED_ATOMS
    candidates = candidates[small] if small.any() else candidates[np.argsort(sizes, kind="stable")][:n]
    present = item.store.composition_counts_of(candidates) > 0
    seen, chosen = np.zeros(present.shape[1]), []
    left = np.ones(len(candidates), dtype=bool)
    for _ in range(min(n, len(candidates))):
        gain = np.where(left, (present / (1.0 + seen)).sum(axis=1) / present.sum(axis=1), -1.0)
        best = int(gain.argmax())
        left[best] = False
        seen += present[best]
        chosen.append(item.store[int(candidates[best])])
    return chosen
