"""A head says once that its own frames never held an element, or refuses it."""

from __future__ import annotations

import json
import warnings

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.evaluation.predictions import evaluate_structures
from unipot.models.trained_elements import ElementGuard, told_by
from unipot.zoo import load_artifact, load_potential, read_card, save_artifact
from unipot.zoo.card import CHECKSUM, CLOSE

COPPER = {"name": "cu", "head": "mine", "labels": ["energy", "forces"], "elements": ["Cu"]}
SENTENCE = "head 'mine' was trained on Cu; none of its frames held Al, so that predictions for structures with it are extrapolation"


@pytest.fixture
def model(make_potential, tmp_path):
    """A model whose head `mine` has references of six elements and was trained on copper; its parent does not tell."""
    potential = make_potential(heads=("parent", "mine"))
    potential.heads["parent"].trained_elements = None
    card = {"datasets": [COPPER], "finetune": {"head": "mine"}}
    return save_artifact(tmp_path / "model.safetensors", potential, card=card)


@pytest.fixture
def alloy():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Al"
    return atoms


def test_the_calculator_says_it_once(model, alloy):
    alloy.calc = UnipotCalculator(model, head="mine")
    with pytest.warns(UserWarning, match=SENTENCE):
        alloy.get_potential_energy()
    alloy.set_cell(1.2 * alloy.cell, scale_atoms=True)
    alloy.get_forces()  # a second warning would be an error


def test_another_element_is_said_too(model, alloy):
    calculator = UnipotCalculator(model, head="mine")
    with pytest.warns(UserWarning, match="held Al"):
        calculator.get_potential_energy(alloy)
    with pytest.warns(UserWarning, match="held H, O, so that predictions for structures with them"):
        calculator.get_potential_energy(molecule("H2O"))


@pytest.mark.parametrize("how", ["one", "many"])
def test_it_is_refused_where_that_is_asked_for(model, alloy, how):
    calculator = UnipotCalculator(model, head="mine", unknown_elements="refuse")
    with pytest.raises(ValueError, match=f"{SENTENCE}; take another head, or allow it with unknown_elements=warn"):
        calculator.get_potential_energy(alloy) if how == "one" else calculator.evaluate([bulk("Cu"), alloy])


def test_it_is_allowed_in_silence(model, alloy):
    UnipotCalculator(model, head="mine", unknown_elements="allow").evaluate([alloy])
    alloy.calc = UnipotCalculator(model, head="mine", unknown_elements="allow")
    alloy.get_potential_energy()


def test_nothing_is_said_of_its_own_elements_nor_of_a_head_that_does_not_tell(model, alloy):
    UnipotCalculator(model, head="mine").get_potential_energy(bulk("Cu"))
    UnipotCalculator(model, head="parent").get_potential_energy(alloy)


def test_batched_evaluation_says_it(model, alloy):
    potential = load_potential(model)
    with pytest.warns(UserWarning, match=SENTENCE):
        list(evaluate_structures(potential, [alloy, alloy], head="mine"))


def test_an_unknown_mode_lists_the_known_ones(make_potential):
    with pytest.raises(ValueError, match="unknown_elements is 'ignore'; use one of: warn, refuse, allow"):
        UnipotCalculator(make_potential(), unknown_elements="ignore")


def test_elements_travel_with_the_model_and_not_with_a_copied_head(model):
    potential = load_potential(model)
    assert (potential.heads["mine"].trained_elements, potential.heads["parent"].trained_elements) == ({29}, None)
    assert potential.heads["mine"].copy("twin").trained_elements == frozenset()


def test_a_model_that_is_trained_further_adds_to_what_its_head_has_seen(model, tmp_path):
    data = [{**COPPER, "trained_elements": ["Al"], "elements": ["Al", "N"]}, {**COPPER, "labels": ["gap"], "elements": ["C"]},
            {**COPPER, "head": "parent"}]  # fmt: skip
    again = save_artifact(tmp_path / "again.safetensors", load_potential(model), card={"datasets": data})
    heads = read_card(again)["heads"]
    assert heads["mine"]["trained_elements"] == ["Al", "Cu"]  # neither what was held out nor what a property was learned on
    assert "trained_elements" not in heads["parent"]  # nobody knows what it had seen before


def test_a_card_of_an_earlier_version_tells_by_its_datasets(make_potential, tmp_path):
    folder = save_artifact(tmp_path / "model", make_potential(heads=("mine", "other")), card={"datasets": [COPPER]})
    card = read_card(folder)
    del card["heads"]["mine"]["trained_elements"], card[CHECKSUM]
    card["golden"] = [entry for entry in card["golden"] if entry["id"] != CLOSE]  # which cards of then did not have
    (folder / "card.json").write_text(json.dumps(card))
    heads = load_artifact(folder).potential.heads
    assert (heads["mine"].trained_elements, heads["other"].trained_elements) == ({29}, None)


@pytest.mark.parametrize("broken", [None, 3, ["Cu"], {"mine": 3}, {"mine": {"trained_elements": 3}}, {"mine": {"trained_elements": [[]]}}])
@pytest.mark.parametrize("key", ["heads", "datasets"])
def test_a_section_of_another_shape_tells_nothing(broken, key):
    assert told_by({key: broken}, "mine") is None


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_commands_say_it_before_the_work_and_refuse_where_asked(model, alloy, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", alloy)
    words = [verb, "checkpoint=model.safetensors", "structure=in.extxyz", "out=out.extxyz"]
    more = ["n_steps=2"] if verb == "md" else ["fmax=1000"]
    assert main([*words, *more, "unknown_elements=refuse"]) == 2
    assert SENTENCE in capsys.readouterr().err and not (tmp_path / "out.extxyz").exists()
    assert main([*words, *more]) == 0
    assert capsys.readouterr().out.count(SENTENCE) == 1


def test_evaluate_says_it_once_for_all_sets_of_a_head(model, alloy, tmp_path, monkeypatch, capsys):
    from ase.calculators.emt import EMT

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        alloy.calc = EMT()
        alloy.rattle(0.05, seed=1)
        alloy.get_forces()
        write(f"{name}.extxyz", alloy)
    words = ["evaluate", "checkpoint=model.safetensors", "data=[one.extxyz,two.extxyz]", "head=mine", "output=out"]
    assert main([*words, "unknown_elements=refuse"]) == 2
    assert SENTENCE in capsys.readouterr().err
    assert main(words) == 0
    assert " ".join(capsys.readouterr().out.split()).count(SENTENCE) == 1


def test_the_head_of_a_fine_tuned_model_needs_no_name(model):
    assert UnipotCalculator(model).head == "mine"


def test_a_guard_without_a_way_to_speak_warns(make_potential):
    head = make_potential().heads["only"]
    head.trained_elements = frozenset({1})
    guard = ElementGuard(head)
    with pytest.warns(UserWarning, match="trained on H; none of its frames held O"):
        guard.check(Atoms("O").numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.check([1, 8])
