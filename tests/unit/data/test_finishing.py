"""What only the whole shows: energies off their composition, frames at odds with their neighbours, repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unipot.data.conversion.finishing import Finished, finishing_pass
from unipot.data.conversion.review import REVIEW, ShardReview
from unipot.data.quality.quarantine import Thresholds
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import ShardWriter, read_shard_info
from unipot.structure import Structure

LABELS = ("energy", "forces")


def alloy(k: int, **changes) -> Structure:
    """Four atoms of two kinds on a random lattice site each; energies of −3 and −5 eV per atom and some noise."""
    rng = np.random.default_rng(k)
    numbers = rng.permutation([29, 29, 13, 13] if k % 2 else [29, 29, 29, 13])
    lattice = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    sites = lattice + rng.uniform(-0.15, 0.15, (4, 3))  # too far apart to be near-identical
    energy = float(np.where(numbers == 29, -3.0, -5.0).sum() + rng.normal() * 0.1)
    labels = {"energy": np.array(energy), "forces": np.zeros((4, 3))}
    fields = {"atomic_numbers": numbers, "positions": sites @ (np.eye(3) * 4), "cell": np.eye(3) * 4, "pbc": [True] * 3, "id": f"a-{k}"}
    return replace(Structure(**fields, labels=labels), **changes)


def finish(folder: Path, structures: list[Structure], thresholds: Thresholds | None = None, energy_kind: str = "total") -> Finished:
    """Two shards, each with its review, and the pass over both."""
    thresholds, folders, half = thresholds or Thresholds(), [], len(structures) // 2
    for number, part in enumerate((structures[:half], structures[half:])):
        review = ShardReview("set", "PBE", thresholds, part=f"part-{number}")
        with ShardWriter(folder, f"s{number}", RecordCodec(LABELS), extra={"part": review.part}) as shard:
            shard.extend(*review.screen(part))
            shard.extra[REVIEW] = review.state()
        folders.append(folder / f"s{number}")
    reviews = [read_shard_info(path).extra[REVIEW] for path in folders]
    return finishing_pass(
        folders, reviews, thresholds, name="set", level_of_theory="PBE", codec=RecordCodec(LABELS), energy_kind=energy_kind
    )


def test_sound_frames_all_stay(tmp_path):
    finished = finish(tmp_path, [alloy(k) for k in range(40)])
    assert finished.keep.all() and finished.entries == []
    assert finished.census.to_dict()["n_groups"] == 40 and finished.census.duplicates.n_structures == 0


def test_energies_off_their_composition_are_found_however_large(tmp_path):
    structures = [alloy(k) for k in range(60)]
    for k, shift in ((7, 1e5), (8, 1e5), (9, 1e5), (31, 100.0), (44, -8.0)):  # together they drag a plain fit along
        energy = structures[k].labels["energy"] + shift
        structures[k] = structures[k].with_labels(energy=energy, forces=np.zeros((4, 3)))
    finished = finish(tmp_path, structures)
    assert np.flatnonzero(~finished.keep).tolist() == [7, 8, 9, 31, 44]
    reasons = {entry.id: entry.reason for entry in finished.entries}
    assert reasons["a-31"] == "max_energy_residual" and reasons["a-44"] == "max_energy_residual_spreads"
    entry = next(entry for entry in finished.entries if entry.id == "a-31")
    assert entry.value == pytest.approx(25.0, abs=0.2) and entry.record == ("00001.mdb", 1) and entry.part == "part-1"


def test_the_census_is_of_the_frames_that_stay(tmp_path):
    structures = [alloy(k) for k in range(40)]
    structures[5] = structures[5].with_labels(energy=np.array(1e4), forces=np.zeros((4, 3)))
    row = finish(tmp_path, structures).census.to_dict()
    assert row["n_structures"] == 39 and row["labels"]["energy"]["structures"] == 39 and row["n_atoms"] == 156
    assert row["energy_per_atom"]["max"] < 0


def test_a_set_that_no_composition_describes_loses_nothing(tmp_path):
    jumps = [alloy(k).with_labels(energy=np.array(1e3 * (k % 3 == 0)), forces=np.zeros((4, 3))) for k in range(30)]
    finished = finish(tmp_path, jumps)
    assert finished.keep.all() and "too many to be outliers" in finished.notes[0]


def test_adsorption_energies_are_compared_with_their_median(tmp_path):
    structures = [alloy(k).with_labels(energy=np.array(-1.0 + 0.01 * k), forces=np.zeros((4, 3))) for k in range(20)]
    structures[3] = structures[3].with_labels(energy=np.array(-500.0), forces=np.zeros((4, 3)))
    finished = finish(tmp_path, structures, energy_kind="adsorption")
    assert np.flatnonzero(~finished.keep).tolist() == [3] and finished.entries[0].reason == "max_adsorption_energy"


def spring(k: int, error: float = 0.0) -> Structure:
    """A frame of a trajectory with E = ½·5·Σu²; one energy may be off."""
    base = alloy(0)
    u = np.random.default_rng(k).normal(size=(4, 3)) * 0.02
    u -= u.mean(axis=0)
    labels = {"energy": np.array(-14.0 + 2.5 * (u**2).sum() + error), "forces": -5.0 * u}
    return replace(base, positions=base.positions + u, labels=labels, id=f"t-{k}", group="t")


def test_the_one_frame_at_odds_with_its_neighbours_is_found(tmp_path):
    finished = finish(tmp_path, [spring(k, error=0.4 if k == 13 else 0.0) for k in range(60)])
    assert np.flatnonzero(~finished.keep).tolist() == [13]
    (entry,) = finished.entries
    assert entry.reason == "max_pair_disagreement" and entry.value > entry.limit and "near-identical frames" in entry.detail


def test_repeats_are_counted_and_dropped_only_when_told(tmp_path):
    structures = [alloy(k) for k in range(20)]
    structures += [replace(structures[3], id="again", positions=structures[3].positions[:, [1, 2, 0]])]
    kept = finish(tmp_path / "keep", structures)
    assert kept.keep.all() and kept.census.duplicates.examples == ["a-3 = again"]
    dropped = finish(tmp_path / "drop", structures, Thresholds(duplicates="drop"))
    assert np.flatnonzero(~dropped.keep).tolist() == [20]
    assert (dropped.entries[0].reason, dropped.entries[0].detail) == ("duplicate", "same geometry as a-3")


def test_structures_quarantined_on_the_way_are_listed_first(tmp_path):
    wild = alloy(99, labels={"energy": np.array(-14.0), "forces": np.full((4, 3), 1e3)})
    finished = finish(tmp_path, [alloy(0), wild, alloy(1), alloy(2)])
    assert [entry.id for entry in finished.entries] == ["a-99"] and finished.keep.tolist() == [True] * 3
    assert finished.entries[0].reason == "max_force" and finished.entries[0].record is None


def test_nothing_at_all_is_no_accident(tmp_path):
    finished = finishing_pass([], [], Thresholds(), name="set", level_of_theory="PBE", codec=RecordCodec(LABELS))
    assert len(finished.keep) == 0 and finished.entries == []
