"""Every recipe: card and code agree, its sample converts; the computed ones are reproducible and leak nothing."""

import io
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase.collections.collection import Collection
from rich.console import Console

from unipot.data.catalog.recipes import load_recipe, recipe_names
from unipot.resources import data_recipes_dir
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig

RECIPES = recipe_names(data_recipes_dir())
PRETRAINING = ("emt_slabs", "xtb_crystals", "xtb_molecules", "xtb_organics")
FEW = {"emt_slabs": 7, "xtb_crystals": 4, "xtb_molecules": 7, "xtb_organics": 9}
#: kB of a sample, at most
SAMPLE_SIZE = 60


def _frames(name, n_frames, seed=0, **options):
    if name != "emt_slabs":
        pytest.importorskip("tblite", reason="tblite computes this recipe")
    if name == "xtb_organics":
        pytest.importorskip("rdkit", reason="RDKit assembles these molecules")
    return list(load_recipe(data_recipes_dir(), name).structures(n_frames=n_frames, seed=seed, **options))


@pytest.fixture(scope="module")
def frames():
    return {name: _frames(name, n) for name, n in FEW.items()}


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory):
    """The shipped recipes, and the template under a name of its own."""
    folder = tmp_path_factory.mktemp("recipes") / "data_recipes"
    shutil.copytree(data_recipes_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "_template").rename(folder / "my_dataset")
    return folder


def test_the_shipped_recipes_are_found():
    assert {*PRETRAINING, "malonaldehyde_pbe"} <= set(RECIPES)


