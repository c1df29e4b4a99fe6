"""Fine-tuning in two processes makes the steps of one: self-labelled replay, a property head and further sets included."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main

pytestmark = pytest.mark.distributed


def frames(n, seed, shift):
    """Distorted methanol with energies and forces of EMT, an energy zero of its own, and its mean distance as a property."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("CH3OH")
        atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() + shift, atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info["size"] = float(atoms.get_all_distances().mean())
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("finetune-ranks")
    write(folder / "mine.extxyz", frames(20, 0, -3.0))
    write(folder / "other.extxyz", frames(20, 1, 5.0))
    pretrain = [
        "pretrain", f"run={folder / 'pretrain'}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false", "schedule.max_steps=8",
        f"datasets.molecules.path={toy_data['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules", "sample_structures=6",
    ]  # fmt: skip
    assert main(pretrain) == 0
    return folder


def in_two_processes(words):
    """What the command prints."""
    command = [sys.executable, "-m", "unipot.cli", *words, "trainer.devices=2", "trainer.strategy=ddp"]
    finished = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return " ".join(finished.stdout.split())


PROPERTY = ("properties.size={key: size, unit: A, threshold: 0.1}",)
FURTHER = ("self_replay.structures=sample", "+also.other.path={folder}/other.extxyz", "+also.other.level_of_theory=EMT shifted")


@pytest.mark.parametrize("options", [PROPERTY, FURTHER], ids=["property", "replay-and-further-set"])
def test_two_ranks_fine_tune_as_one(files, tmp_path, options):
    words = [
        "finetune", f"checkpoint={files / 'pretrain' / 'last.safetensors'}", f"data={files / 'mine.extxyz'}", "small_data=off",
        "schedule.max_steps=5", "schedule.warmup_steps=2", "trainer.dtype=float64", "trainer.threads=1", "trainer.progress=false",
        "trainer.validate_every=5", "mixture.structures_per_step=8", "mixture.micro_batches_per_step=2", "teacher.method=none",
        *(option.replace("{folder}", str(files)) for option in options),
    ]  # fmt: skip
    assert main([*words, f"run={tmp_path / 'one'}"]) == 0
    in_two_processes([*words, f"run={tmp_path / 'two'}"])
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_several_processes_say_what_one_would_do_with_few_frames(files, tmp_path):
    pytest.importorskip("tblite", reason="tblite is the teacher")
    words = [
        "finetune", f"checkpoint={files / 'pretrain' / 'last.safetensors'}", f"data={files / 'mine.extxyz'}", f"run={tmp_path / 'run'}",
        "schedule.max_steps=2", "schedule.warmup_steps=1", "trainer.threads=1", "trainer.progress=false", "uncertainty=none",
    ]  # fmt: skip
    said = in_two_processes(words)
    assert "small-data mode searches in one process, so it is off in this run of several" in said
    assert "distillation first: none, because distillation runs in one process; so few frames" in said


def test_a_step_of_fewer_structures_than_processes_is_refused_in_one_sentence(files, tmp_path, capsys):
    words = [
        "finetune", f"checkpoint={files / 'pretrain' / 'last.safetensors'}", f"data={files / 'mine.extxyz'}", f"run={tmp_path / 'run'}",
        "mixture.structures_per_step=3", "trainer.devices=4", "trainer.progress=false", "teacher.method=none",
    ]  # fmt: skip
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "4 processes cannot share structures_per_step=3; set it to at least 4, or ask for fewer trainer.devices" in said
