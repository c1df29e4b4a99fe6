"""No pair within the limits is missed, however rows are divided; what is reported is verified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.quality import duplicate_search as duplicates
from unipot.data.quality.duplicate_report import duplicates_of, leakage, verified_clusters
from unipot.data.quality.duplicate_search import LIMITS, Clusters, candidate_clusters
from unipot.data.quality.geometry_match import distances_of, same_geometry
from unipot.data.quality.measurements import measure
from unipot.data.readers.ase_files import read_ase_file
from unipot.data.readers.assumed_labels import default_labels
from unipot.data.storage.format import group_hash, reduced_formula
from unipot.structure import Structure


def linked(formula: np.ndarray, values: np.ndarray, times: float) -> set[tuple[int, int]]:
    """All pairs of equal composition within the limits, by comparing everything with everything."""
    near = (np.abs(values[:, None].astype(float) - values[None]) <= times * LIMITS).all(axis=-1)
    near &= formula[:, None] == formula[None]
    return {(int(a), int(b)) for a, b in np.argwhere(near) if a < b}


def together(clusters: Clusters) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for cluster in clusters for k, a in enumerate(cluster) for b in cluster[k + 1 :]}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.3, 3.0, 30.0]),
    n_formulas=st.integers(1, 3),
    rows_at_a_time=st.sampled_from([7, 1000]),
    long_run=st.sampled_from([2, 64]),
)
def test_no_pair_within_the_limits_is_missed(seed, spread, n_formulas, rows_at_a_time, long_run):
    """Points around cell walls: steps of a quarter of a limit on a grid of limits, in few of the sixteen numbers."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    values = np.zeros((n, 16), dtype=np.float32)
    chosen = rng.choice(16, 3, replace=False)
    values[:, chosen] = np.round(rng.normal(size=(n, 3)) * spread * 4) / 4 * LIMITS[chosen] * rng.choice([1, 8])
    formula = rng.integers(0, n_formulas, n).astype(np.uint64)
    before = duplicates._LONG_RUN
    duplicates._LONG_RUN = long_run
    try:
        cuts = int(rng.integers(0, n + 1))  # two sources
        clusters = candidate_clusters(
            [formula[:cuts], formula[cuts:]], [values[:cuts], values[cuts:]], rows_at_a_time=rows_at_a_time
        )
    finally:
        duplicates._LONG_RUN = before
    # a hair inside, for the last bits of float32 decide at the limits themselves
    assert linked(formula, values, 0.999) <= together(clusters)
    # and a cluster holds only what a chain of nearly equal rows links
    for cluster in clusters:
        gaps = (np.abs(values[cluster][:, None].astype(float) - values[cluster][None]) / LIMITS).max(axis=-1)
        assert (gaps + 9 * np.eye(len(cluster))).min(axis=1).max() <= 1.13 and len(np.unique(formula[cluster])) == 1


def test_thousands_of_copies_make_one_cluster():
    values = np.zeros((5000, 16), dtype=np.float32)
    values[:, 0] += np.arange(5000) % 7 * 1e-7
    clusters = candidate_clusters([np.ones(5000, dtype=np.uint64)], [values])
    assert len(clusters) == 1 and clusters.n_repeats == 4999


def test_a_displacement_of_zero_and_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="displacement is 0; give a positive length"):
        candidate_clusters([], [], displacement=0)
    with pytest.raises(ValueError, match="2 formulas for 3 fingerprints"):
        candidate_clusters([np.ones(2, dtype=np.uint64)], [np.zeros((3, 16), dtype=np.float32)])


def test_distances_decide_over_charge_spin_and_composition(make_structure):
    base = make_structure(0, n_atoms=4)
    changes = ({"total_charge": 1.0}, {"atomic_numbers": base.atomic_numbers + 1}, {"positions": base.positions * 1.01})
    one, *others = distances_of([base, *[replace(base, **change) for change in changes]])
    assert same_geometry(one, one) and not any(same_geometry(one, other) for other in others)
    spins = distances_of([replace(base, spin_multiplicity=spin) for spin in (None, 1, 3)])
    assert same_geometry(spins[0], spins[1]) and not same_geometry(spins[1], spins[2])


def test_a_cluster_is_divided_by_geometry():
    rows = [Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [d, 0, 0]]) for d in (1.0, 2.0, 1.0, 2.0, 3.0)]
    clusters = verified_clusters(Clusters.of([np.arange(5)]), rows.__getitem__, lambda _: np.empty((0, 16)))
    assert [cluster.tolist() for cluster in clusters] == [[0, 2], [1, 3]]


