"""The recipes of the Open Catalyst and Open Materials families and of AdsMT: what they read is what the samples were computed to be."""

from __future__ import annotations

import lzma
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from unipot.data.catalog.recipes import Recipe, load_recipe
from unipot.data.labels import SkippedItem
from unipot.resources import data_recipes_dir
from unipot.structure import Structure
from unipot.units import voigt_to_matrix

S2EF = Path("s2ef_train_200K") / "s2ef_train_200K" / "s2ef_train_200K"
IS2RE = Path("is2res_train_trajectories") / "is2res_train_trajectories"
OC22 = Path("oc22_trajectories") / "trajectories" / "oc22"


def recipe_of(name: str) -> Recipe:
    return load_recipe(data_recipes_dir(), name)


def sample_module(name: str) -> dict:
    return runpy.run_path(str(data_recipes_dir() / name / "sample" / "make_sample.py"))


@pytest.fixture
def copy(tmp_path):
    def copied(name: str) -> Path:
        return Path(shutil.copytree(data_recipes_dir() / name / "sample", tmp_path / name))

    return copied


def read(name: str, raw: Path | None = None, **options) -> list:
    recipe = recipe_of(name)
    raw = raw or recipe.folder / "sample"
    return [item for part in recipe.parts(raw, **options) for item in recipe.structures(raw, part, **options)]


def structures(name: str, raw: Path | None = None, **options) -> dict[str, Structure]:
    items = read(name, raw, **options)
    assert not [item for item in items if isinstance(item, SkippedItem)]
    assert len({item.id for item in items}) == len(items)
    return {item.id: item for item in items}


def check_geometry(structure: Structure, atoms, atol: float = 1e-7) -> None:
    assert structure.atomic_numbers.tolist() == atoms.numbers.tolist()
    np.testing.assert_allclose(structure.positions, atoms.positions, rtol=0, atol=atol)
    np.testing.assert_allclose(structure.cell, atoms.cell.array, rtol=0, atol=atol)
    assert structure.pbc.tolist() == atoms.pbc.tolist()


# OC20


@pytest.mark.parametrize(("name", "adsorption"), [("oc20_s2ef", False), ("oc20_s2ef_adsorption", True)])
def test_s2ef_frames_are_totals_and_the_other_recipe_subtracts_the_reference(name, adsorption):
    read_frames = {(s.id.split("-")[0], s.id.split("-")[1]): s for s in structures(name).values()}
    systems = sample_module("oc20_s2ef")["systems"]()
    assert len(read_frames) == sum(len(frames) for frames, _ in systems.values()) == 6
    for system, (frames, reference) in systems.items():
        for k, atoms in enumerate(frames):
            structure = read_frames[system, f"frame{k}"]
            check_geometry(structure, atoms)
            energy = atoms.get_potential_energy() - (reference if adsorption else 0)
            np.testing.assert_allclose(structure.labels["energy"], energy, rtol=0, atol=1e-7)
            np.testing.assert_allclose(structure.labels["forces"], atoms.get_forces(), rtol=0, atol=1e-7)
            # atoms below the surface are held fixed, and keep the forces of the calculation
            assert structure.fixed.tolist() == (atoms.get_tags() == 0).tolist() and structure.fixed.sum() == 8
            assert np.abs(structure.labels["forces"][structure.fixed]).max() > 0.01
            assert structure.group == system


def test_s2ef_ids_name_frame_file_and_line():
    assert list(structures("oc20_s2ef"))[:2] == ["random1234567-frame0-0-0", "random1234567-frame2-0-1"]


def test_s2ef_without_its_reference_energies_is_refused(copy):
    raw = copy("oc20_s2ef")
    (raw / S2EF / "1.txt.xz").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.txt\.xz: no such file"):
        read("oc20_s2ef", raw)


