"""Recipes of molecular sets: structures read from the samples equal, number by number, what their make_sample.py computed."""

import io
import shutil
from importlib.util import module_from_spec, spec_from_file_location

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.morse import MorsePotential
from rich.console import Console

from unipot.data.catalog.cards import check_card
from unipot.data.catalog.raw_files import use_existing
from unipot.data.catalog.recipes import load_recipe
from unipot.data.labels import SkippedItem
from unipot.resources import data_recipes_dir
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig

NAMES = ("spice2", "ani1x", "transition1x", "qm7x", "rmd17", "md22")
#: eV and eV/Å; what the raw files hold in single precision comes back to about seven digits
SINGLE, DOUBLE = 2e-5, 1e-8


def sample_maker(name):
    file = data_recipes_dir() / name / "sample" / "make_sample.py"
    spec = spec_from_file_location(f"make_sample_{name}", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Name of a recipe -> a copy of its sample."""
    folder = tmp_path_factory.mktemp("raw")
    return {name: shutil.copytree(data_recipes_dir() / name / "sample", folder / name) for name in NAMES}


def read(name, raw, **options):
    """(structures by id, skipped items) of all parts."""
    recipe = load_recipe(data_recipes_dir(), name)
    items = [item for part in recipe.parts(raw, **options) for item in recipe.structures(raw, part, **options)]
    found = [item for item in items if isinstance(item, Structure)]
    assert len({structure.id for structure in found}) == len(found)
    return {structure.id: structure for structure in found}, [item for item in items if isinstance(item, SkippedItem)]


def assert_frame(structure, numbers, positions, energy, forces, tolerance):
    np.testing.assert_array_equal(structure.atomic_numbers, numbers)
    np.testing.assert_allclose(structure.positions, positions, rtol=0, atol=tolerance)
    np.testing.assert_allclose(structure.labels["energy"], energy, rtol=0, atol=DOUBLE * max(1, abs(energy)))
    np.testing.assert_allclose(structure.labels["forces"], forces, rtol=2e-6, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_sample_is_what_its_script_writes(name, raw, tmp_path):
    sample_maker(name).main(tmp_path)
    again, _ = read(name, tmp_path)
    first, _ = read(name, raw[name])
    assert list(again) == list(first)
    for id, structure in first.items():
        np.testing.assert_allclose(again[id].positions, structure.positions, rtol=0, atol=1e-9)
        np.testing.assert_allclose(again[id].labels["energy"], structure.labels["energy"], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_forces_are_minus_the_slope_of_the_energies_read(name, raw):
    """Units and signs of positions, energies and forces fit together: the sample's potential is moved along one coordinate."""
    depth = {"qm7x": 0.21}.get(name, 0.2)
    r0 = 1.3 if name == "spice2" else 1.2
    structure = next(s for s in read(name, raw[name])[0].values() if "forces" in s.labels and s.n_atoms > 2)
    offset, step = structure.labels["energy"] - _morse(structure, structure.positions, r0, depth), 1e-4
    assert offset == pytest.approx(-40.0 * structure.atomic_numbers.sum(), abs=1e-5)
    shift = np.zeros((structure.n_atoms, 3))
    shift[np.unravel_index(np.abs(structure.labels["forces"]).argmax(), shift.shape)] = step
    slope = _morse(structure, structure.positions + shift, r0, depth) - _morse(structure, structure.positions - shift, r0, depth)
    assert (structure.labels["forces"] * shift).sum() / step == pytest.approx(-slope / (2 * step), rel=1e-4)


def _morse(structure, positions, r0, depth):
    return Atoms(structure.atomic_numbers, positions, calculator=MorsePotential(r0=r0, epsilon=depth)).get_potential_energy()


@pytest.mark.parametrize(
    ("name", "option"),
    [("spice2", "groups_per_part"), ("ani1x", "groups_per_part"), ("transition1x", "reactions_per_part"), ("qm7x", "molecules_per_part")],
)
def test_another_cut_into_parts_gives_the_same_structures(name, option, raw):
    recipe = load_recipe(data_recipes_dir(), name)
    assert len(recipe.parts(raw[name], **{option: 1})) > len(recipe.parts(raw[name]))
    assert list(read(name, raw[name], **{option: 1})[0]) == list(read(name, raw[name])[0])


def test_spice_reads_positions_energies_forces_and_charges(raw):
    maker = sample_maker("spice2")
    found, skipped = read("spice2", raw["spice2"])
    assert len(found) == maker.FRAMES * len(maker.MOLECULES)
    for seed, (name, (_, charge, _, atoms)) in enumerate(maker.MOLECULES.items()):
        for k, (positions, energy, forces) in enumerate(zip(*maker.labelled(atoms, seed), strict=True)):
            structure = found[f"{name}#{k}"]
            assert (structure.total_charge, structure.group, structure.spin_multiplicity) == (charge, name, None)
            assert_frame(structure, atoms.numbers, positions, energy, forces, SINGLE)
    assert [(item.where, item.invalid) for item in skipped] == [(maker.WITHOUT_FRAMES, False)]


def test_spice_charges_of_the_sample_are_not_all_zero(raw):
    charges = {structure.total_charge for structure in read("spice2", raw["spice2"])[0].values()}
    assert charges == {-1.0, 0.0, 1.0, 2.0}


def test_spice_subset_keeps_its_molecules_only(raw):
    found, _ = read("spice2", raw["spice2"], subset="des-monomers")
    assert {structure.group for structure in found.values()} == {"c(=o)[o-]", "[nh4+]"}


def test_spice_does_not_take_a_molecule_with_an_unclear_charge_as_neutral(raw, tmp_path):
    file = shutil.copy(raw["spice2"] / "SPICE-2.0.1.hdf5", tmp_path)
    with h5py.File(file, "r+") as opened:
        opened["[nh4+]/smiles"][...] = ["[N:1]([H:2])([H:3])[H:4]"]
    found, skipped = read("spice2", tmp_path)
    assert not any(structure.group == "[nh4+]" for structure in found.values())
    assert [item.reason for item in skipped if item.where == "[nh4+]"] == [
        "total charge not known: SMILES '[N:1]([H:2])([H:3])[H:4]' has the atoms H3N1 but the structure has H4N1"
    ]


def test_spice_refuses_a_file_in_other_units(raw, tmp_path):
    file = shutil.copy(raw["spice2"] / "SPICE-2.0.1.hdf5", tmp_path)
    with h5py.File(file, "r+") as opened:
        opened["[nh4+]/conformations"].attrs["units"] = "angstrom"
    with pytest.raises(ValueError, match="group '\\[nh4\\+\\]': dataset 'conformations' has units 'angstrom', expected 'bohr'"):
        read("spice2", tmp_path)


@pytest.mark.parametrize(("level", "key"), [("wb97x_dz", "wb97x_dz"), ("wb97x_tz", "wb97x_tz"), ("ccsd_t_cbs", "ccsd(t)_cbs")])
def test_ani1x_leaves_out_what_a_level_did_not_compute(level, key, raw):
    maker = sample_maker("ani1x")
    found, skipped = read("ani1x", raw["ani1x"], level=level)
    no_energy, no_forces = maker.missing(key)
    assert no_energy.any() and (no_forces & ~no_energy).any()
    for seed, (name, atoms) in enumerate(maker.MOLECULES.items()):
        for k, (positions, energy, forces) in enumerate(zip(*maker.labelled(atoms, seed, maker.LEVELS[key]), strict=True)):
            structure = found.get(f"{name}#{k}")
            assert (structure is None) == no_energy[k]
            if structure is not None and level != "ccsd_t_cbs" and not no_forces[k]:
                assert_frame(structure, atoms.numbers, positions, energy, forces, SINGLE)
            elif structure is not None:
                assert set(structure.labels) == {"energy"}
    assert {(item.reason, item.invalid) for item in skipped} == {("has no energy", False)}
    assert len(skipped) == no_energy.sum() * len(maker.MOLECULES)


def test_ani1x_level_decides_the_level_of_theory():
    recipe = load_recipe(data_recipes_dir(), "ani1x")
    assert recipe.level_for({}) == recipe.level_of_theory == "wB97x/6-31G(d), Gaussian 09"
    assert recipe.level_for({"level": "ccsd_t_cbs"}) == "CCSD(T)*/CBS, ORCA"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_transition1x_reads_paths_and_stationary_points_of_a_split(split, raw):
    maker = sample_maker("transition1x")
    found, _ = read("transition1x", raw["transition1x"], split=split)
    for formula, atoms in maker.SPLITS[split].items():
        for seed in range(maker.REACTIONS):
            name = f"{formula}/rxn{seed:04d}"
            path, points = maker.reaction(atoms, seed)
            for positions, ids in ((path, range(maker.IMAGES)), (points, ("reactant", "transition_state", "product"))):
                for id, frame, energy, forces in zip(ids, positions, *maker.labels(atoms, positions), strict=True):
                    if id != "transition_state" or seed % maker.REACTIONS == 0:
                        structure = found.pop(f"{name}#{id}")
                        assert structure.group == name
                        assert_frame(structure, atoms.numbers, frame, energy, forces, DOUBLE)
    assert not found, "structures of another split, or a transition state that is in the path"


def test_transition1x_counts_a_stationary_point_that_is_in_the_path(raw):
    _, skipped = read("transition1x", raw["transition1x"], split="test")
    assert [(item.where, item.invalid) for item in skipped] == [("CH2O/rxn0001#transition_state", False)]


def test_transition1x_stationary_points_alone(raw):
    found, skipped = read("transition1x", raw["transition1x"], configurations="stationary")
    assert len(found) == 3 * 6 and not skipped
    assert {id.partition("#")[2] for id in found} == {"reactant", "transition_state", "product"}


@pytest.mark.parametrize("level", ["pbe0", "pbe0_mbd"])
def test_qm7x_reads_every_structure_that_is_not_a_duplicate(level, raw):
    maker = sample_maker("qm7x")
    found, skipped = read("qm7x", raw["qm7x"], level=level)
    listed = (raw["qm7x"] / "DupMols.dat").read_text().split()
    for molecules in maker.FILES.values():
        for molecule, atoms in molecules.items():
            for conformer in maker.conformer_names(molecule):
                for name in (f"{conformer}-opt", f"{conformer}-d1", f"{conformer}-d2"):
                    if f"{conformer}-opt" not in listed:
                        structure = found.pop(f"{molecule}/{name}")
                        assert structure.group == molecule
                        assert_frame(structure, atoms.numbers, *maker.labelled(name, atoms, maker.LEVELS[level]), DOUBLE)
    assert not found
    assert len(skipped) == 3 * len(listed) and not any(item.invalid for item in skipped)


def test_qm7x_keeps_duplicates_when_told(raw):
    found, skipped = read("qm7x", raw["qm7x"], duplicates="keep")
    assert len(found) == 54 and not skipped


def test_qm7x_equilibria_and_displaced_structures_are_apart(raw):
    equilibria, _ = read("qm7x", raw["qm7x"], kind="equilibrium", duplicates="keep")
    displaced, _ = read("qm7x", raw["qm7x"], kind="displaced", duplicates="keep")
    assert all(id.endswith("-opt") for id in equilibria) and not any(id.endswith("-opt") for id in displaced)
    assert (len(equilibria), len(displaced)) == (18, 36)


def test_qm7x_one_file_needs_no_other(raw, tmp_path):
    shutil.copy(raw["qm7x"] / "8000.xz", tmp_path)
    found, _ = read("qm7x", tmp_path, file=8000, duplicates="keep")
    assert {structure.group for structure in found.values()} == {"7001"}
    recipe = load_recipe(data_recipes_dir(), "qm7x")
    assert [source.file for source in recipe.needed_files({"file": 8000, "duplicates": "keep"})] == ["8000.xz"]


def test_qm7x_asks_for_the_list_of_duplicates(raw, tmp_path):
    shutil.copy(raw["qm7x"] / "8000.xz", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"DupMols\.dat: no such file; download it, or convert with options\.duplicates=keep"):
        read("qm7x", tmp_path, file="8000")


@pytest.mark.parametrize(("split", "fold"), [("train", 1), ("test", 1), ("train", 5), ("all", 1)])
def test_rmd17_reads_the_frames_of_a_list(split, fold, raw):
    maker = sample_maker("rmd17")
    found, skipped = read("rmd17", raw["rmd17"], molecule="ethanol", split=split, fold=fold)
    frames = range(maker.FRAMES) if split == "all" else sorted(maker.listed(split, fold))
    positions, energies, forces = maker.labelled("ethanol")
    assert list(found) == [f"ethanol-{k:06d}" for k in frames] and not skipped
    for k, structure in zip(frames, found.values(), strict=True):
        assert structure.group == "ethanol"
        assert_frame(structure, maker.MOLECULES["ethanol"].numbers, positions[k], energies[k], forces[k], DOUBLE)


def test_rmd17_training_and_test_lists_do_not_overlap(raw):
    train, test = (set(read("rmd17", raw["rmd17"], split=split)[0]) for split in ("train", "test"))
    assert train and test and not train & test


def test_rmd17_refuses_a_list_of_another_molecule(raw, tmp_path):
    shutil.copytree(raw["rmd17"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "rmd17/rmd17/splits/index_train_01.csv").write_text("3\n10\n")
    with pytest.raises(ValueError, match=r"index_train_01\.csv names frames outside 0\.\.9"):
        read("rmd17", tmp_path)


@pytest.mark.parametrize("molecule", ["DHA", "AT-AT"])
def test_md22_reads_every_frame(molecule, raw):
    maker = sample_maker("md22")
    found, skipped = read("md22", raw["md22"], molecule=molecule)
    assert len(found) == maker.FRAMES and not skipped
    for structure, positions, energy, forces in zip(found.values(), *maker.labelled(molecule), strict=True):
        assert structure.group == molecule
        assert_frame(structure, maker.MOLECULES[molecule].numbers, positions, energy, forces, DOUBLE)


def test_md22_refuses_a_file_in_other_units(raw, tmp_path):
    with np.load(raw["md22"] / "md22_DHA.npz") as archive:
        np.savez(tmp_path / "md22_DHA.npz", **{**{name: archive[name] for name in archive}, "e_unit": np.bytes_("eV")})
    with pytest.raises(ValueError, match="e_unit is 'eV', expected 'kcal/mol'"):
        read("md22", tmp_path, molecule="DHA")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spice2", {"subset": "pubchm"}, "subset 'pubchm' of recipe 'spice2' is not known; use one of: all, dipeptides"),
        ("ani1x", {"level": "ccsd(t)_cbs"}, "level 'ccsd\\(t\\)_cbs' of recipe 'ani1x' is not known; use one of: wb97x_dz"),
        ("transition1x", {"split": "data"}, "split 'data' of recipe 'transition1x' is not known; use one of: all, train, val, test"),
        ("transition1x", {"configurations": "ts"}, "configurations 'ts' of recipe 'transition1x' is not known"),
        ("qm7x", {"file": 9000}, "file 9000 of recipe 'qm7x' is not known; use all, 1000"),
        ("qm7x", {"duplicates": "yes"}, "duplicates 'yes' of recipe 'qm7x' is not known; use one of: drop, keep"),
        ("rmd17", {"fold": 0}, "fold 0 of recipe 'rmd17' is not known; use 1, 2, 3, 4 or 5"),
        ("rmd17", {"molecule": "water"}, "molecule 'water' of recipe 'rmd17' is not known; use all, aspirin"),
        ("md22", {"molecule": "dha"}, "molecule 'dha' of recipe 'md22' is not known; use all, Ac-Ala3-NHMe"),
    ],
)
def test_an_unknown_value_of_an_option_is_refused(name, options, message, raw):
    with pytest.raises(ValueError, match=message):
        read(name, raw[name], **options)


