"""`unipot pretrain start_from=`: what is kept of the checkpoint, what starts afresh, what is refused."""

import numpy as np
import pytest
from ase.io import read, write

from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.workflows.pretrain import pretrain
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import PretrainConfig
from unipot.zoo.artifact import load_potential


def _run(folder, sets, *words):
    """The last model of a smoke run on {name: (path, level of theory)}."""
    words = [f"run={folder}", "experiment=smoke", "trainer.threads=1", *words]
    words += [
        word
        for name, (path, level) in sets.items()
        for word in (f"datasets.{name}.path={path}", f"datasets.{name}.level_of_theory={level}")
    ]
    pretrain(load_config("pretrain", PretrainConfig, words))
    return folder / "last.safetensors"


@pytest.fixture(scope="module")
def parent(tmp_path_factory, toy_data):
    return _run(tmp_path_factory.mktemp("parent"), {name: (path, "EMT") for name, path in toy_data.items()})


def _standing_still(folder, parent, sets):
    """One step of a rate that moves no weight."""
    return _run(folder, sets, f"start_from={parent}", "schedule.max_steps=1", "schedule.warmup_steps=0", "optimizer.learning_rate=1e-12")


def _forces(model, atoms, head):
    atoms.calc = UnipotCalculator(model, head=head)
    return atoms.get_forces()


def test_a_kept_head_predicts_as_the_checkpoint_does(tmp_path, parent, toy_data):
    model = _standing_still(tmp_path, parent, {"metals": (toy_data["metals"], "EMT"), "more": (toy_data["molecules"], "other")})
    atoms = read(toy_data["metals"], 3)
    np.testing.assert_allclose(_forces(model, atoms.copy(), "metals"), _forces(parent, atoms.copy(), "metals"), atol=1e-6)


def test_a_kept_head_tells_the_elements_of_both_runs(tmp_path, parent, toy_data):
    write(tmp_path / "copper.extxyz", [atoms for atoms in read(toy_data["metals"], ":") if set(atoms.symbols) == {"Cu"}])
    model = _standing_still(tmp_path / "run", parent, {"metals": (tmp_path / "copper.extxyz", "EMT")})
    assert load_potential(model).heads["metals"].trained_elements == {13, 28, 29}


def test_heads_are_those_of_the_run(tmp_path, parent, toy_data, capsys):
    model = _standing_still(tmp_path, parent, {"more": (toy_data["molecules"], "other"), "metals": (toy_data["metals"], "EMT")})
    assert load_potential(model).head_names == ("more", "metals")
    said = " ".join(capsys.readouterr().out.split())
    assert "heads kept: metals; new: more" in said and "heads without a dataset in this run are left out: molecules" in said


def test_training_goes_on_from_the_checkpoint(tmp_path, parent, toy_data):
    sets = {name: (path, "EMT") for name, path in toy_data.items()}
    model = _run(tmp_path, sets, f"start_from={parent}", "schedule.max_steps=20")
    frames = read(toy_data["metals"], "30:")

    def error(path):
        return np.mean([np.abs(_forces(path, atoms.copy(), "metals") - atoms.get_forces()).mean() for atoms in frames])

    assert error(model) < error(parent)


def test_an_element_new_to_the_checkpoint_starts_from_its_neighbors(tmp_path, parent, toy_data, capsys):
    frames = read(toy_data["metals"], ":12")
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.numbers[:] = 78
        atoms.calc.results = results
        atoms.calc.atoms = atoms.copy()
    write(tmp_path / "platinum.extxyz", frames)
    _standing_still(tmp_path / "run", parent, {"metals": (tmp_path / "platinum.extxyz", "EMT")})
    assert "elements new to the checkpoint: Pt from" in " ".join(capsys.readouterr().out.split())


def test_a_head_of_another_level_of_theory_is_refused(tmp_path, parent, toy_data, capsys):
    words = [f"run={tmp_path / 'run'}", "experiment=smoke", f"start_from={parent}", f"datasets.metals.path={toy_data['metals']}"]
    assert main(["pretrain", *words, "datasets.metals.level_of_theory=PBE"]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "head 'metals' has level_of_theory 'EMT'" in said and "Traceback" not in said
