"""Streaming pymatgen-style JSON: geometry, labels, defects, compressed and damaged files."""

import bz2
import gzip
import json
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.pymatgen_json import as_pymatgen, labelled_structure, read_array, read_lines, read_object, read_structure
from unipot.structure import Structure

SOURCES = {
    "energy": LabelSource(key="energy", unit="eV"),
    "forces": LabelSource(key="forces", unit="eV/A"),
    "stress": LabelSource(key="stress", unit="kbar", sign="compression"),
}
LABELS = {"energy": -3.5, "forces": [[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]], "stress": [10.0, 20.0, 30.0, 1.0, 2.0, 3.0]}
WRITERS = {".json": lambda b: b, ".json.gz": gzip.compress, ".json.bz2": bz2.compress}


def salt(**changes):
    """NaCl as pymatgen writes it; `changes` replace keys of its last site."""
    sites = [
        {"species": [{"element": "Na", "occu": 1}], "abc": [0.0, 0.0, 0.0], "xyz": [0.0, 0.0, 0.0], "label": "Na", "properties": {}},
        {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5], "xyz": [2.0, 2.5, 3.0], "label": "Cl", "properties": {}},
    ]
    sites[1] |= changes
    lattice = {"matrix": [[4.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 6.0]], "a": 4.0, "volume": 120.0}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "charge": None, "lattice": lattice, "sites": sites}


def skipped(structure, labels=LABELS):
    item = labelled_structure(structure, labels, SOURCES, id="a", group="g")
    assert isinstance(item, SkippedItem)
    return item


def write(tmp_path, suffix, document):
    file = tmp_path / f"data{suffix}"
    file.write_bytes(WRITERS[suffix](document if isinstance(document, bytes) else json.dumps(document).encode()))
    return file


def test_geometry_and_labels_are_read():
    structure = labelled_structure(salt(), LABELS, SOURCES, id="a", group="g")
    assert structure.atomic_numbers.tolist() == [11, 17] and structure.pbc.all()
    np.testing.assert_allclose(structure.positions[1], [2.0, 2.5, 3.0])
    assert (structure.id, structure.group) == ("a", "g")
    assert float(structure.labels["energy"]) == -3.5
    np.testing.assert_array_equal(structure.labels["forces"], LABELS["forces"])


def test_stress_of_vasp_becomes_positive_under_tension():
    stress = labelled_structure(salt(), LABELS, SOURCES, id="a", group="g").labels["stress"]
    np.testing.assert_allclose(stress * 1602.1766340, -np.array([[10, 3, 2], [3, 20, 1], [2, 1, 30]]), rtol=1e-12)


def test_fractional_coordinates_win_over_cartesian_as_in_pymatgen():
    fields = read_structure(salt(abc=[0.25, 0.5, 0.5]))
    np.testing.assert_allclose(fields["positions"][1], [1.0, 2.5, 3.0])


def test_cartesian_coordinates_serve_where_a_site_lacks_fractional_ones():
    structure = salt(xyz=[1.0, 2.0, 3.0])
    for site in structure["sites"]:
        del site["abc"]
    np.testing.assert_array_equal(read_structure(structure)["positions"], [[0, 0, 0], [1, 2, 3]])


def test_charge_and_periodicity_of_newer_files_are_read():
    structure = salt()
    structure["charge"], structure["lattice"]["pbc"] = 1.0, [True, True, False]
    fields = read_structure(structure)
    assert fields["total_charge"] == 1.0 and fields["pbc"] == [True, True, False]


HALF = [{"element": "Cl", "occu": 0.5}]


@pytest.mark.parametrize("species", [HALF, [*HALF, {"element": "Br", "occu": 0.5}], []], ids=["vacancy", "two species", "none"])
def test_disorder_is_skipped_with_a_reason(species):
    item = skipped(salt(species=species))
    assert item.where == "a" and item.invalid and "disordered" in item.reason


def test_oxidation_states_are_not_disorder_and_deuterium_is_hydrogen():
    assert read_structure(salt(species=[{"element": "Cl", "occu": 1, "oxidation_state": -1}]))["atomic_numbers"][1] == 17
    assert read_structure(salt(species=[{"element": "D", "occu": 1}]))["atomic_numbers"][1] == 1


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (None, "it has no structure"),
        ({"sites": []}, "the structure lacks 'lattice'"),
        (salt(species=[{"element": "Q", "occu": 1}]), "'Q', which is no element"),
        (salt(abc=[0.5, None, 0.5]), "non-finite"),
    ],
)
def test_a_damaged_structure_is_skipped_with_a_reason(structure, reason):
    assert reason in skipped(structure).reason


@pytest.mark.parametrize("forces", [[[0.1, 0.0, 0.0], [0.1]], [[0.1, 0.0, 0.0]], [[None, 0.0, 0.0], [0.0, 0.0, 0.0]]])
def test_forces_of_a_wrong_shape_or_with_gaps_skip_the_frame(forces):
    assert skipped(salt(), {**LABELS, "forces": forces}).invalid


def test_a_missing_label_is_absent_and_none_at_all_is_no_defect():
    structure = labelled_structure(salt(), {"energy": -1.0, "forces": None}, SOURCES, id="a", group="g")
    assert set(structure.labels) == {"energy"}
    item = skipped(salt(), {"magmom": [0.0, 0.0]})
    assert not item.invalid and item.reason == "it has none of the labels energy, forces, stress"