@pytest.mark.parametrize(
    ("name", "options", "n_structures", "level"),
    [
        ("spice2", {}, 18, "wB97M-D3(BJ)/def2-TZVPPD, Psi4"),
        ("ani1x", {"level": "wb97x_tz"}, 12, "wB97x/def2-TZVPP, ORCA"),
        ("transition1x", {"split": "val"}, 13, "wB97x/6-31G(d), ORCA 5.0.2"),
        ("qm7x", {"level": "pbe0", "kind": "displaced"}, 20, "PBE0, FHI-aims"),
        ("rmd17", {"split": "all", "molecule": "uracil"}, 10, "PBE/def2-SVP, rMD17"),
        ("md22", {"molecule": "DHA"}, 4, "PBE+MBD, FHI-aims"),
    ],
)
def test_prepare_makes_a_store_with_options_and_their_level_of_theory(name, options, n_structures, level, raw, tmp_path):
    config = PrepareConfig(
        recipe=name, raw=str(raw[name]), out=str(tmp_path / "x.unipot"), options=options, verify=False, allow_missing=True, workers=1,
        check_labels=False,
    )  # fmt: skip
    store = prepare(config, Console(file=io.StringIO(), width=200))
    found, _ = read(name, raw[name], **options)
    assert len(store) == len(found) == n_structures and store.level_of_theory == level and store.energy_kind == "total"
    for id, structure in zip(store.ids, store, strict=True):
        assert structure.total_charge == found[id].total_charge
        np.testing.assert_allclose(structure.labels["energy"], found[id].labels["energy"], rtol=1e-14)


