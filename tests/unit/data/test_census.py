"""The census counts what is there, what is twice, and what was left out."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from unipot.data.labels import SkippedItem
from unipot.data.quality.census import Census
from unipot.data.quality.measurements import measure
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
    for batch in ([water, crystal], [crystal.with_labels(energy=np.array(-9.0))]):
        census.add(batch, measure(batch))
    return census


def test_counts_elements_labels_groups_and_periodicity(census):
    row = census.to_dict()
    assert (row["n_structures"], row["n_groups"], row["n_atoms"]) == (3, None, 7)
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


def test_merged_pieces_say_what_the_whole_says(make_structure):
    structures = [make_structure(k, n_atoms=2 + k % 4, periodic=k % 3 == 0) for k in range(12)]
    whole, merged = Census("set", "PBE"), Census("set", "PBE")
    whole.add(structures, measure(structures))
    for part in (structures[:5], structures[5:6], structures[6:]):
        piece = Census("set", "PBE")
        piece.add(part, measure(part))
        piece.skip(SkippedItem(where=part[0].id, reason="it has no energy"))
        merged.merge(json.loads(json.dumps(piece.state(), allow_nan=False)))
    for item in (structures[0], structures[5], structures[6]):
        whole.skip(SkippedItem(where=item.id, reason="it has no energy"))
    one, other = whole.to_dict(), merged.to_dict()
    for name in ("force_norm", "energy_per_atom", "volume_per_atom", "stress_components"):
        assert other[name] == {key: value if key == "unit" else pytest.approx(value) for key, value in one[name].items()}
    same = ("n_structures", "n_atoms", "elements", "periodicity", "labels", "skipped")
    assert {key: one[key] for key in same} == {key: other[key] for key in same}


def test_nothing_is_kept_per_structure(make_structure):
    census, sizes = Census("set", "PBE"), []
    for k in range(3):
        batch = [make_structure(100 * k + j, n_atoms=4) for j in range(100)]
        for j, structure in enumerate(batch):  # as many compositions as structures
            structure.atomic_numbers[:] = [1 + j, 1 + (j + k) % 100, 2, 3]
        census.add(batch, measure(batch))
        sizes.append(len(json.dumps(census.state())))
    assert sizes[2] < sizes[0] + 200


def test_reasons_for_skipping_are_bounded():
    census = Census("set", "PBE")
    for k in range(1000):
        census.skip(SkippedItem(where=str(k), reason=f"reason {k}"))
    assert len(census.skipped) == 201 and census.n_skipped == 1000 and census.skipped["other reasons"] == 800


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
    expected = ("Census of set (PBE)", "energy per atom [eV/atom]", "-5 .. -2", "label forces [eV/A]", "labels against energies", "skipped")
    for words in expected:
        assert words in text