def test_s2ef_files_of_unequal_length_are_refused(copy):
    raw = copy("oc20_s2ef")
    with lzma.open(raw / S2EF / "0.txt.xz", "wt") as file:
        file.write("random1234567,frame0,1.0\n")
    with pytest.raises(ValueError, match="more frames than 0.txt.xz, which has 1"):
        read("oc20_s2ef", raw)


def test_s2ef_row_without_a_number_is_skipped(copy):
    raw = copy("oc20_s2ef_adsorption")
    rows = lzma.open(raw / S2EF / "0.txt.xz", "rt").read().splitlines()
    with lzma.open(raw / S2EF / "0.txt.xz", "wt") as file:
        file.write("\n".join([rows[0], "random89,frame1,nan", "random1234567,frame2,?"]) + "\n")
    items = read("oc20_s2ef_adsorption", raw)
    skipped = [item for item in items if isinstance(item, SkippedItem)]
    assert [item.where for item in skipped] == ["0:1", "0:2"] and len(items) == 6
    assert "not finite" in skipped[0].reason


def test_s2ef_file_that_is_cut_short_is_refused(copy):
    raw = copy("oc20_s2ef")
    file = raw / S2EF / "0.extxyz.xz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read("oc20_s2ef", raw)


def test_other_split_is_looked_for_in_its_own_folder():
    recipe, raw = recipe_of("oc20_s2ef"), data_recipes_dir() / "oc20_s2ef" / "sample"
    with pytest.raises(FileNotFoundError, match="s2ef_val_ood_cat: no such folder"):
        recipe.parts(raw, split="val_ood_cat")
    with pytest.raises(ValueError, match="split 'val' is not known"):
        recipe.parts(raw, split="val")


def test_is2re_takes_the_relaxed_frame_and_its_adsorption_energy():
    found = structures("oc20_is2re")
    for system, (frames, reference) in sample_module("oc20_s2ef")["systems"]().items():
        structure, atoms = found[f"{system}-{len(frames) - 1}"], frames[-1]
        check_geometry(structure, atoms)
        np.testing.assert_allclose(structure.labels["energy"], atoms.get_potential_energy() - reference, rtol=0, atol=1e-7)
        np.testing.assert_allclose(structure.labels["forces"], atoms.get_forces(), rtol=0, atol=1e-7)
        assert structure.group == system and structure.fixed.sum() == 8
    assert len(found) == 2


@pytest.mark.parametrize(("frames", "numbers"), [("ends", [0, 2, 0, 2]), ("all", [0, 1, 2, 0, 1, 2])])
def test_is2re_other_frames(frames, numbers):
    assert [int(name.rsplit("-", 1)[1]) for name in structures("oc20_is2re", frames=frames)] == numbers


