"""Statistics of a store from its columns, and the specs of datasets."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data import statistics
from unipot.data.spec import DatasetSpec, energy_kinds_of_heads, levels_of_heads
from unipot.data.statistics import (
    ForceStatistics,
    elements_present,
    force_statistics,
    index_chunks,
    labelled_compositions,
    mean_neighbors,
)


@pytest.fixture
def store(make_store, make_structure):
    return make_store(structures=[make_structure(0), make_structure(1, labels={"forces": np.ones((5, 3))}), make_structure(2, n_atoms=3)])


class Sliced:
    """Indices that can be cut, and nothing else."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, part):
        assert isinstance(part, slice)
        return np.asarray(self.values)[part]


@pytest.mark.parametrize("indices", [None, range(3), [0, 1, 2], np.array([0, 1, 2]), Sliced([0, 1, 2])], ids=lambda v: type(v).__name__)
def test_anything_that_can_be_cut_serves_as_indices(store, indices):
    chunks = list(index_chunks(store, indices, size=2))
    assert [chunk.tolist() for chunk in chunks] == [[0, 1], [2]] and all(chunk.dtype == np.int64 for chunk in chunks)


def test_energies_come_with_their_compositions(store):
    ((counts, energies),) = labelled_compositions(store)
    assert energies.tolist() == [float(store[0].labels["energy"]), float(store[2].labels["energy"])]
    assert counts.tolist() == [np.bincount(store[i].atomic_numbers, minlength=119).tolist() for i in (0, 2)]
    ((counts, energies),) = labelled_compositions(store, [1])
    assert counts.shape == (0, 119) and energies.shape == (0,)


def test_elements_of_some_structures(store):
    assert np.flatnonzero(elements_present(store, [2])).tolist() == sorted(set(store[2].atomic_numbers.tolist()))
    assert np.flatnonzero(elements_present(store)).tolist() == list(store.elements)


def test_force_statistics_over_components(store):
    assert force_statistics(store, [1]).rms == pytest.approx(1.0)
    assert force_statistics(store, [1]).largest == pytest.approx(np.sqrt(3))
    assert force_statistics(store).n_atoms == 13


def test_force_statistics_of_parts_add_up(store):
    parts, whole = [force_statistics(store, [i]) for i in range(3)], force_statistics(store)
    together = ForceStatistics.together(parts)
    assert together.rms == pytest.approx(whole.rms) and (together.largest, together.n_atoms) == (whole.largest, whole.n_atoms)
    assert ForceStatistics.together([]) == ForceStatistics(rms=0.0, largest=0.0, n_atoms=0)


def test_mean_neighbors(store):
    assert mean_neighbors(store, 5.0) == pytest.approx(store.n_edges(5.0).sum() / store.n_atoms.sum())
    assert mean_neighbors(store, 5.0, [2]) == pytest.approx(store.n_edges(5.0)[2] / 3)


def test_chunks_do_not_change_the_numbers(make_store, monkeypatch):
    store = make_store(n=20)

    def numbers():
        energies = np.concatenate([energies for _, energies in labelled_compositions(store)])
        return energies.tolist(), elements_present(store).tolist(), mean_neighbors(store, 4.0), force_statistics(store).n_atoms

    whole = numbers()
    monkeypatch.setattr(statistics.index_chunks, "__defaults__", (None, 3))
    assert len(list(index_chunks(store))) == 7 and numbers() == whole


def test_no_record_is_read(store, monkeypatch):
    monkeypatch.setattr(type(store), "__getitem__", None)
    assert list(labelled_compositions(store)) and force_statistics(store).n_atoms and mean_neighbors(store, 5.0)


def spec(name: str, **options: object) -> DatasetSpec:
    return DatasetSpec(**{"name": name, "path": f"{name}.unipot", "level_of_theory": "PBE", **options})


def test_a_dataset_has_a_head_of_its_own_unless_told():
    assert spec("oxides_BO2.pbe").head == "oxides-bo2-pbe"
    assert levels_of_heads([spec("a"), spec("b", head="a"), spec("c", level_of_theory="LDA")]) == {"a": "PBE", "c": "LDA"}


def test_a_head_with_two_levels_of_theory_is_refused():
    with pytest.raises(ValueError, match="head 'x' mixes levels of theory: dataset 'a' is 'PBE', dataset 'b' is 'LDA'"):
        levels_of_heads([spec("a", head="x"), spec("b", head="x", level_of_theory="LDA")])


def test_a_head_with_two_kinds_of_energy_is_refused():
    both = [spec("a", head="x", energy_kind="total"), spec("b", head="x", energy_kind="adsorption")]
    with pytest.raises(ValueError, match="head 'x' mixes kinds of energy: dataset 'a' is 'total', dataset 'b' is 'adsorption'; give 'b' a"):
        energy_kinds_of_heads(both)
    assert energy_kinds_of_heads([both[0], spec("b", energy_kind="adsorption")]) == {"x": "total", "b": "adsorption"}


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
        ({"energy_kind": "binding"}, "dataset 'a': energy_kind is 'binding'; use one of: total, adsorption, formation"),
    ],
)
def test_impossible_specs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spec(**{"name": "a", **options})