@pytest.mark.parametrize("name", [*RECIPES, "my_dataset"])
def test_card_follows_the_schema_and_agrees_with_the_code(name, recipe_folder):
    recipe = load_recipe(recipe_folder, name)
    assert recipe.card["name"] == name and recipe.labels and recipe.level_of_theory
    assert f"recipe={name}" in recipe.card["command"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_and_reads_no_command_line(name):
    text = load_recipe(data_recipes_dir(), name).program.read_text()
    assert len(text.splitlines()) < 100
    assert "argparse" not in text


def test_sets_of_one_level_of_theory_share_their_kind_of_energy():
    kinds = {}
    for name in RECIPES:
        recipe = load_recipe(data_recipes_dir(), name)
        kinds.setdefault(recipe.level_of_theory, set()).add(recipe.energy_kind)
    assert {level: kind for level, kind in kinds.items() if len(kind) > 1} == {}


FROM_FILES = [name for name in RECIPES if load_recipe(data_recipes_dir(), name).reads_files]


@pytest.mark.parametrize("name", [*FROM_FILES, "my_dataset"])
def test_sample_is_small(name, recipe_folder):
    sizes = [path.stat().st_size for path in (recipe_folder / name / "sample").rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= SAMPLE_SIZE * 1000
    assert (recipe_folder / name / "sample" / "make_sample.py").is_file()


@pytest.mark.parametrize("name", [*FROM_FILES, "my_dataset"])
def test_sample_becomes_a_store(name, recipe_folder, tmp_path):
    recipe = load_recipe(recipe_folder, name)
    raw = shutil.copytree(recipe.folder / "sample", tmp_path / "raw")
    out, console = tmp_path / f"{name}.unipot", Console(file=io.StringIO(), width=200)
    config = PrepareConfig(
        recipe=str(recipe.folder), raw=str(raw), out=str(out), verify=False, allow_missing=True, workers=1, check_labels=False
    )
    store = prepare(config, console)
    assert len(store) >= 1 and tuple(store.labels) == recipe.labels and store.energy_kind == recipe.energy_kind
    assert all(store.metadata["label_counts"][label] > 0 for label in recipe.labels), "a declared label is in no structure"
    assert len(set(store.ids)) == len(store)
    read = [item for part in recipe.parts(raw) for item in recipe.structures(raw, part) if isinstance(item, Structure)]
    assert all(structure.group for structure in read), "a structure without group"
    unknown = set(store.metadata["elements"]) - set(recipe.card["elements"])
    assert not unknown, "elements of the card"


@pytest.mark.parametrize("name", PRETRAINING)
def test_frames_carry_only_the_stated_labels_and_unique_ids(name, frames):
    allowed = set(load_recipe(data_recipes_dir(), name).labels)
    assert len(frames[name]) == FEW[name]
    assert all({"energy"} <= set(f.labels) <= allowed for f in frames[name])
    assert len({f.id for f in frames[name]}) == FEW[name]
    assert all(f.group for f in frames[name])


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_shorter_run_gives_the_first_frames_of_a_longer_one(name, frames):
    for first, again in zip(_frames(name, 2), frames[name], strict=False):
        assert first.id == again.id
        # threaded linear algebra of the calculators may round differently from call to call
        np.testing.assert_allclose(first.positions, again.positions, rtol=0, atol=1e-6)
        np.testing.assert_allclose(first.labels["energy"], again.labels["energy"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PRETRAINING)
def test_another_seed_gives_other_frames(name, frames):
    first, other = frames[name][0], _frames(name, 1, seed=1)[0]
    assert first.id != other.id
    assert first.n_atoms != other.n_atoms or not np.allclose(first.positions, other.positions)


def test_part_of_the_molecules_is_energy_only():
    n_with_forces = sum("forces" in f.labels for f in _frames("xtb_molecules", 24))
    assert 12 <= n_with_forces < 24


@pytest.mark.parametrize("seed", [0, 1])
def test_molecules_leave_out_the_users_composition(seed):
    """Species are drawn as the recipe draws them, without computing labels."""
    module = load_recipe(data_recipes_dir(), "xtb_molecules").make.__globals__
    drawn = {module["_species"](np.random.default_rng((seed, k))).get_chemical_formula() for k in range(400)}
    assert "C3H4O2" in module["EXCLUDED"]
    assert "C3H4O2" not in drawn
    assert len(drawn) > 60


def test_organic_molecules_leave_out_what_is_fine_tuned_on():
    """Species are drawn as the recipe draws them, without computing labels."""
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit assembles these molecules")
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    module = load_recipe(data_recipes_dir(), "xtb_organics").make.__globals__
    drawn = [module["_species"](np.random.default_rng((0, k)))[0] for k in range(300)]
    parts = [chem.MolFromSmiles(part) for smiles in drawn for part in smiles.split(".")]
    assert not {CalcMolFormula(mol) for mol in parts} & set(module["EXCLUDED"])
    assert len(set(drawn)) > 200 and len(parts) > len(drawn)


def test_unknown_split_is_refused():
    recipe = load_recipe(data_recipes_dir(), "malonaldehyde_pbe")
    with pytest.raises(ValueError, match="split 'validation' of recipe 'malonaldehyde_pbe' is not known; use one of: train, test"):
        next(recipe.structures(split="validation"))


def test_crystals_are_periodic_and_molecules_are_not(frames):
    assert all(f.pbc.all() and f.volume > 10 for f in itertools.chain(frames["xtb_crystals"], frames["emt_slabs"]))
    assert not any(f.pbc.any() for f in frames["xtb_molecules"])


def test_the_molecules_of_ase_are_read_before_threads_ask_for_them(monkeypatch):
    """ASE fills its collection at the first request; a second thread would find it half full."""
    module, unread, read_before = load_recipe(data_recipes_dir(), "xtb_molecules").make.__globals__, Collection("g2"), []

    def pool(n_threads):
        read_before.append("H2O" in unread._systems)
        return ThreadPoolExecutor(n_threads)

    monkeypatch.setitem(module, "g2", unread)
    monkeypatch.setitem(module, "ThreadPoolExecutor", pool)
    monkeypatch.setitem(module, "_trajectory", lambda seed, k: [k])
    assert list(module["structures"](n_frames=2)) == [0]
    assert read_before == [True]