def test_is2re_missing_or_broken_trajectory_is_skipped(copy):
    raw = copy("oc20_is2re")
    folder = raw / IS2RE / IS2RE.name
    damaged, missing = sorted(folder.glob("*.xz"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    missing.unlink()
    items = read("oc20_is2re", raw)
    assert all(isinstance(item, SkippedItem) for item in items)
    assert sorted(item.reason[:20] for item in items)[1].startswith("system.txt lists")


# OC22


def test_oc22_trajectories_are_totals_with_the_bulk_as_group():
    found = structures("oc22")
    expected = sample_module("oc22")["trajectories"]()
    assert list(found) == [f"{name}-{k}" for name, frames in expected.items() for k in range(len(frames))]
    for name, frames in expected.items():
        for k, atoms in enumerate(frames):
            structure = found[f"{name}-{k}"]
            check_geometry(structure, atoms, atol=1e-12)
            # EMT made the sample on another machine, and the last bits depend on the processor
            assert float(structure.labels["energy"]) == pytest.approx(atoms.calc.results["energy"], rel=1e-12)
            np.testing.assert_allclose(structure.labels["forces"], atoms.calc.results["forces"], rtol=1e-9, atol=1e-12)
            assert structure.group == "_".join(name.split("_")[:2])
            assert structure.fixed.sum() == (4 if name.startswith("NiO") else 0)


def test_oc22_split_and_frames_are_chosen():
    found = structures("oc22", split="val_id_s2ef", frames="relaxed")
    assert list(found) == ["MgO_mp-1265_AAaa00_BBbb11-2"]
    assert len(structures("oc22", frames="ends")) == 4


def test_oc22_broken_and_missing_trajectories_are_skipped(copy):
    raw = copy("oc22")
    broken, missing = sorted((raw / OC22 / "raw_trajs").glob("*.traj"))
    broken.write_bytes(b"- of Ulm" + bytes(10))
    missing.unlink()
    reasons = [item.reason for item in read("oc22", raw)]
    assert len(reasons) == 2 and "cannot be read" in reasons[0] and "missing" in reasons[1]


def test_oc22_one_broken_frame_does_not_cost_the_others(copy):
    from ase.io import read as read_frames
    from ase.io import write

    raw = copy("oc22")
    file = sorted((raw / OC22 / "raw_trajs").glob("*.traj"))[0]
    frames = read_frames(file, ":")
    frames[1].calc.results["forces"] = np.full((len(frames[1]) - 1, 3), 0.1)
    write(file, frames)
    items = read("oc22", raw)
    assert len(items) == 6 and [item.where for item in items if isinstance(item, SkippedItem)] == ["MgO_mp-1265_AAaa00_BBbb11-1"]


# .aselmdb


def test_aselmdb_samples_equal_what_was_computed():
    for name, group_key in (("omat24", "parent_id"), ("omol25", None), ("omc25", None), ("oc25", "source")):
        found = list(structures(name).values())
        rows = sample_module(name)["rows"]()
        assert len(found) == len(rows)
        for structure, (atoms, data) in zip(found, rows, strict=True):
            if name == "omol25":
                atoms.cell = np.zeros((3, 3))
            check_geometry(structure, atoms, atol=1e-12)
            results = atoms.calc.results  # without the constraints
            np.testing.assert_allclose(structure.labels["energy"], results["energy"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(structure.labels["forces"], results["forces"], rtol=0, atol=1e-12)
            if "stress" in recipe_of(name).labels:
                np.testing.assert_allclose(structure.labels["stress"], voigt_to_matrix(results["stress"]), rtol=0, atol=1e-12)
            if group_key in data:
                assert structure.group == data[group_key]


def test_omat24_stress_is_positive_under_tension():
    squeezed, stretched = list(structures("omat24").values())[:2]
    assert stretched.volume > squeezed.volume
    assert np.trace(stretched.labels["stress"]) > 0 > np.trace(squeezed.labels["stress"])


def test_omat24_takes_the_uncorrected_energy_and_reads_one_subset():
    (_, data), *_ = sample_module("omat24")["rows"]()
    first = structures("omat24", subset="rattled-300-subsampled")["train/rattled-300-subsampled/data-1"]
    np.testing.assert_allclose(first.labels["energy"], data["energy_corrected_mp2020"] + 0.7, atol=1e-9)
    # another sub-set whose name begins alike is another folder
    with pytest.raises(FileNotFoundError, match="train/rattled-300; unpack"):
        recipe_of("omat24").parts(data_recipes_dir() / "omat24" / "sample", subset="rattled-300")


def test_omat24_row_without_a_parent_is_grouped_by_composition():
    assert [s.group for s in structures("omat24").values()] == ["agm001", "agm001", "Al1 Ni1"]


def test_omol25_charge_and_multiplicity_and_no_cell():
    found = structures("omol25")
    assert [(s.total_charge, s.spin_multiplicity) for s in found.values()] == [(0, 1), (-1, 1), (0, 3), (0, 2), (1, 2)]
    assert not any(s.pbc.any() or s.cell.any() for s in found.values())
    assert list(found)[0] == "train_4M/data0000-1"
    assert [s.group for s in found.values()] == ["H2 O1", "H1 O1", "O2", "H3 C1", "H3 N1"]


def test_omc25_packings_of_one_molecule_are_one_group():
    assert [s.group for s in structures("omc25").values()] == ["H2 O1", "H2 O1", "H4 C1"]


def test_odac25_partitions_hold_totals():
    rows = sample_module("odac25")["rows"]
    for partition, n in (("mof_plus_adsorbate", 2), ("mof", 1), ("gcmc", 1)):
        found = list(structures("odac25", partition=partition).values())
        assert len(found) == n
        for structure, (atoms, data) in zip(found, rows(partition), strict=True):
            check_geometry(structure, atoms, atol=1e-12)
            np.testing.assert_allclose(structure.labels["energy"], data["energy"], rtol=0, atol=1e-12)
            assert abs(structure.labels["energy"] - data["energy_old"]) > 0.005 and structure.group == data["mof_name"]
    assert len(structures("odac25")) == 4


def test_oc25_fixed_atoms_keep_their_forces():
    for structure in structures("oc25").values():
        assert structure.fixed.tolist() == [True] * 4 + [False] * 9
        assert np.abs(structure.labels["forces"][structure.fixed]).max() > 0.01


@pytest.mark.parametrize("name", ["omat24", "omol25", "omc25", "odac25", "oc25"])
def test_aselmdb_file_that_is_cut_short_is_refused(name, copy):
    raw = copy(name)
    for file in raw.rglob("*.aselmdb"):
        file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ValueError, match="fetch"):
        read(name, raw)


@pytest.mark.parametrize("name", ["omat24", "omol25", "omc25", "odac25", "oc25"])
def test_unknown_split_of_an_aselmdb_recipe_is_refused(name):
    with pytest.raises(ValueError, match="split 'test' is not known"):
        recipe_of(name).parts(data_recipes_dir() / name / "sample", split="test")


# AdsMT


@pytest.mark.parametrize(("name", "prefix"), [("adsmt_ocd_gmae", "OCD"), ("adsmt_alloy_gmae", "Alloy"), ("adsmt_fg_gmae", "FG")])
def test_adsmt_records_are_the_adsorbed_configuration(name, prefix):
    items = read(name)
    expected = sample_module(name)["systems"]()
    found = [item for item in items if isinstance(item, Structure)]
    assert len(found) == len(expected)
    for k, (structure, (slab, both, energy, _)) in enumerate(zip(found, expected, strict=True)):
        check_geometry(structure, both, atol=1e-5)  # single precision
        assert structure.labels.keys() == {"energy"}
        assert float(structure.labels["energy"]) == pytest.approx(energy, rel=1e-12)  # EMT, whose last bits depend on the processor
        assert structure.id == f"{prefix}-GMAE-{k}" and structure.group == f"{slab.get_chemical_symbols()[0]}1"
    (skipped,) = [item for item in items if isinstance(item, SkippedItem)]
    assert skipped.where == f"{prefix}-GMAE-{len(found)}" and "bare surface" in skipped.reason and not skipped.invalid


# cards


@pytest.mark.parametrize("name", ["oc20_s2ef", "oc20_s2ef_adsorption", "oc20_is2re", "oc22", "omat24", "omol25", "omc25", "odac25", "oc25"])
def test_every_split_has_its_files(name):
    recipe = recipe_of(name)
    module = recipe.make.__globals__
    for split in module["SPLITS"]:
        assert recipe.needed_files({"split": split}), split


def test_one_subset_of_omat24_is_one_archive():
    (file,) = recipe_of("omat24").needed_files({"split": "train", "subset": "rattled-300"})
    assert file.file == "train/rattled-300.tar.gz"
    assert len(recipe_of("omat24").needed_files({"split": "val"})) == 11


def test_totals_and_adsorption_energies_have_levels_of_their_own():
    assert recipe_of("oc20_s2ef").level_of_theory != recipe_of("oc20_s2ef_adsorption").level_of_theory
    assert recipe_of("oc20_is2re").level_of_theory == recipe_of("oc20_s2ef_adsorption").level_of_theory
