"""Thresholds flag what they name, state reason, value and limit, and lose nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unipot.data.labels import SkippedItem
from unipot.data.quality.measurements import measure
from unipot.data.quality.quarantine import QuarantineEntry, Thresholds, Violation, quarantine_lines, read_quarantine, screen, violations
from unipot.data.quality.quarantine_summary import quarantine_table, summarize_quarantine
from unipot.data.readers.ase_files import read_ase_file
from unipot.data.readers.assumed_labels import default_labels
from unipot.structure import Structure

CELL = {"cell": np.eye(3) * 4, "pbc": [True] * 3}
APART = [[0, 0, 0], [0, 0, 1.5]]


def pair(positions=APART, forces=((0, 0, 1), (0, 0, -1)), **fields) -> Structure:
    labels = {"energy": -1.0, "forces": np.array(forces, dtype=float)}
    return Structure(atomic_numbers=[6, 6], positions=positions, **{"labels": labels, "id": "x", **fields})


def reasons(structure: Structure, thresholds: Thresholds | None = None) -> Violation | None:
    return violations([structure], measure([structure]), thresholds or Thresholds())[0]


@pytest.mark.parametrize(
    ("structure", "reason", "value"),
    [
        (pair(positions=[[0, 0, 0], [0, 0, 0.4]]), "min_closest", 0.4 / 1.52),
        (pair(forces=[[0, 0, 300], [0, 0, -300]]), "max_force", 300.0),
        (pair(forces=[[0, 0, 2], [0, 0, 0]]), "max_net_force", np.sqrt(2.0)),
        (pair(forces=[[3, 0, 0], [-3, 0, 0]]), "max_net_torque", 3 * 1.5 / np.sqrt(2.0)),
        (pair(**CELL, labels={"stress": np.eye(3) * 30}), "max_stress", 30.0),
        (pair(positions=[[0, 0, 0], [0, 0, 50]], cell=np.eye(3) * 100, pbc=[True] * 3), "max_volume_per_atom", 5e5),
        (pair(cell=np.eye(3), pbc=[True] * 3, positions=[[0, 0, 0], [0.5, 0.5, 0.5]]), "min_closest", 0.866 / 1.52),
    ],
)
def test_each_defect_is_named_with_its_value(structure, reason, value):
    limits = Thresholds(min_closest=0.6, min_volume_per_atom=None)
    found = reasons(structure, limits)
    assert found is not None and found.reason == reason and found.value == pytest.approx(value, rel=1e-3)
    assert found.limit == getattr(limits, reason)
    assert reasons(structure, replace(limits, **{reason: None})) is None  # it was the only defect


def test_a_sound_structure_breaks_nothing():
    assert reasons(pair()) is None and reasons(Structure(atomic_numbers=[1], positions=[[0, 0, 0]])) is None


def test_fixed_atoms_without_forces_are_allowed_a_net_force():
    forces = [[0, 0, 5], [0, 0, 0]]
    assert reasons(pair(forces=forces, fixed=[False, True])) is None
    assert reasons(pair(forces=forces, fixed=[True, False])).reason == "max_net_force"


def test_a_screened_batch_keeps_measurements_aligned():
    batch = [pair(id="a"), pair(id="b", forces=[[0, 0, 300], [0, 0, -300]]), pair(id="c", forces=[[0, 0, 2], [0, 0, -2]])]
    kept, measurements, entries = screen(batch, measure(batch), Thresholds(), part="p.json")
    assert [structure.id for structure in kept] == ["a", "c"] and measurements["max_force"].tolist() == [1.0, 2.0]
    assert entries == [QuarantineEntry(id="b", part="p.json", reason="max_force", value=300.0, limit=200.0)]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"max_forces": 10}, r"quarantine.max_forces is not known \(did you mean 'max_force'\?\)"),
        ({"max_force": -1}, "quarantine.max_force is -1; give a positive number"),
        ({"max_force": "big"}, "quarantine.max_force is 'big'"),
        ({"max_force": float("nan")}, "quarantine.max_force is nan"),
        ({"duplicates": "delete"}, "quarantine.duplicates is 'delete'; use one of: keep, drop"),
    ],
)
def test_wrong_cards_are_refused(card, message):
    with pytest.raises(ValueError, match=message):
        Thresholds.from_card(card)


def test_a_card_goes_over_the_defaults():
    thresholds = Thresholds.from_card({"max_force": 50, "max_stress": None})
    assert (thresholds.max_force, thresholds.max_stress, thresholds.min_closest) == (50.0, None, Thresholds().min_closest)
    assert Thresholds.from_card(None) == Thresholds()


def test_entries_survive_the_file(tmp_path):
    entries = [
        QuarantineEntry(id="ä", part="p", reason="max_force", value=3.0, limit=2.0, record=("00001.mdb", 7)),
        QuarantineEntry.of_skipped(SkippedItem(where="f#3", reason="forces contain 1 non-finite value(s)"), "p"),
    ]
    (tmp_path / "quarantine.jsonl").write_bytes(b"".join(quarantine_lines(entries)))
    assert list(read_quarantine(tmp_path)) == entries == list(read_quarantine(tmp_path / "quarantine.jsonl"))


def test_damaged_and_missing_files_are_said(tmp_path):
    assert list(read_quarantine(tmp_path)) == []
    (tmp_path / "quarantine.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="quarantine.jsonl, line 1: not a quarantine entry"):
        list(read_quarantine(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no such store"):
        list(read_quarantine(tmp_path / "nothing"))


def test_the_summary_counts_and_shows_the_worst():
    entries = [QuarantineEntry(id=str(v), part="", reason="min_closest", value=v, limit=0.35) for v in (0.2, 0.1, 0.3)]
    entries.append(QuarantineEntry(id="far", part="", reason="max_force", value=900.0, limit=200.0))
    rows = {row.reason: row for row in summarize_quarantine(entries, Thresholds())}
    assert (rows["min_closest"].count, rows["min_closest"].worst, rows["min_closest"].example) == (3, 0.1, "0.1")
    assert rows["max_force"].worst == 900.0 and rows["max_stress"].count == 0
    assert quarantine_table(rows.values()).row_count == len(rows)


@pytest.mark.parametrize("name", ["mattersim_mpf_tp/all", "mptrj_1k/test", "water_revpbe0d3/train", "spice_sub/test", "oc20_debug/test_id"])
def test_defaults_flag_no_frame_of_real_sets(real_data, name):
    path = real_data / f"{name}.extxyz"
    structures = list(read_ase_file(path, labels=default_labels(path)))[:200]
    assert [v for v in violations(structures, measure(structures), Thresholds()) if v is not None] == []