def test_mirrored_stress_components_that_differ_by_rounding_are_averaged():
    stress = [[1e-5, 2e-5, 0.0], [2.1e-5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    labels = labelled_structure(salt(), {"stress": stress}, SOURCES, id="a", group="g").labels
    assert labels["stress"][0, 1] * 1602.1766340 == pytest.approx(-2.05e-5)
    assert "not symmetric" in skipped(salt(), {"stress": [[1.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}).reason


@given(seed=st.integers(0, 2**32 - 1), n_atoms=st.integers(1, 6))
def test_what_is_written_as_pymatgen_does_is_read_again(seed, n_atoms):
    rng = np.random.default_rng(seed)
    structure = Structure(
        atomic_numbers=rng.integers(1, 95, n_atoms),
        positions=10 * rng.normal(size=(n_atoms, 3)),
        cell=5 * np.eye(3) + rng.uniform(-1, 1, (3, 3)),
        pbc=True,
        total_charge=float(rng.integers(-2, 3)),
    )
    again = Structure(**read_structure(json.loads(json.dumps(as_pymatgen(structure)))))
    np.testing.assert_array_equal(again.atomic_numbers, structure.atomic_numbers)
    np.testing.assert_allclose(again.positions, structure.positions, atol=1e-9)
    np.testing.assert_array_equal(again.cell, structure.cell)
    assert again.total_charge == structure.total_charge


def test_a_structure_without_cell_cannot_be_written_as_pymatgen_does():
    with pytest.raises(ValueError, match="structure 'h2o' has no full cell"):
        as_pymatgen(Structure(atomic_numbers=[8], positions=[[0, 0, 0]], id="h2o"))


@pytest.mark.parametrize("suffix", WRITERS)
def test_objects_and_arrays_are_streamed_from_every_compression(tmp_path, suffix):
    file = write(tmp_path, suffix, {"mp-1": {"energy": 1}, "mp-2": {"energy": 2.5}})
    assert list(read_object(file)) == [("mp-1", {"energy": 1}), ("mp-2", {"energy": 2.5})]
    assert list(read_array(write(tmp_path, suffix, {"entries": [1, 2.5]}), "entries")) == [1, 2.5]
    assert list(read_array(write(tmp_path, suffix, [{"a": [1.5]}, None]))) == [{"a": [1.5]}, None]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_truncated_file_is_one_sentence_that_names_it(tmp_path, suffix):
    file = write(tmp_path, suffix, [{"number": k, "text": f"{k * 7919 % 10007}"} for k in range(3000)])
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    with pytest.raises(ValueError, match=rf"{file.name} is cut short.*fetch it again") as caught:
        list(read_array(file))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_web_page_instead_of_data_is_refused(tmp_path, suffix):
    file = tmp_path / f"data{suffix}"
    file.write_text("<html><body>404</body></html>")
    with pytest.raises(ValueError, match=rf"{file.name} is (cut short|not a)"):
        list(read_object(file))


def test_a_document_of_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has an array at its top that is empty or not there"):
        list(read_array(write(tmp_path, ".json", {"a": 1})))
    with pytest.raises(ValueError, match="has an array at 'entries' that is empty or not there"):
        list(read_array(write(tmp_path, ".json", {"a": 1}), "entries"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        list(read_object(tmp_path / "none.json"))


@pytest.mark.parametrize("padding", range(0, 40, 7))
def test_not_a_number_is_read_as_missing_wherever_the_chunk_ends(tmp_path, padding, monkeypatch):
    """`NaN`, which Python writes and JSON does not have; text that contains it stays as it is."""
    monkeypatch.setattr("unipot.data.readers.pymatgen_json._CHUNK", 32)
    values = [" " * padding, "NaN3 [NaN", float("nan"), float("-inf"), [float("inf"), 1.5]]
    assert list(read_array(write(tmp_path, ".json", values))) == [" " * padding, "NaN3 [NaN", None, None, [None, 1.5]]


def test_lines_are_read_and_a_cut_line_is_named(tmp_path):
    file = tmp_path / "data.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": NaN}\n'))
    assert list(read_lines(file)) == [{"a": 1}, {"a": None}]
    file.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2, "b"'))
    with pytest.raises(ValueError, match=r"data\.jsonl\.gz is cut short or damaged at line 2"):
        list(read_lines(file))


def test_without_ijson_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(ImportError, match=r"streaming JSON needs ijson; install it with: pip install 'unipot\[recipes\]'"):
        list(read_object(write(tmp_path, ".json", {"a": 1})))


def peak_memory(tmp_path, n_materials):
    file = tmp_path / f"{n_materials}.json"
    with file.open("w") as out:
        out.write('{"first": {}')
        for k in range(n_materials):
            out.write(f', "mp-{k}": {{"forces": [[0.125, 0.25, {k}.5]]}}')
        out.write("}")
    tracemalloc.start()
    assert sum(1 for _ in read_object(file)) == n_materials + 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_file(tmp_path):
    small = peak_memory(tmp_path, 5000)
    assert peak_memory(tmp_path, 20000) < 1.2 * small
