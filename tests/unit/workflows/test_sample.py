"""Which structures a pretrained model carries in its card: a few of every dataset, and many different differences with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unipot.data.spec import DatasetSpec
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.card_sample import sample_facts
from unipot.zoo.sample import DIFFERENCES, SAMPLE, sample_of


def opened(path: Path, n: int, *, kind: str, numbers=lambda k: [1, 6, 8][: 1 + k % 3]) -> OpenDataset:
    """`n` structures of the elements that `numbers` gives, each labelled with energies and forces."""
    rng, name = np.random.default_rng(n), f"{kind}-{n}"
    elements = [numbers(k) for k in range(n)]
    structures = [
        Structure(
            atomic_numbers=own, positions=3 * rng.random((len(own), 3)), id=f"{k}",
            labels={"energy": -1.0 - k, "forces": rng.normal(size=(len(own), 3))},
        )
        for k, own in enumerate(elements)
    ]  # fmt: skip
    with StoreWriter(path / f"{name}.unipot", name=name, level_of_theory="x", energy_kind=kind, labels=("energy", "forces")) as writer:
        writer.extend(structures)
    store = Store(path / f"{name}.unipot")
    spec = DatasetSpec(name=name, path=str(store.path), level_of_theory="x", energy_kind=kind)
    return OpenDataset(spec=spec, store=store, train_indices=np.arange(n), validation_store=store, validation_indices=np.arange(0))


def alkane(k: int) -> list[int]:
    return [6] * (1 + k // 10) + [1] * (1 + k % 10)


def test_differences_are_carried_with_labels_and_totals_without(tmp_path):
    facts = sample_facts([opened(tmp_path, 9, kind="total"), opened(tmp_path, 12, kind="difference")], 3, 100)
    assert [(item.dataset, len(item.structures)) for item in sample_of(facts, SAMPLE)] == [("total-9", 3), ("difference-12", 3)]
    assert all(not s.labels for item in sample_of(facts, SAMPLE) for s in item.structures)
    ((name, structures),) = [(item.dataset, item.structures) for item in sample_of(facts, DIFFERENCES)]
    assert name == "difference-12" and sorted(float(s.labels["energy"]) for s in structures) == sorted(-1.0 - k for k in range(12))


def test_of_one_composition_a_hundred_are_carried_and_of_many_as_many_as_asked_for(tmp_path):
    same = opened(tmp_path, 120, kind="difference", numbers=lambda k: [8, 1, 1])
    various = opened(tmp_path, 90, kind="difference", numbers=alkane)
    sizes = {item.dataset: len(item.structures) for item in sample_of(sample_facts([same, various], 1, 110), DIFFERENCES)}
    assert sizes == {"difference-120": 100, "difference-90": 90}


@pytest.mark.parametrize(("n_structures", "n_differences", "keys"), [(0, 100, set()), (2, 0, {SAMPLE}), (2, 5, {SAMPLE, DIFFERENCES})])
def test_what_is_not_asked_for_is_not_in_the_card(tmp_path, n_structures, n_differences, keys):
    assert set(sample_facts([opened(tmp_path, 9, kind="difference")], n_structures, n_differences)) == keys


@pytest.mark.parametrize(("numbers", "name"), [((-1, 5), "sample_structures"), ((5, -1), "sample_differences")])
def test_a_negative_number_is_refused(numbers, name):
    with pytest.raises(ValueError, match=f"{name} is -1; give a number of structures per dataset, 0 to ship none"):
        sample_facts([], *numbers)
