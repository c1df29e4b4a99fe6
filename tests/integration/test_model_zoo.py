"""The life of a model: published, served, fetched, carried to a machine without internet, used by its name, removed; and its child."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from ase.build import molecule

from tests.loopback_server import serving
from tests.unit.zoo.zoo_cases import saved
from unipot import UnipotCalculator, load_potential
from unipot.cli import main
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.runs.artifact_export import training_card
from unipot.workflows.settings.compose import load_config
from unipot.zoo import load_artifact, read_card
from unipot.zoo.difference import difference
from unipot.zoo.locate import model_path

PUBLISH = ["zoo", "publish", "model.safetensors", "name=mine-small", "version=1.0", "to=shelf"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, home and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("UNIPOT_OFFLINE", "UNIPOT_ZOO", "UNIPOT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def energy(model):
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(model)
    return atoms.get_potential_energy()


def refuse_sockets(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def test_a_model_is_published_served_fetched_carried_used_and_removed(place, monkeypatch, capsys):
    saved(place / "model.safetensors", licence="not stated")
    with serving({}) as server:
        words = ["licence=CC-BY-NC-4.0", "licence_url=https://l", "citation=A & B", f"url={server.address}", "summary=Water"]
        assert main([*PUBLISH, *words]) == 0
        served = place / "shelf" / "mine-small" / "1.0" / "model.safetensors"
        server.files["/mine-small/1.0/model.safetensors"] = served.read_bytes()
        (place / "config" / "unipot").mkdir(parents=True)
        (place / "config" / "unipot" / "zoo.json").write_text((place / "shelf" / "zoo.json").read_text())
        assert main(["zoo", "get", "mine-small"]) == 0
        assert "note: mine-small@1.0 is for non-commercial use only, under CC-BY-NC-4.0 (https://l)" in capsys.readouterr().out
        assert [path for path, _ in server.requests] == ["/mine-small/1.0/model.safetensors"]
    assert main(["zoo", "bundle", "mine-small", "-o", "zoo.tar"]) == 0

    monkeypatch.setenv("UNIPOT_CACHE", str(place / "far"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "nothing"))
    monkeypatch.setenv("UNIPOT_OFFLINE", "1")
    refuse_sockets(monkeypatch)
    assert main(["zoo", "import", "zoo.tar"]) == 0
    assert main(["zoo", "verify", "mine-small@1.0"]) == 0
    assert energy("mine-small@1.0") == energy("model.safetensors") == energy("mine-small")
    assert load_potential("mine-small").head_names == ("pbe",)
    capsys.readouterr()
    assert main(["zoo", "list"]) == main(["zoo", "show", "mine-small"]) == main(["zoo", "size"]) == 0
    said = capsys.readouterr().out
    assert "in the cache" in said and "CC-BY-NC-4.0" in said and "1 model(s)" in said
    assert main(["zoo", "remove", "mine-small@1.0"]) == 0
    assert main(["zoo", "verify", "mine-small@1.0"]) == 2
    assert "neither a path that is there nor the name of a model" in capsys.readouterr().err


def test_a_published_folder_is_a_registry_of_its_own(place, monkeypatch):
    saved(place / "model.safetensors")
    assert main(PUBLISH) == 0
    monkeypatch.setenv("UNIPOT_ZOO", str(place / "shelf" / "zoo.json"))
    monkeypatch.setenv("UNIPOT_OFFLINE", "1")
    assert energy("mine-small") == energy("model.safetensors")
    assert main([*PUBLISH[:4], "version=1.1", "to=shelf"]) == 0
    assert [m["version"] for m in json.loads((place / "shelf" / "zoo.json").read_text())["models"]] == ["1.0", "1.1"]


def test_the_page_of_a_model_shows_texts_of_its_card_as_they_are(place):
    saved(place / "model.safetensors", datasets=[{"name": "<script>x</script> | a", "licence": "[x](http://evil)"}])
    assert main([*PUBLISH, "citation=`rm`\n# no"]) == 0
    page = (place / "shelf" / "mine-small" / "1.0" / "README.md").read_text()
    assert "<script>" not in page and "[x](http" not in page and "\n# no" not in page
    assert "| pbe | PBE, VASP |" in page and "set/forces/mae" in page and "unipot relax checkpoint=mine-small@1.0" in page


def test_publishing_takes_the_model_of_a_run_and_changes_no_weight(place):
    (place / "run").mkdir()
    saved(place / "run" / "best.safetensors")
    assert main([*PUBLISH[:2], "run", *PUBLISH[3:]]) == 0
    published = load_artifact(place / "shelf" / "mine-small" / "1.0" / "model.safetensors").card
    assert published["sha256"] == read_card(place / "run" / "best.safetensors")["sha256"]
    assert (published["name"], published["version"], published["licence"]) == ("mine-small", "1.0", "CC-BY-4.0")


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ({"licence": "not stated"}, [], "states no licence, and nobody may use what has none; say which"),
        ({"level": "not stated"}, [], "head 'pbe' has no level of theory"),
        ({"training": {}}, [], "has no errors on held-out structures in its card"),
        ({"training": {"validation": {"a": None}}}, [], "has no errors on held-out structures in its card"),
        ({"ancestors": [{"name": "big", "licence": "CC-BY-NC-4.0"}]}, [], "fine-tuned from big, whose weights are under CC-BY-NC-4.0"),
        ({}, ["name=Mine"], "names are like mine-small"),
        ({}, ["name="], "name= is missing"),
        ({}, ["licens=MIT"], "setting 'licens' is not known (did you mean 'licence'?)"),
        ({}, ["url=here"], "the address where the folder will be served begins with https://"),
    ],
)
def test_what_is_not_fit_for_others_is_not_published(place, capsys, model, words, message):
    saved(place / "model.safetensors", **model)
    keys = {word.partition("=")[0] for word in words}
    assert main([*(word for word in PUBLISH if word.partition("=")[0] not in keys), *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (place / "shelf").exists()


def test_a_version_is_published_once(place, capsys):
    saved(place / "model.safetensors")
    assert main(PUBLISH) == 0 and main(PUBLISH) == 2
    assert "mine-small@1.0 is published in shelf already, and never changes" in capsys.readouterr().err


def test_terms_of_the_weights_travel_into_the_card_of_a_child(place):
    licences = {"weights": {"name": "CC-BY-NC-4.0", "url": "https://l", "terms": "no sale"}}
    older = [{"name": "first", "licence": "MIT"}]
    parent = saved(place / "parent.safetensors", name="big", version="2.0", licence="CC-BY-NC-4.0", licences=licences, ancestors=older)
    config = load_config("finetune", FinetuneConfig, [f"checkpoint={parent}", "data=a.extxyz"])
    card = training_card("finetune", "child", config, [])
    sha256 = read_card(parent)["sha256"]
    own = {"name": "big", "version": "2.0", "sha256": sha256, "licence": "CC-BY-NC-4.0", "licence_url": "https://l", "terms": "no sale"}
    assert card["ancestors"] == [own, *older]
    assert card["licence"] == "CC-BY-NC-4.0" and card["licences"] == licences


@pytest.mark.parametrize("words", [["from_scratch=true"], []])
def test_an_open_parent_leaves_the_licence_of_its_child_to_whoever_makes_it(place, words):
    parent = saved(place / "parent.safetensors", name="big")
    config = load_config("finetune", FinetuneConfig, [f"checkpoint={parent}", "data=a.extxyz", *words])
    card = training_card("finetune", "child", config, [])
    assert "licence" not in card and ("ancestors" in card) is not bool(words)


def test_a_difference_names_heads_weights_settings_and_predictions(place, capsys):
    first = saved(place / "a.safetensors", heads=("pbe", "old"))
    second = saved(place / "b.safetensors", seed=1, level="RPBE", heads=("pbe", "new"))
    found = difference(load_artifact(first), load_artifact(second))
    assert found.heads == ["old: in the first only", "new: in the second only (RPBE)", "pbe: level_of_theory PBE, VASP -> RPBE"]
    assert found.weights and list(found.weights.values()) == sorted(found.weights.values(), reverse=True)
    assert any(sentence.startswith("heads.") and "in the first only" in sentence for sentence in found.only)
    assert found.settings["potential.heads.pbe.level_of_theory"] == ("PBE, VASP", "RPBE")
    (prediction,) = found.predictions
    assert prediction.head == "pbe" and prediction.forces > 0 and prediction.stress > 0
    assert main(["zoo", "diff", str(first), str(second)]) == 0
    assert "largest differences of predictions" in capsys.readouterr().out


def test_a_model_does_not_differ_from_itself(place):
    path = saved(place / "a.safetensors")
    found = difference(load_artifact(path), load_artifact(path))
    assert (found.heads, found.weights, found.only, found.settings) == ([], {}, [], {}) and found.n_same > 0
    assert [(p.energy, p.forces, p.stress) for p in found.predictions] == [(0.0, 0.0, 0.0)]


def test_a_difference_on_given_structures_is_that_of_the_calculators(place, capsys):
    from ase.io import write

    first, second = saved(place / "a.safetensors"), saved(place / "b.safetensors", seed=1)
    atoms = molecule("H2O")
    atoms.positions *= 0.4  # further from the models' common ground than the golden structures
    write(place / "s.extxyz", atoms)
    energies = []
    for path in (first, second):
        atoms.calc = UnipotCalculator(path)
        energies.append(atoms.get_potential_energy() / 3)
    from unipot.workflows.models.difference_tables import structures_of

    (prediction,) = difference(load_artifact(first), load_artifact(second), structures_of("s.extxyz")).predictions
    assert prediction.energy >= abs(np.subtract(*energies)) - 1e-12 and prediction.n_structures == 3
    write(place / "gold.extxyz", molecule("CH4"))
    assert main(["zoo", "diff", str(first), str(second), "structures=gold.extxyz"]) == 2
    assert "no head that both models have knows the elements" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "unipot zoo is followed by one of: list, show, get"),
        (["lsit"], "not 'lsit' (did you mean 'list'?)"),
        (["get"], "write `unipot zoo get <model> ...`"),
        (["get", "--all"], "write `unipot zoo get"),
        (["get", "model.safetensors"], "model.safetensors is a path; a model on this machine needs no fetching"),
        (["bundle", "a"], "write `unipot zoo bundle <model> ... -o <file>.tar`"),
        (["remove", "mine"], "mine: say which version"),
        (["diff", "a"], "write `unipot zoo diff"),
        (["publish", "a"], "write `unipot zoo publish"),
        (["show", "mine"], "'mine' is neither a path that is there nor the name of a model"),
    ],
)
def test_misuse_is_one_sentence(place, capsys, words, message):
    assert main(["zoo", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_an_unknown_model_is_said_before_anything_heavy_begins(place, capsys):
    assert main(["finetune", "checkpoint=nobodys-model", "data=a.extxyz"]) == 2
    assert "'nobodys-model' is neither a path that is there nor the name of a model" in capsys.readouterr().err


def test_relax_takes_a_name(place, monkeypatch):
    from ase.io import write

    saved(place / "model.safetensors")
    assert main(PUBLISH) == 0
    monkeypatch.setenv("UNIPOT_ZOO", str(place / "shelf" / "zoo.json"))
    write(place / "w.xyz", molecule("H2O"))
    assert main(["relax", "checkpoint=mine-small@1.0", "structure=w.xyz", "max_steps=1", "allow_unconverged=true"]) == 0
    assert model_path("mine-small").is_relative_to(place / "cache")
