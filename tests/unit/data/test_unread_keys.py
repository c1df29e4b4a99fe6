"""Whatever a source holds and nothing reads is named once, with the option that would read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console

from unipot.data.conversion import parts
from unipot.data.labels import ASE_LABELS, LabelSource
from unipot.data.readers import read_structures
from unipot.data.unread_keys import UnreadKey, sentences, state_lookalikes
from unipot.workflows.inputs.user_frames import open_frames
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig, PropertyConfig, UserDataConfig

ENERGY = {"energy": ASE_LABELS["energy"]}


@pytest.mark.parametrize(
    ("key", "value", "per_atom", "could_be"),
    [
        ("vdw_forces", np.ones((2, 3)), True, "forces"),
        ("magmoms", np.ones(2), True, ""),
        ("D3_virial", np.eye(3), False, "stress"),
        ("my_stress", np.ones(6), False, "stress"),
        ("gap_energy", 1.0, False, "energy"),
        ("total_spin", 3, False, "spin_multiplicity"),
        ("net_charge", -1.0, False, "total_charge"),
        ("weight", 2.0, False, "weight"),
        ("spin_state", "doublet", False, ""),
        ("step", 7, False, ""),
        ("ragged", [[1], [1, 2]], False, ""),
    ],
)
def test_what_a_key_could_be_follows_from_its_shape_and_name(key, value, per_atom, could_be):
    assert UnreadKey.of(key, value, "a-0", per_atom=per_atom).could_be == could_be


def test_the_sentences_name_what_may_be_missed_first_and_how_to_read_it():
    found = [
        UnreadKey("step", False, 1, "a-0"), UnreadKey("F", True, 3, "a-1"), UnreadKey("F", True, 3, "b-0"),
        UnreadKey("total_spin", False, 1, "a-0"),
    ]  # fmt: skip
    named, options = sentences(found)
    assert named == (
        "in the source and not read: column 'F' (3 numbers an atom, could be forces), key 'total_spin' (1 number, could be "
        "spin_multiplicity), key 'step' (1 number)"
    )
    assert "sources.forces='{key: F, unit: ...}' (unipot prepare: labels.forces.key=F labels.forces.unit=...)" in options
    assert "columns.spin_multiplicity=total_spin" in options and "group_key" in options
    assert sentences([]) == []


def test_many_keys_are_cut_short():
    (named, _) = sentences([UnreadKey(f"k{k}", False, 1, "a-0") for k in range(25)])
    assert "'k19'" in named and "'k20'" not in named and "and 5 more" in named


@pytest.fixture
def file(tmp_path) -> Path:
    frames = []
    for k in range(8):
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8 + 0.3 * k]])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)), free_energy=-1.0)
        atoms.info["total_charge"] = 0
        if k > 4:
            atoms.info["band_gap"] = 1.0 * k
            atoms.arrays["vdw_forces"] = np.ones((2, 3))
        frames.append(atoms)
    write(tmp_path / "h2.extxyz", frames)
    return tmp_path / "h2.extxyz"


def test_a_reader_tells_each_key_once_and_none_that_is_read(file):
    told: list[UnreadKey] = []
    labels = {**ENERGY, "forces": LabelSource(key="vdw_forces", unit="eV/A")}
    list(read_structures(file, labels=labels, on_unread=told.append))
    assert [(item.key, item.where) for item in told] == [("forces", "h2-0"), ("free_energy", "h2-0"), ("band_gap", "h2-5")]


def test_prepare_names_a_key_of_a_late_frame_once_whatever_the_parts(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "_SMALLEST_PIECE", 300)
    store = prepare(PrepareConfig(path=str(file), level_of_theory="x", out=f"{tmp_path}/o.unipot"), Console(width=300))
    assert len(store.metadata["shards"]) > 2
    said = capsys.readouterr().out
    assert said.count("column 'vdw_forces' (3 numbers an atom, could be forces)") == 1
    assert json.loads((store.path / "census.json").read_text())["unread_keys"] == {
        "free_energy": "h2-0", "band_gap": "h2-5", "vdw_forces": "h2-5",
    }  # fmt: skip


def test_fine_tuning_and_evaluation_say_the_same_and_know_what_else_is_read(file, tmp_path, capsys):
    open_frames(str(file), UserDataConfig(), name="a", cache=tmp_path / "a", console=Console(width=300))
    said = capsys.readouterr().out
    assert said.count("column 'vdw_forces' (3 numbers an atom, could be forces)") == said.count("key 'band_gap'") == 1
    options = UserDataConfig(properties={"gap": PropertyConfig(key="band_gap", unit="eV")})
    open_frames(str(file), options, name="b", cache=tmp_path / "b", console=Console(width=300))
    said = capsys.readouterr().out
    assert "key 'free_energy'" in said and "key 'band_gap'" not in said


def test_columns_of_a_table_that_nothing_reads_are_told(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"numbers": [[1]], "positions": [[[0.0, 0, 0]]], "energy": [1.0], "run": ["a"], "spin_state": [2]}
    pq.write_table(pa.table({**table, "nested": [{"e": 1.0, "f": 2}]}), tmp_path / "a.parquet")
    told: list[UnreadKey] = []
    list(read_structures(tmp_path / "a.parquet", labels={"energy": LabelSource(key="nested.e", unit="eV")}, on_unread=told.append))
    assert [item.key for item in told] == ["energy", "run", "spin_state"]


def test_info_keys_that_look_like_a_charge_or_spin_are_told_from_others():
    info = {"total_spin": 3, "charge": 1, "spin_dynamics": "text", "charges": np.ones(4), "name": "a"}
    assert state_lookalikes(info, ("charge",)) == ["total_spin"]