def test_in_large_clusters_only_closer_candidates_are_compared(monkeypatch):
    """A chain of bond lengths, each a little longer than the one before; the last repeats the fifth."""
    from unipot.data.quality import duplicate_report

    lengths = [1.0 + 5e-5 * k for k in range(40)] + [1.0 + 5e-5 * 5]
    rows = [Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [d, 0, 0]]) for d in lengths]
    values = measure(rows)["fingerprint"]
    candidates = candidate_clusters([np.zeros(41, dtype=np.uint64)], [values])
    assert len(candidates) == 1 and len(candidates[0]) == 41
    monkeypatch.setattr(duplicate_report, "_LARGEST_CLUSTER", 10)
    clusters = verified_clusters(candidates, rows.__getitem__, values.__getitem__)
    assert any({5, 40} <= set(cluster.tolist()) for cluster in clusters)


def test_stores_report_repeats_and_contradicting_energies(make_store, make_structure):
    frames = [make_structure(k, n_atoms=4) for k in range(6)]
    mirrored = replace(frames[2], id="mirror", positions=frames[2].positions * [-1, 1, 1])
    other = replace(frames[3], id="other", labels={"energy": frames[3].labels["energy"] + 4.0})
    first = make_store("first", [*frames, mirrored])
    second = make_store("second", [other, make_structure(50, n_atoms=4)])
    clusters, summary = duplicates_of([first, second])
    assert [cluster.tolist() for cluster in clusters] == [[2, 6], [3, 7]]
    assert summary.examples[0] == "first/s-2 = first/mirror"
    assert summary.n_contradictions == 1 and summary.largest_energy_difference == pytest.approx(1.0)
    assert "first/s-3" in summary.contradictions[0] and "differ by 1 eV/atom" in summary.contradictions[0]


def test_energies_of_other_levels_do_not_contradict(make_store, make_structure):
    frame = make_structure(0, n_atoms=4)
    second = make_store("second", [replace(frame, labels={"energy": frame.labels["energy"] + 4.0})], level_of_theory="LDA")
    assert duplicates_of([make_store("first", [frame]), second])[1].n_contradictions == 0


def test_leakage_finds_held_out_frames_in_training(make_store, make_structure, monkeypatch):
    from unipot.data.quality import duplicate_report

    frames = [make_structure(k, n_atoms=4) for k in range(8)]
    turned = replace(frames[5], id="turned", positions=frames[5].positions[:, [1, 2, 0]])
    store, held = make_store("train", frames), make_store("held", [make_structure(90, n_atoms=4), turned])
    monkeypatch.setattr(duplicate_report, "_ROWS_AT_A_TIME", 3)  # several chunks of training
    found = leakage(store, range(8), held, range(2))
    assert (found.held_out.tolist(), found.training.tolist(), found.n_held_out) == ([1], [5], 2)
    assert len(leakage(store, [0, 1, 2], held, range(2))) == 0
    assert len(leakage(store, np.array([0, 5]), store, np.array([1, 2]))) == 0


def columns_of(path) -> tuple[list[Structure], np.ndarray, np.ndarray]:
    structures = list(read_ase_file(path, labels=default_labels(path)))
    formula = np.array([group_hash(reduced_formula(s.atomic_numbers)) for s in structures], dtype=np.uint64)
    return structures, formula, measure(structures)["fingerprint"]


def test_symmetry_images_of_real_test_frames_are_found(real_data):
    train, test = (columns_of(real_data / "mlearn_Cu" / f"{part}.extxyz") for part in ("train", "test"))
    everything = [*train[0], *test[0]]
    values = np.concatenate([train[2], test[2]])
    clusters = verified_clusters(candidate_clusters([train[1], test[1]], [train[2], test[2]]), everything.__getitem__, values.__getitem__)
    leaked = [cluster for cluster in clusters if cluster[0] < len(train[0]) <= cluster[-1]]
    # strained cells: three axes or six shears of one crystal, spread over train and test
    assert sum(int((cluster >= len(train[0])).sum()) for cluster in leaked) == 13
    assert sum(int((cluster < len(train[0])).sum()) for cluster in leaked) == 41


def test_frames_that_two_real_sets_share_are_found(real_data):
    names = [f"{name}/{part}" for name in ("mlearn_Mo", "snap_NbMoTaW") for part in ("train", "test")]
    parts = [columns_of(real_data / f"{name}.extxyz") for name in names]
    everything = [structure for structures, *_ in parts for structure in structures]
    n_mlearn = len(parts[0][0]) + len(parts[1][0])
    clusters = candidate_clusters([formula for _, formula, _ in parts], [values for *_, values in parts])
    shared = Clusters.of([cluster for cluster in clusters if cluster[0] < n_mlearn <= cluster[-1]])
    values = np.concatenate([values for *_, values in parts])
    found = verified_clusters(shared, everything.__getitem__, values.__getitem__)
    assert sum(int((cluster < n_mlearn).sum()) for cluster in found) == 11
