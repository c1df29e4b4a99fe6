"""eSCN-MD goes every way that the native backbone goes: distillation of xTB, a run that starts from a model, replay of its sample."""

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.zoo.artifact import load_artifact, load_potential

pytest.importorskip("fairchem.core", reason="eSCN-MD is fairchem's")
TINY = (
    "backbone=escn-md-small", "backbone.hyperparameters.sphere_channels=8", "backbone.hyperparameters.hidden_channels=8",
    "backbone.hyperparameters.edge_channels=8", "backbone.hyperparameters.num_distance_basis=8", "backbone.hyperparameters.cutoff=4.0",
)  # fmt: skip


def pretrain(run, toy_data, *overrides):
    words = [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false", "schedule.max_steps=6",
        f"datasets.molecules.path={toy_data['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules", *overrides,
    ]  # fmt: skip
    assert main(words) == 0
    return run / "last.safetensors"


@pytest.fixture(scope="module")
def parent(tmp_path_factory, toy_data):
    return pretrain(tmp_path_factory.mktemp("escn-parent"), toy_data, *TINY, "sample_structures=4")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Eight frames of distorted methanol labelled by EMT."""
    path, rng, frames = tmp_path_factory.mktemp("escn-frames") / "mine.extxyz", np.random.default_rng(1), []
    for _ in range(8):
        atoms = molecule("CH3OH")
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    write(path, frames)
    return path


def finetune(parent, mine, run, *overrides):
    return main(
        [
            "finetune", f"checkpoint={parent}", f"data={mine}", f"run={run}", "schedule.max_steps=3", "schedule.warmup_steps=1",
            "trainer.threads=1", "trainer.progress=false", "small_data=off", "validation_fraction=0", *overrides,
        ]
    )  # fmt: skip


def forces(model, atoms, head):
    atoms.calc = UnipotCalculator(model, head=head)
    return atoms.get_forces()


def test_a_run_that_starts_from_it_keeps_its_predictions(parent, toy_data, tmp_path):
    still = ("schedule.max_steps=1", "schedule.warmup_steps=0", "optimizer.learning_rate=1e-12")
    model = pretrain(tmp_path, toy_data, *TINY, f"start_from={parent}", *still)
    atoms = read(toy_data["molecules"], 3)
    np.testing.assert_allclose(forces(model, atoms.copy(), "molecules"), forces(parent, atoms.copy(), "molecules"), atol=1e-5)


DISTILLATION = ("teacher.method=gfn2-xtb", "teacher.frames=16", "teacher.steps_before=2", "teacher.steps_between=1", "teacher.max_steps=4")


def test_a_distillation_gives_it_a_head_that_becomes_the_parent(parent, mine, tmp_path):
    pytest.importorskip("tblite", reason="tblite is the teacher")
    own = ("teacher.corrected=false", "parent_head=gfn2-xtb", "uncertainty=none")
    assert finetune(parent, mine, tmp_path / "run", *DISTILLATION, *own) == 0
    card = load_artifact(tmp_path / "run" / "best.safetensors").card
    assert card["finetune"]["alignment"]["parent"] == "gfn2-xtb"


def test_it_learns_from_a_teacher_that_the_frames_have_corrected(parent, mine, tmp_path):
    pytest.importorskip("tblite", reason="tblite is the teacher")
    assert finetune(parent, mine, tmp_path / "run", *DISTILLATION, "teacher.own_steps=2", "small_data=off", "uncertainty=none") == 0
    facts = load_artifact(tmp_path / "run" / "best.safetensors").card["finetune"]["teacher"]
    assert facts["corrected"] and facts["held_out_errors"]["forces"] > 0


def test_its_sample_is_replayed_and_its_error_bars_are_calibrated(parent, mine, tmp_path):
    options = ("teacher.method=none", "self_replay.structures=sample", "small_data=on", "small_data.longer=1")
    few = tuple(f"small_data.candidates.{name}=null" for name in ("muon-5e-3", "muon-1e-3", "adamw-1e-3"))
    assert finetune(parent, mine, tmp_path / "run", *options, *few) == 0
    assert load_potential(tmp_path / "run" / "best.safetensors").head_names == ("molecules", "mine")
    assert load_artifact(tmp_path / "run" / "best.safetensors").card["uncertainty"]["forces"]["n"] == 8 * 6 * 3  # every component
    atoms = read(mine, 0)
    atoms.calc = UnipotCalculator(tmp_path / "run" / "best.safetensors", head="mine", uncertainty=True)
    atoms.get_forces()
    assert (atoms.calc.results["forces_uncertainty"] > 0).all()
