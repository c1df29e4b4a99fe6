"""Which structures of its datasets a pretrained model carries in its card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unipot.structure import Structure
from unipot.workflows.datasets import OpenDataset
from unipot.zoo.sample import SAMPLE, SampleSet, packed_sample

#: atoms of a structure of the sample, at most, unless all of a dataset are larger
PREFERRED_ATOMS = 64
#: structures that are looked at, evenly spread over the training structures
_CANDIDATES = 4096


def sample_facts(datasets: Sequence[OpenDataset], n_structures: int) -> dict[str, Any]:
    """The sample for the card: `n_structures` training structures of each dataset; nothing with 0.

    Raises:
        ValueError: the number is negative.
    """
    if n_structures < 0:
        raise ValueError(f"sample_structures is {n_structures}; give a number of structures per dataset, 0 to ship none")
    if n_structures == 0:
        return {}
    sets = [
        SampleSet(
            dataset=item.spec.name,
            head=item.spec.head,
            labels=tuple(item.store.metadata["label_counts"]),
            structures=tuple(telling_structures(item, n_structures)),
        )
        for item in datasets
    ]
    return {SAMPLE: packed_sample(sets)}


def telling_structures(item: OpenDataset, n: int) -> list[Structure]:
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
