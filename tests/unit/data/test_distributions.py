"""What `unipot inspect` counts: histograms over columns, compositions, pair distances, overlap of datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.overview import distributions as module
from unipot.data.overview.coverage import WITHIN, coverage_map
from unipot.data.overview.distributions import (
    ATOMS,
    ENERGY,
    MAX_FORCE,
    MAX_STRESS,
    PRESSURE,
    VOLUME,
    bin_edges,
    composition_residuals,
    distributions,
    sample_rows,
    structures_per_element,
)
from unipot.data.overview.pair_distances import pair_distances
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.units import GPA

MakeStore = Callable[..., Store]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 10**7), k=st.integers(1, 300), seed=st.integers(0, 99))
def test_samples_are_sorted_without_repeats_and_repeatable(n: int, k: int, seed: int) -> None:
    rows = sample_rows(n, k, seed)
    assert len(rows) == min(n, k) and (np.diff(rows) > 0).all() and 0 <= rows[0] and rows[-1] < n
    assert (rows == sample_rows(n, k, seed)).all()


def test_every_structure_is_counted_once_in_whatever_chunks(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(n=40)
    whole = distributions([store], ATOMS)[0]
    monkeypatch.setattr(module, "chunks", lambda n, size=3: ((a, min(a + 3, n)) for a in range(0, n, 3)))
    pieces = distributions([store], ATOMS)[0]
    assert whole is not None and pieces is not None and (whole.counts == pieces.counts).all()
    assert whole.n == whole.counts.sum() + whole.n_below + whole.n_above == 40
    assert (whole.smallest, whole.largest) == (2, 8) and whole.quantiles[1] == np.median(store.n_atoms)


def test_quantities_have_the_units_they_say(make_store: MakeStore, make_structure: Callable[..., Structure]) -> None:
    frame = make_structure(3, periodic=True)
    frame = frame.with_labels(energy=-10.0, forces=np.eye(5, 3) * [3, 0, 0], stress=-2 * GPA * np.eye(3))
    store = make_store(structures=[frame])
    found = {q.name: float(q.values(store, slice(0, 1))[0]) for q in (ENERGY, MAX_FORCE, PRESSURE, MAX_STRESS, VOLUME)}
    assert found[ENERGY.name] == pytest.approx(-2.0) and found[MAX_FORCE.name] == pytest.approx(3.0)
    assert found[PRESSURE.name] == pytest.approx(2.0) and found[MAX_STRESS.name] == pytest.approx(2.0)
    assert found[VOLUME.name] == pytest.approx(frame.volume / 5)


def test_labels_that_nobody_has_give_no_distribution(make_store: MakeStore) -> None:
    molecules = make_store()
    assert distributions([molecules], PRESSURE) == [None]
    assert distributions([molecules], VOLUME) == [None]


def test_zeros_are_counted_apart_on_a_logarithmic_axis(make_store: MakeStore, make_structure: Callable[..., Structure]) -> None:
    still = [make_structure(k).with_labels(forces=np.zeros((5, 3))) for k in range(3)]
    found = distributions([make_store(structures=[*still, make_structure(9)])], MAX_FORCE)[0]
    assert found is not None and (found.n, found.n_zero, found.counts.sum()) == (4, 3, 1)


@pytest.mark.parametrize("scale", ["linear", "log", "asinh"])
@pytest.mark.parametrize("values", [[], [0.0], [5.0], [-3.0, 4.0], [1e-30, 1e30], list(range(500))])
def test_bins_are_finite_and_ascend(scale: str, values: list[float]) -> None:
    edges = bin_edges([np.array(values, dtype=float)], scale)
    assert np.isfinite(edges).all() and (np.diff(edges) > 0).all() and len(edges) <= module.N_BINS + 2


def test_residuals_of_energies_that_are_sums_over_elements_vanish(make_store: MakeStore, make_structure: Callable[..., Structure]) -> None:
    def with_sum(k: int) -> Structure:
        frame = make_structure(k, n_atoms=2 + k % 5)
        return frame.with_labels(energy=-1.5 * frame.atomic_numbers.sum())

    residuals, sentence = composition_residuals(make_store(structures=[with_sum(k) for k in range(60)]))
    assert len(residuals) == 60 and np.abs(residuals).max() < 1e-8 and sentence.startswith("60 frames")


def test_structures_per_element_count_structures_not_atoms(make_store: MakeStore) -> None:
    water = [Structure(atomic_numbers=[8, 1, 1], positions=np.eye(3), labels={"energy": 0.0}, id=f"w{k}") for k in range(4)]
    found = structures_per_element(make_store(structures=water))
    assert found[[1, 8]].tolist() == [4, 4] and found.sum() == 8


def test_nearest_distances_include_periodic_images() -> None:
    wire = Structure(atomic_numbers=[11], positions=[[0, 0, 0]], cell=[[3, 0, 0], [0, 0, 0], [0, 0, 0]], pbc=[True, False, False])
    salt = Structure(atomic_numbers=[11, 17], positions=[[0, 0, 0], [4.5, 0, 0]], cell=np.diag([6.0, 20, 20]), pbc=True)
    found = pair_distances([wire, salt])
    assert found.of_pair(11, 11).tolist() == [3.0] and found.of_pair(17, 11).tolist() == [1.5]
    smallest, counts = found.table()
    assert smallest[17, 11] == smallest[11, 17] == 1.5 and counts[11, 11] == 1 and not np.isfinite(smallest[17, 17])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12))
def test_nearest_distances_agree_with_all_pairs_of_a_molecule(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    molecule = Structure(atomic_numbers=rng.integers(1, 4, n), positions=rng.normal(scale=2, size=(n, 3)))
    found = pair_distances([molecule])
    gaps = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1) + np.diag(np.full(n, np.inf))
    for a in (1, 2, 3):
        for b in range(a, 4):
            expected = gaps[np.ix_(molecule.atomic_numbers == a, molecule.atomic_numbers == b)]
            expected = expected[expected < 5.0]
            np.testing.assert_allclose(found.of_pair(a, b), [expected.min()] if len(expected) else [], rtol=1e-12)


def test_lone_atoms_have_no_pairs() -> None:
    found = pair_distances([Structure(atomic_numbers=[2], positions=[[0, 0, 0]])])
    assert len(found.distances) == 0 and not found.table()[1].any()


def _molecules(path: Path, name: str, kind: str, seed: int, n: int = 300) -> Store:
    rng = np.random.default_rng(seed)
    with StoreWriter(path / f"{name}.unipot", name=name, level_of_theory="PBE", labels=("energy",)) as writer:
        for k in range(n):
            scale = {"near": 1.0, "far": 2.0}[kind]
            positions = scale * np.array([[0, 0, 0], [1.0, 0, 0], [-0.3, 0.9, 0]]) + 0.05 * rng.normal(size=(3, 3))
            numbers = [8, 1, 1] if kind == "near" else [16, 1, 9]
            writer.add(Structure(atomic_numbers=numbers, positions=positions, labels={"energy": 0.0}, id=f"{name}{k}", group=f"g{k // 3}"))
    return Store(path / f"{name}.unipot")


def test_samples_of_one_distribution_cover_each_other_and_other_molecules_are_not_covered(tmp_path: Path) -> None:
    stores = [_molecules(tmp_path, "one", "near", 0), _molecules(tmp_path, "two", "near", 1), _molecules(tmp_path, "three", "far", 2)]
    found = coverage_map(stores, 300)
    np.testing.assert_allclose(found.covered[:2, :2], WITHIN, atol=0.05)
    assert found.covered[2, 2] == pytest.approx(WITHIN, abs=0.05) and found.by_group.all()
    assert found.covered[2, :2].max() == 0 and found.covered[:2, 2].max() == 0
    assert [len(points) for points in found.points] == [300] * 3 and 0 < found.explained[1] <= found.explained[0] <= 1


def test_overlap_of_samples_that_are_too_small_is_not_stated(tmp_path: Path, make_store: MakeStore) -> None:
    found = coverage_map([make_store(n=1), make_store("b", n=6)], 100)
    assert np.isnan(found.covered).all() and not found.by_group.any()
