"""`prepare` from end to end: a file or a recipe to a store with its census, or one sentence."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console

from unipot.data.catalog.recipes import load_recipe
from unipot.data.store import Store
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import LabelConfig, PrepareConfig

CARD = {
    "name": "toy", "title": "toy", "licence": "CC0-1.0", "citation": ["nobody"], "level_of_theory": "toy", "software": {},
    "energy_kind": "total", "elements": ["H"], "properties": {"energy": {"unit": "eV", "sign": "positive", "coverage": "all"}},
    "sources": [], "counts": {}, "command": "unipot prepare recipe=toy", "group": "all", "quarantine": {}, "known_traps": [],
    "verified": True, "checked": ["everything"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """`prepare` on a file of hydrogen molecules; returns the store and what was printed."""

    def call(frames: list[Atoms] | None = None, **options: object) -> tuple[Store, str]:
        write(tmp_path / "h2.extxyz", frames if frames is not None else [molecule(k) for k in range(6)])
        console = Console(file=io.StringIO(), width=200)
        defaults = {"path": str(tmp_path / "h2.extxyz"), "out": str(tmp_path / "h2.unipot"), "level_of_theory": "PBE"}
        return prepare(PrepareConfig(**{**defaults, **options}), console), console.file.getvalue()

    return call


def molecule(seed: int, force: float = 0.5, **info: object) -> Atoms:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + 0.6 * seed]], info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=-30.0 - seed, forces=np.array([[0, 0, force], [0, 0, -force]]))
    return atoms


def test_a_file_needs_only_its_level_of_theory(run):
    store, text = run()
    assert len(store) == 6 and store.name == "h2" and store.labels == ("energy", "forces")
    assert store[2].labels["energy"] == -32.0 and store[2].id == "h2-2"
    assert "labels.energy is not stated: reading key 'energy' in eV" in text
    assert "labels.forces is not stated: reading key 'forces' in eV/A" in text
    assert "Census of h2 (PBE)" in text and "6 structures, 0 skipped" in text


def test_the_census_and_the_sources_are_kept_in_the_store(run):
    store, _ = run(labels={"energy": LabelConfig(key="energy", unit="kJ/mol")})
    assert json.loads((store.path / "census.json").read_text())["n_structures"] == 6
    assert store.metadata["provenance"]["labels"]["energy"]["unit"] == "kJ/mol"
    assert store[0].labels["energy"] == pytest.approx(-30 / 96.4853321, rel=1e-6)


def test_a_broken_structure_stops_and_leaves_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="dataset 'h2', h2-1: .*forces contain 2 non-finite.*on_invalid=skip"):
        run([molecule(0), molecule(1, force=np.nan)])
    assert [p.name for p in tmp_path.iterdir()] == ["h2.extxyz"]


def test_a_broken_structure_may_be_skipped_and_is_counted(run):
    store, text = run([molecule(0), molecule(1, force=np.nan)], on_invalid="skip")
    assert len(store) == 1 and "1 skipped" in text and "forces contain non-finite" in text


def test_nothing_usable_is_refused(run):
    with pytest.raises(ValueError, match="nothing is left to store, .*: 1 for invalid .for example h2-0: .*forces contain 2 non-finite"):
        run([molecule(1, force=np.nan)], on_invalid="skip")


def test_contradicting_labels_are_refused_unless_told(run):
    def spring(k: int) -> Atoms:  # forces of the wrong sign
        stretch = 0.02 * (k % 5)
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + stretch]])
        slope = 40 * stretch + 1.0
        atoms.calc = SinglePointCalculator(atoms, energy=20 * stretch**2 + stretch, forces=np.array([[0, 0, -slope], [0, 0, slope]]))
        return atoms

    frames = [spring(k) for k in range(12)]
    with pytest.raises(ValueError, match="the forces labels contradict the energies"):
        run(frames)
    assert len(run(frames, check_labels=False)[0]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level_of_theory": None}, "level_of_theory of .*h2.extxyz is not stated"),
        ({"path": None}, "give either path=<structures> or recipe=<name>"),
        ({"recipe": "emt_slabs"}, "give either path=<structures> or recipe=<name>"),
        ({"on_invalid": "ignore"}, "use refuse or skip"),
        ({"format": "xyz"}, "the labels of a xyz source must be stated"),
        ({"options": {"n_frames": 3}}, "options.n_frames is for recipes"),
        ({"labels": {"forces": LabelConfig(key="REF_forces", unit="eV/A")}}, "no frame has the label key 'REF_forces'.*energy, forces"),
        ({"name": "my set"}, "dataset name 'my set' is not allowed"),
    ],
)
def test_mistakes_are_one_sentence(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    (folder / "pairs").mkdir(parents=True)
    (folder / "pairs" / "recipe.py").write_text(
        "from unipot.structure import Structure\n"
        "def structures(n_frames: int = 4):\n"
        "    for k in range(n_frames):\n"
        "        yield Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 1.0 + k]], labels={'energy': float(k)}, group='h2')\n"
    )
    (folder / "pairs" / "card.yaml").write_text(yaml.safe_dump({**CARD, "name": "pairs"}))
    return folder


def test_a_recipe_states_its_own_labels(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr("unipot.workflows.prepare.data_recipes_dir", lambda: recipes)
    config = PrepareConfig(recipe="pairs", out=str(tmp_path / "pairs.unipot"), options={"n_frames": 3})
    store = prepare(config, Console(file=io.StringIO()))
    assert (len(store), store.level_of_theory, store.labels, store[1].group) == (3, "toy", ("energy",), "h2")
    assert store.metadata["provenance"]["card"]["licence"] == "CC0-1.0"


def test_an_unknown_recipe_or_option_names_the_closest(recipes):
    with pytest.raises(ValueError, match=r"recipe 'pair' is not known \(did you mean 'pairs'\?\)"):
        load_recipe(recipes, "pair")
    with pytest.raises(ValueError, match=r"no option 'n_frame' \(did you mean 'n_frames'\?\)"):
        load_recipe(recipes, "pairs").structures(n_frame=3)


def test_a_recipe_without_level_of_theory_is_refused(recipes):
    card = {key: value for key, value in CARD.items() if key != "level_of_theory"}
    (recipes / "pairs" / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError, match="pairs/card.yaml: key 'level_of_theory' is missing"):
        load_recipe(recipes, "pairs")


def test_a_source_of_which_all_is_in_quarantine_says_why(run):
    with pytest.raises(ValueError, match="1 for max_force 1e-06 eV/A .for example h2-0: .*quarantine.<reason>=<number or null>"):
        run([molecule(0)], quarantine={"max_force": 1e-6})
