"""Recipes of crystals (MPtrj, MatPES, WBM, Alexandria, sAlex, mlearn): what they read equals what their samples were made of."""

import bz2
import gzip
import json
import runpy
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unipot.data.catalog.recipes import load_recipe
from unipot.data.labels import SkippedItem
from unipot.resources import data_recipes_dir
from unipot.structure import Structure

MPTRJ, WBM = "MPtrj_2022.9_full.json", "2022-10-19-wbm-computed-structure-entries.jsonl.gz"
MATPES = ("matpes_pbe", "matpes_r2scan")


def sample(name):
    return data_recipes_dir() / name / "sample"


def made(name):
    """Names of the script that made a sample; no bytecode is left beside it."""
    return SimpleNamespace(**runpy.run_path(str(sample(name) / "make_sample.py")))


def read(name, raw, **options):
    recipe = load_recipe(data_recipes_dir(), name)
    return [item for part in recipe.parts(raw, **options) for item in recipe.structures(raw, part, **options)]


def assert_same(structures, atoms, labels=("energy", "forces", "stress")):
    """Geometry and labels in ASE's units and signs, which are unipot's."""
    assert len(structures) == len(atoms) > 0
    for structure, reference in zip(structures, atoms, strict=True):
        assert set(structure.labels) == set(labels)
        assert structure.atomic_numbers.tolist() == reference.numbers.tolist() and structure.pbc.all()
        np.testing.assert_allclose(structure.cell, reference.cell, atol=1e-12)
        np.testing.assert_allclose(structure.positions, reference.positions, atol=1e-10)
        values = {"energy": reference.get_potential_energy, "forces": reference.get_forces}
        for label in labels:
            expected = reference.get_stress(voigt=False) if label == "stress" else values[label]()
            np.testing.assert_allclose(structure.labels[label], expected, atol=1e-9)


def rewritten(name, file, folder, change):
    """A copy of a sample's file with a document changed; returns the raw folder."""
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(Path(file).suffix, open)
    with opener(sample(name) / file, "rt") as stream:
        document = json.load(stream)
    change(document)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    with opener(folder / file, "wt") as stream:
        json.dump(document, stream)
    return folder


def skipped(items):
    return [item for item in items if isinstance(item, SkippedItem)]


# --- MPtrj


def mptrj_documents(change):
    return lambda document: change(document["mp-900001"]["mp-900001-0-0"])


def test_mptrj_reads_energies_forces_and_the_stress_with_its_sign_turned():
    atoms = [frame for group in made("mptrj").frames().values() for frame in group.values()]
    assert_same(read("mptrj", sample("mptrj"))[:-1], atoms[:-1])


def test_mptrj_stress_is_positive_in_a_stretched_crystal():
    first = read("mptrj", sample("mptrj"))[0]
    raw = json.loads((sample("mptrj") / MPTRJ).read_text())["mp-900001"]["mp-900001-0-0"]["stress"]
    # 1 kbar = 0.1 GPa; 160.21766 GPa = 1 eV/A^3
    np.testing.assert_allclose(first.labels["stress"], -0.1 * np.array(raw) / 160.2176634, rtol=1e-7)


def test_mptrj_frame_without_stress_keeps_its_other_labels():
    last = read("mptrj", sample("mptrj"))[-1]
    assert last.id == "mp-900002:mp-900002-0-2" and set(last.labels) == {"energy", "forces"}


def test_mptrj_groups_frames_by_material():
    assert [item.group for item in read("mptrj", sample("mptrj"))] == ["mp-900001"] * 3 + ["mp-900002"] * 3


def test_mptrj_corrected_energies_differ_by_the_correction_only():
    plain, corrected = (read("mptrj", sample("mptrj"), energy=energy) for energy in ("uncorrected", "corrected"))
    for a, b in zip(plain, corrected, strict=True):
        assert b.labels["energy"] - a.labels["energy"] == pytest.approx(made("mptrj").CORRECTION * a.n_atoms)
        np.testing.assert_array_equal(a.labels["forces"], b.labels["forces"])


def test_mptrj_corrected_energies_have_a_level_of_theory_of_their_own():
    recipe = load_recipe(data_recipes_dir(), "mptrj")
    assert recipe.level_for({}) == recipe.level_of_theory != recipe.level_for({"energy": "corrected"})


def test_mptrj_refuses_another_energy():
    with pytest.raises(ValueError, match="energy 'formation' of recipe 'mptrj' is not known; use one of: uncorrected, corrected"):
        read("mptrj", sample("mptrj"), energy="formation")


def test_mptrj_counts_a_disordered_frame(tmp_path):
    def halve(frame):
        frame["structure"]["sites"][0]["species"] = [{"element": "Au", "occu": 0.5}, {"element": "Cu", "occu": 0.5}]

    items = read("mptrj", rewritten("mptrj", MPTRJ, tmp_path, mptrj_documents(halve)))
    assert [item.where for item in skipped(items)] == ["mp-900001:mp-900001-0-0"] and len(items) == 6


