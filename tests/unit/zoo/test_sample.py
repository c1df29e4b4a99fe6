"""Structures in a card: geometry alone or differences with their labels, to the stated decimals, within the stated size."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.structure import Structure
from unipot.zoo.card import ArtifactError
from unipot.zoo.sample import DIFFERENCES, SAMPLE, SampleSet, describe_sample, kept_sample, packed_sample, sample_of


def structure(seed: int = 0, n_atoms: int = 5, *, labelled: bool = True) -> Structure:
    rng = np.random.default_rng(seed)
    labels = {"energy": 1e3 * rng.normal(), "forces": rng.normal(size=(n_atoms, 3))} if labelled else {}
    return Structure(atomic_numbers=rng.choice([1, 6, 8], n_atoms), positions=4 * rng.random((n_atoms, 3)), labels=labels, id=f"s-{seed}")


def a_set(*structures: Structure, dataset: str = "less", head: str = "less") -> SampleSet:
    return SampleSet(dataset=dataset, head=head, labels=("energy", "forces"), structures=structures)


def through_json(*sets: SampleSet, key: str = DIFFERENCES) -> list[SampleSet]:
    return sample_of(json.loads(json.dumps({key: packed_sample(sets)})), key)


@given(seed=st.integers(0, 10**6), n_atoms=st.integers(1, 30))
def test_labels_come_back_to_the_stated_decimals(seed, n_atoms):
    given = structure(seed, n_atoms)
    ((found,),) = [item.structures for item in through_json(a_set(given))]
    assert abs(float(found.labels["energy"] - given.labels["energy"])) <= 0.5001e-6
    assert np.abs(found.labels["forces"] - given.labels["forces"]).max() <= 0.5001e-4
    assert np.abs(found.positions - given.positions).max() <= 0.5001e-4
    assert found.atomic_numbers.tolist() == given.atomic_numbers.tolist()


def test_structures_without_labels_come_back_without():
    (item,) = through_json(a_set(structure(labelled=False)), key=SAMPLE)
    assert item.structures[0].labels == {}


def test_what_is_beyond_the_size_is_left_out_of_the_largest_set_from_its_end():
    large, small = a_set(*map(structure, range(20)), dataset="large"), a_set(structure(99), dataset="small")
    limit = len(json.dumps(packed_sample([large, small])[0]["structures"], indent=2)) // 2
    first, second = packed_sample([large, small], limit)
    assert 0 < len(first["structures"]) < 20 and len(second["structures"]) == 1
    assert first["structures"] == packed_sample([large])[0]["structures"][: len(first["structures"])]


def test_both_kinds_are_kept_and_described():
    card = {SAMPLE: packed_sample([a_set(structure(labelled=False))]), DIFFERENCES: packed_sample([a_set(structure(), structure(1))])}
    assert kept_sample({**card, "other": 1}) == card
    said = "1 structures of 1 dataset(s), geometry only; 2 structures of 1 dataset(s), differences with their labels"
    assert describe_sample(card) == said
    assert describe_sample({}) == "none"


@pytest.mark.parametrize("change", [{"forces": "0.1 0.2"}, {"energy": "much"}, {"forces": "0 0 nan"}])
def test_labels_that_cannot_be_read_are_refused_in_one_sentence(change):
    packed = packed_sample([a_set(structure(n_atoms=2))])
    packed[0]["structures"][0].update(change)
    with pytest.raises(ArtifactError, match=r"the sample in the card is malformed \(.*\); download or copy the model again"):
        sample_of({DIFFERENCES: packed}, DIFFERENCES)
