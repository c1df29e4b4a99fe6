"""Statistics of a store, and the specs of datasets."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data.spec import DatasetSpec, levels_of_heads
from unipot.data.statistics import composition_counts, force_statistics, labelled_energies, mean_neighbors


@pytest.fixture
def store(make_store, make_structure):
    return make_store(structures=[make_structure(0), make_structure(1, labels={"forces": np.ones((5, 3))}), make_structure(2, n_atoms=3)])


def test_composition_counts_sum_to_the_atoms(store):
    counts = composition_counts(store)
    assert counts.shape == (3, 119) and counts.sum(axis=1).tolist() == store.n_atoms.tolist()
    assert composition_counts(store, [2]).tolist() == counts[2:].tolist()


def test_energies_come_with_their_compositions(store):
    counts, energies = labelled_energies(store)
    assert energies.tolist() == [float(store[0].labels["energy"]), float(store[2].labels["energy"])]
    assert counts.tolist() == composition_counts(store, [0, 2]).tolist()


def test_force_statistics_over_components(store):
    assert force_statistics(store, [1]).rms == pytest.approx(1.0)
    assert force_statistics(store, [1]).largest == pytest.approx(np.sqrt(3))
    assert force_statistics(store).n_atoms == 13


def test_mean_neighbors(store):
    assert mean_neighbors(store, 5.0) == pytest.approx(store.n_edges(5.0).sum() / store.n_atoms.sum())
    assert mean_neighbors(store, 5.0, [2]) == pytest.approx(store.n_edges(5.0)[2] / 3)


def spec(name: str, **options: object) -> DatasetSpec:
    return DatasetSpec(**{"name": name, "path": f"{name}.unipot", "level_of_theory": "PBE", **options})


def test_a_dataset_has_a_head_of_its_own_unless_told():
    assert spec("oxides_BO2.pbe").head == "oxides-bo2-pbe"
    assert levels_of_heads([spec("a"), spec("b", head="a"), spec("c", level_of_theory="LDA")]) == {"a": "PBE", "c": "LDA"}


def test_a_head_with_two_levels_of_theory_is_refused():
    with pytest.raises(ValueError, match="head 'x' mixes levels of theory: dataset 'a' is 'PBE', dataset 'b' is 'LDA'"):
        levels_of_heads([spec("a", head="x"), spec("b", head="x", level_of_theory="LDA")])


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="'a' appears twice"):
        levels_of_heads([spec("a"), spec("a")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "dataset name 'a b' is not allowed"),
        ({"head": "A_b"}, "head 'A_b' is not allowed"),
        ({"labels": ("energie",)}, "property 'energie' is not known"),
        ({"labels": ()}, "labels is empty"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"level_of_theory": ""}, "level_of_theory is empty"),
    ],
)
def test_impossible_specs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spec(**{"name": "a", **options})
