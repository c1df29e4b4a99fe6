"""What a run says and does about charges and spins, from the frames to the artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.zoo import load_artifact, read_card


def frames(path: Path, states: list[dict[str, int]], n: int = 24) -> Path:
    """Distorted water molecules of EMT in turn in each of the states; an ion lies 5 eV higher per charge."""
    rng, images = np.random.default_rng(0), []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.info.update(states[k % len(states)])
        atoms.positions += 0.05 * rng.normal(size=(3, 3))
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() + 5.0 * atoms.info.get("total_charge", 0), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    write(path, images)
    return path


def pretrained(tmp_path: Path, states: list[dict[str, int]], *words: str) -> Path:
    data = frames(tmp_path / "set.extxyz", states)
    run = tmp_path / "run"
    options = ["experiment=smoke", "datasets.w.level_of_theory=PBE", "trainer.threads=1", "seed=1"]
    assert main(["pretrain", f"run={run}", f"datasets.w.path={data}", *options, *words]) == 0
    return run / "last.safetensors"


IONS = [{}, {"total_charge": 1, "spin_multiplicity": 2}, {"total_charge": -1}]


def test_trained_states_come_from_the_data_and_others_are_refused(tmp_path, capsys):
    artifact = load_artifact(pretrained(tmp_path, IONS))
    assert artifact.card["conditions"] == ["total_charge", "spin_multiplicity"]
    hyperparameters = artifact.card["potential"]["backbone"]["hyperparameters"]
    assert hyperparameters["trained_charges"] == [-1.0, 1.0] and hyperparameters["trained_spins"] == [0, 2]
    assert artifact.card["potential"]["core_repulsion"] == {"reach": 0.65}
    assert "does not read" not in capsys.readouterr().out
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(artifact.potential)
    energies = []
    for state in IONS:
        atoms.info = dict(state)
        energies.append(atoms.get_potential_energy())
    assert len({round(energy, 4) for energy in energies}) == 3
    atoms.info = {"total_charge": 2}
    with pytest.raises(ValueError, match="structure 'H2O': total charge 2, .* charges from -1 to 1"):
        atoms.get_potential_energy()


def test_charges_that_are_not_read_are_said_in_one_line_before_the_first_step(tmp_path, capsys):
    words = ["backbone.hyperparameters.charge=false", "backbone.hyperparameters.spin=false"]
    card = read_card(pretrained(tmp_path, IONS, *words))
    assert card["conditions"] == []
    said = " ".join(capsys.readouterr().out.split())
    sentence = "w: 16 of 24 structures are charged, and backbone 'native' does not read total_charge"
    assert said.index(sentence) < said.index("training 20 steps")
    assert "8 of 24 structures have unpaired electrons" in said and "backbone.hyperparameters.charge=true" in said


def test_neutral_data_say_nothing_and_admit_nothing_else(tmp_path, capsys):
    card = read_card(pretrained(tmp_path, [{}]))
    assert card["potential"]["backbone"]["hyperparameters"]["trained_charges"] == [0.0, 0.0]
    assert "charge" not in capsys.readouterr().out


def test_fine_tuning_admits_the_charges_of_the_frames_and_says_so(tmp_path, capsys):
    checkpoint = pretrained(tmp_path, [{}])
    data = frames(tmp_path / "ions.extxyz", [{}, {"total_charge": 1, "spin_multiplicity": 2}])
    run = tmp_path / "fine"
    short = ["schedule.max_steps=4", "trainer.threads=1", "trainer.validate_every=2", "schedule.warmup_steps=1"]
    assert main(["finetune", f"checkpoint={checkpoint}", f"data={data}", f"run={run}", *short]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "total charges now from 0 to 1; before from 0 to 0" in said and "spin multiplicities new to the model: 2" in said
    hyperparameters = read_card(run / "best.safetensors")["potential"]["backbone"]["hyperparameters"]
    assert hyperparameters["trained_charges"] == [0.0, 1.0] and hyperparameters["trained_spins"] == [0, 2]
    ion = Atoms(molecule("H2O"), info={"total_charge": 1, "spin_multiplicity": 2})
    ion.calc = UnipotCalculator(run / "best.safetensors", head="ions")
    assert np.isfinite(ion.get_forces()).all()


def test_test_frames_of_an_untrained_state_are_refused_before_training(tmp_path, capsys):
    checkpoint = pretrained(tmp_path, [{}])
    data, test = frames(tmp_path / "own.extxyz", [{}]), frames(tmp_path / "test.extxyz", [{"total_charge": -1, "spin_multiplicity": 2}], 3)
    assert main(["finetune", f"checkpoint={checkpoint}", f"data={data}", f"test_data={test}", f"run={tmp_path / 'fine'}"]) == 2
    assert "test_data has total charge -1, spin multiplicity 2, which nothing" in capsys.readouterr().err


def test_show_says_what_is_read(tmp_path, capsys):
    path = pretrained(tmp_path, IONS)
    capsys.readouterr()
    assert main(["models", "show", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "total charge and spin multiplicity read" in said and "Ziegler-Biersack-Littmark" in said
