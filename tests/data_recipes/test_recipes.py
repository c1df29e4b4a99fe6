"""Every recipe: card and code agree, frames are reproducible, nothing leaks between pretraining and the user's set."""

import itertools

import numpy as np
import pytest

from unipot.data.recipes import load_recipe, recipe_names
from unipot.properties import PROPERTIES
from unipot.resources import data_recipes_dir

RECIPES = recipe_names(data_recipes_dir())
PRETRAINING = ("emt_slabs", "xtb_crystals", "xtb_molecules")
FEW = {"emt_slabs": 7, "xtb_crystals": 4, "xtb_molecules": 7}
CARD_KEYS = {
    "name", "title", "licence", "citation", "level_of_theory", "software", "energy_kind", "elements", "properties", "sources", "counts",
    "command", "group", "known_traps", "verified",
}  # fmt: skip


def _frames(name, n_frames, seed=0, **options):
    if name != "emt_slabs":
        pytest.importorskip("tblite", reason="tblite computes this recipe")
    return list(load_recipe(data_recipes_dir(), name).structures(n_frames=n_frames, seed=seed, **options))


@pytest.fixture(scope="module")
def frames():
    return {name: _frames(name, n) for name, n in FEW.items()}


def test_the_shipped_recipes_are_found():
    assert {*PRETRAINING, "malonaldehyde_pbe"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_card_is_complete_and_agrees_with_the_recipe(name):
    recipe = load_recipe(data_recipes_dir(), name)
    assert set(recipe.card) >= CARD_KEYS
    assert recipe.card["name"] == name
    assert recipe.card["level_of_theory"] == recipe.level_of_theory
    assert set(recipe.card["properties"]) == set(recipe.labels)
    assert {p: entry["unit"] for p, entry in recipe.card["properties"].items()} == {p: PROPERTIES[p].unit for p in recipe.labels}
    assert recipe.card["verified"], "a card says what was checked"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_and_reads_no_command_line(name):
    text = (data_recipes_dir() / name / "recipe.py").read_text()
    assert len(text.splitlines()) < 100
    assert "argparse" not in text


def test_levels_of_theory_differ():
    levels = [load_recipe(data_recipes_dir(), name).level_of_theory for name in RECIPES]
    assert len(set(levels)) == len(levels)


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


def test_unknown_split_is_refused():
    recipe = load_recipe(data_recipes_dir(), "malonaldehyde_pbe")
    with pytest.raises(ValueError, match="split 'validation' of recipe 'malonaldehyde_pbe' is not known; use one of: train, test"):
        next(recipe.structures(split="validation"))


def test_crystals_are_periodic_and_molecules_are_not(frames):
    assert all(f.pbc.all() and f.volume > 10 for f in itertools.chain(frames["xtb_crystals"], frames["emt_slabs"]))
    assert not any(f.pbc.any() for f in frames["xtb_molecules"])