def test_packed_files_of_qm7x_are_unpacked_with_the_other_archives(raw, tmp_path):
    shutil.copy(raw["qm7x"] / "8000.xz", tmp_path)
    (source,) = load_recipe(data_recipes_dir(), "qm7x").needed_files({"file": "8000", "duplicates": "keep"})
    use_existing([source], tmp_path, verify=False, allow_missing=False)
    (tmp_path / "8000.xz").unlink()  # what was unpacked is enough
    found, _ = read("qm7x", tmp_path, file="8000", duplicates="keep")
    assert len(found) == 6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("levels_of_theory", {"level": "PBE"}, r"levels_of_theory is \{'level': 'PBE'\}; give \{option: \{value: level of theory\}\}"),
        ("sources", [{"file": "a.tar", "urls": ["https://a.org/a"], "unpack": "xz"}], r"unpack is for files that end in \.xz, not 'a"),
        ("sources", [{"file": "a.xz", "urls": ["https://a.org/a"], "unpack": "zip"}], "unpack is 'zip'; use tar, xz, or null"),
    ],
)
def test_a_card_with_a_wrong_level_or_archive_is_refused(key, value, message):
    card = load_recipe(data_recipes_dir(), "ani1x").card
    with pytest.raises(ValueError, match=message):
        check_card({**card, key: value}, "card.yaml")
