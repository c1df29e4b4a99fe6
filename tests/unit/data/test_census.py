"""The census counts what is there, what is twice, and what was left out."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from unipot.data.census import Census
from unipot.data.labels import SkippedItem
from unipot.structure import Structure
from unipot.units import GPA


@pytest.fixture
def census() -> Census:
    census = Census("set", "PBE")
    water = Structure(
        atomic_numbers=[8, 1, 1],
        positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        labels={"energy": -6.0, "forces": [[3, 4, 0], [0, 0, 0], [-3, -4, 1]]},
        id="water",
    )
    crystal = Structure(
        atomic_numbers=[12, 8],
        positions=[[0, 0, 0], [2, 2, 2]],
        cell=np.eye(3) * 4,
        pbc=[True] * 3,
        labels={"energy": -10.0, "stress": -np.eye(3) * GPA},
        id="crystal",
        group="MgO",
    )
    for structure in (water, crystal, crystal.with_labels(energy=np.array(-9.0))):
        census.add(structure)
    return census


def test_counts_elements_labels_groups_and_periodicity(census):
    row = census.to_dict()
    assert (row["n_structures"], row["n_groups"], row["n_atoms"]) == (3, 2, 7)
    assert row["elements"]["O"] == {"atoms": 3, "structures": 3} and list(row["elements"]) == ["H", "O", "Mg"]
    assert row["labels"] == {
        "energy": {"structures": 3, "unit": "eV"},
        "forces": {"structures": 1, "unit": "eV/A"},
        "stress": {"structures": 1, "unit": "eV/A^3"},
    }
    assert row["periodicity"] == {"0 periodic axes": 1, "3 periodic axes": 2}


def test_ranges_are_in_physical_units(census):
    row = census.to_dict()
    assert (row["energy_per_atom"]["min"], row["energy_per_atom"]["max"]) == (-5.0, -2.0)
    assert row["force_norm"]["max"] == pytest.approx(np.sqrt(26)) and row["net_force"]["max"] == pytest.approx(1.0)
    assert row["pressure"]["mean"] == pytest.approx(1.0) and row["pressure"]["unit"] == "GPa"
    assert row["volume_per_atom"]["mean"] == pytest.approx(32.0)


def test_equal_geometries_are_duplicates_and_named(census):
    assert census.to_dict()["duplicates"] == {"structures": 1, "examples": ["crystal = crystal"]}


def test_a_shift_beyond_the_resolution_or_another_charge_is_no_duplicate(census, make_structure):
    fresh = Census("set", "PBE")
    base = make_structure(0)
    for changed in ({}, {"positions": base.positions + 1e-4}, {"total_charge": 1.0}):
        fresh.add(Structure(**{**vars(base), **changed}))
    assert fresh.n_duplicates == 0
    fresh.add(Structure(**{**vars(base), "positions": base.positions + 1e-9}))
    assert fresh.n_duplicates == 1


def test_skipped_items_are_counted_by_reason(census):
    for k in range(3):
        reason = f"structure 'a-{k}': forces contain {k + 1} non-finite value(s); drop it"
        census.skip(SkippedItem(where=f"a-{k}", reason=reason))
    census.skip(SkippedItem(where="b", reason="it has none of the labels energy", invalid=False))
    assert census.n_skipped == 4
    assert census.to_dict()["skipped"] == {
        "forces contain non-finite value(s); drop it": {"items": 3, "examples": ["a-0", "a-1", "a-2"]},
        "it has none of the labels energy": {"items": 1, "examples": ["b"]},
    }


def test_it_is_json_and_a_table(census):
    assert json.loads(json.dumps(census.to_dict(), allow_nan=False))["name"] == "set"
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(census.table())
    text = console.export_text()
    for words in ("Census of set (PBE)", "energy per atom [eV/atom]", "-5 .. -2", "label forces [eV/A]", "duplicates", "skipped"):
        assert words in text