def test_mptrj_counts_a_frame_whose_forces_do_not_fit(tmp_path):
    items = read("mptrj", rewritten("mptrj", MPTRJ, tmp_path, mptrj_documents(lambda frame: frame["force"].pop())))
    assert [item.invalid for item in skipped(items)] == [True]


def test_mptrj_counts_a_frame_without_labels(tmp_path):
    def strip(frame):
        frame.update(uncorrected_total_energy=None, force=None, stress=None)

    items = skipped(read("mptrj", rewritten("mptrj", MPTRJ, tmp_path, mptrj_documents(strip))))
    assert [item.reason for item in items] == ["it has none of the labels energy, forces, stress"] and not items[0].invalid


def test_mptrj_cut_short_is_one_sentence_that_names_the_file(tmp_path):
    text = (sample("mptrj") / MPTRJ).read_bytes()
    (tmp_path / MPTRJ).write_bytes(text[: len(text) // 2])
    with pytest.raises(ValueError, match=f"{MPTRJ} is cut short"):
        read("mptrj", tmp_path)


def test_mptrj_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{MPTRJ}: no such file"):
        read("mptrj", tmp_path)


# --- MatPES


@pytest.mark.parametrize("name", MATPES)
def test_matpes_reads_energies_forces_and_stresses(name):
    assert_same(read(name, sample(name)), made(name).frames())


@pytest.mark.parametrize("name", MATPES)
def test_matpes_ids_are_its_own_and_groups_the_parent_materials(name):
    items = read(name, sample(name))
    assert items[0].id == "matpes-20240214_900001_0"
    assert [item.group for item in items] == ["mp-900001", "mp-900001", "mp-900002", "mp-900002"]


def test_matpes_functionals_are_two_levels_of_theory():
    assert len({load_recipe(data_recipes_dir(), name).level_of_theory for name in MATPES}) == 2


def test_matpes_version_chooses_the_file():
    assert load_recipe(data_recipes_dir(), "matpes_r2scan").parts(Path(), version="2025.2") == ["MatPES-R2SCAN-2025.2.json.gz"]


@pytest.mark.parametrize("version", ["2025.2", 2025.2])
def test_matpes_version_chooses_what_is_fetched(version):
    needed = load_recipe(data_recipes_dir(), "matpes_pbe").needed_files({"version": version})
    assert [source.file for source in needed] == ["MatPES-PBE-2025.2.json.gz"]


def test_matpes_without_id_is_named_by_its_place(tmp_path):
    raw = rewritten("matpes_pbe", "MatPES-PBE-2025.1.json.gz", tmp_path, lambda documents: documents[1].pop("matpes_id"))
    assert read("matpes_pbe", raw)[1].id == "MatPES-PBE-2025.1-1"


def test_matpes_cut_short_is_one_sentence_that_names_the_file(tmp_path):
    file = "MatPES-PBE-2025.1.json.gz"
    (tmp_path / file).write_bytes((sample("matpes_pbe") / file).read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{file} is cut short"):
        read("matpes_pbe", tmp_path)


# --- WBM


def test_wbm_reads_energies_and_nothing_else():
    assert_same(read("wbm", sample("wbm")), list(made("wbm").frames().values()), labels=("energy",))


def test_wbm_ids_are_those_of_the_benchmark():
    items = read("wbm", sample("wbm"))
    assert [item.id for item in items] == [item.group for item in items] == ["wbm-1-1", "wbm-1-2", "wbm-2-3", "wbm-2-4"]


def test_wbm_says_that_it_is_a_test_set():
    card = load_recipe(data_recipes_dir(), "wbm").card
    assert "Never train" in card["description"] and card["known_traps"][0].startswith("TEST ONLY")


@pytest.mark.parametrize(("one", "other"), [("mptrj", "wbm"), ("alexandria", "salex")])
def test_sets_of_the_same_settings_share_their_level_of_theory(one, other):
    levels = [load_recipe(data_recipes_dir(), name).level_of_theory for name in (one, other)]
    assert levels[0] == levels[1]


# --- Alexandria and sAlex


def test_alexandria_paths_are_read_step_by_step():
    steps = [atoms for runs in made("alexandria").paths().values() for run in runs for atoms in run]
    # the sample's mirrored stress components differ in the last digits, as the real ones do
    assert_same(read("alexandria", sample("alexandria")), steps)


def test_alexandria_steps_are_named_by_material_calculation_and_step():
    items = read("alexandria", sample("alexandria"))
    assert [item.id for item in items[:5]] == [f"agm900000000_{place}" for place in ("0_0", "0_1", "0_2", "1_0", "1_1")]
    assert {item.group for item in items} == {"agm900000000", "agm900000001", "agm900000002"}


def test_alexandria_entries_hold_the_last_step():
    last = [runs[-1][-1] for runs in made("alexandria").paths().values()]
    items = read("alexandria", sample("alexandria"), content="entries")
    assert_same(items, last)
    assert [item.id for item in items] == list(made("alexandria").paths())


def test_alexandria_entry_whose_sites_lack_forces_keeps_its_energy(tmp_path):
    def strip(document):
        document["entries"][0]["structure"]["sites"][1]["properties"].pop("forces")

    raw = rewritten("alexandria", "entries/alexandria_00000.json.bz2", tmp_path, strip)
    assert set(read("alexandria", raw, content="entries")[0].labels) == {"energy", "stress"}


def test_alexandria_refuses_a_stress_that_is_not_symmetric(tmp_path):
    def skew(document):
        document["agm900000000"][0]["steps"][0]["stress"][0][1] += 5.0

    items = read("alexandria", rewritten("alexandria", "pbe/pbe_0000.json.bz2", tmp_path, skew))
    assert [item.where for item in skipped(items)] == ["agm900000000_0_0"]


def test_alexandria_refuses_other_contents():
    with pytest.raises(ValueError, match="content 'scan' of recipe 'alexandria' is not known; use one of: paths, entries"):
        read("alexandria", sample("alexandria"), content="scan")


@pytest.mark.parametrize(("content", "prefix"), [("paths", "pbe/"), ("entries", "entries/")])
def test_alexandria_fetches_only_the_files_of_the_content(content, prefix):
    needed = load_recipe(data_recipes_dir(), "alexandria").needed_files({"content": content})
    assert needed and all(source.file.startswith(prefix) for source in needed)


@pytest.fixture(scope="module")
def salex_raw(tmp_path_factory):
    pytest.importorskip("ase_db_backends", reason="reads aselmdb")
    raw = tmp_path_factory.mktemp("salex")
    for split in ("train", "val"):
        with tarfile.open(sample("salex") / f"{split}.tar.gz") as archive:
            archive.extractall(raw / split, filter="data")
    return raw


@pytest.mark.parametrize("split", ["train", "val"])
def test_salex_reads_energies_forces_and_stresses(split, salex_raw):
    assert_same(read("salex", salex_raw, split=split), list(made("salex").frames(split).values()))


def test_salex_ids_are_unique_and_groups_are_materials(salex_raw):
    items = read("salex", salex_raw)
    assert len({item.id for item in items}) == 4
    assert items[0].id.startswith("agm900000000_0_0:alex_go_aaa_001-")
    assert [item.group for item in items] == ["agm900000000"] * 2 + ["agm900000001"] * 2


def test_salex_refuses_another_split(salex_raw):
    with pytest.raises(ValueError, match="split 'test' of recipe 'salex' is not known; use one of: train, val"):
        read("salex", salex_raw, split="test")


# --- mlearn


@pytest.mark.parametrize("split", ["train", "test"])
def test_mlearn_reads_both_orders_of_the_shears(split):
    cells = made("mlearn").frames(split)
    assert_same(read("mlearn", sample("mlearn"), split=split), [atoms for element in sorted(cells) for atoms in cells[element]])


def test_mlearn_shears_of_the_sample_tell_the_orders_apart():
    shears = [item.labels["stress"][[1, 0, 0], [2, 2, 1]] for item in read("mlearn", sample("mlearn"))]
    assert min(abs(np.subtract.outer(s, s))[np.triu_indices(3, 1)].min() for s in shears) > 1e-5


def test_mlearn_ids_name_element_split_and_place():
    assert [item.id for item in read("mlearn", sample("mlearn"), split="test")][:3] == ["Cu-test-0", "Cu-test-1", "Li-test-0"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Snapshot 1 of 20 of Vacancy AIMD NVT simulation at 300 K", "Snapshot 7 of 20 of Vacancy AIMD NVT simulation at 300 K", True),
        ("Snapshot 1 of 20 of Vacancy AIMD NVT simulation at 300 K", "Snapshot 1 of 20 of Vacancy AIMD NVT simulation at 900 K", False),
        ("Si 2x2x2 cell, mode 4, strain 0.1", "Si 2x2x2 cell, mode 4, strain -0.05", True),
        ("Si 2x2x2 cell, mode 4, strain 0.1", "Si 2x2x2 cell, mode 2, strain 0.1", False),
    ],
)
def test_mlearn_groups_are_one_simulation_or_one_mode_of_strain(one, other, same, tmp_path):
    def describe(documents):
        for document, text in zip(documents, (one, other), strict=True):
            document.update(description=text, group="Any")

    groups = [item.group for item in read("mlearn", rewritten("mlearn", "data/Si/training.json", tmp_path, describe))]
    assert (groups[0] == groups[1]) is same


def test_mlearn_frame_whose_stress_has_five_numbers_is_counted(tmp_path):
    raw = rewritten("mlearn", "data/Cu/training.json", tmp_path, lambda documents: documents[0]["outputs"]["virial_stress"].pop())
    assert [item.where for item in skipped(read("mlearn", raw))] == ["Cu-train-0"]


def test_mlearn_refuses_another_split():
    with pytest.raises(ValueError, match="split 'val' of recipe 'mlearn' is not known; use one of: train, test"):
        read("mlearn", sample("mlearn"), split="val")


def test_reading_gives_structures_only():
    assert all(isinstance(item, Structure) for name in ("mptrj", *MATPES, "wbm", "mlearn") for item in read(name, sample(name)))
