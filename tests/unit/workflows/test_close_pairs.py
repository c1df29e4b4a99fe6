"""Where the repulsion of close nuclei ends, from the frames to the artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main
from unipot.zoo import load_artifact, read_card

#: Å, 0.65 of the sum of the covalent radii of two copper atoms
END = 0.65 * 2 * 1.32
SHORT = ["trainer.threads=1", "seed=1"]


def dimers(path: Path, shortest: float, n: int = 24) -> Path:
    """Copper dimers of EMT from `shortest` Å on, none alike."""
    images = []
    for distance in np.linspace(shortest, shortest + 0.8, n):
        atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, distance]])
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        images.append(atoms)
    write(path, images)
    return path


def pretrained(tmp_path: Path, shortest: float, *words: str) -> Path:
    data, run = dimers(tmp_path / "set.extxyz", shortest), tmp_path / f"run{shortest}"
    words = ("experiment=smoke", "datasets.w.level_of_theory=PBE", "datasets.w.validation_fraction=0.2", *SHORT, *words)
    assert main(["pretrain", f"run={run}", f"datasets.w.path={data}", *words]) == 0
    return run / "last.safetensors"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> Path:
    """A model of dimers that do not come closer than the repulsion reaches."""
    return pretrained(tmp_path_factory.mktemp("sparse"), 2.0)


def repulsion_of(path: Path) -> dict[str, object]:
    return read_card(path)["potential"]["core_repulsion"]


def finetuned(parent: Path, tmp_path: Path, shortest: float, *words: str) -> Path:
    own, run = dimers(tmp_path / "own.extxyz", shortest), tmp_path / "fine"
    short = ("schedule.max_steps=4", "trainer.validate_every=2", "schedule.warmup_steps=1", "small_data=off", "teacher.method=none")
    assert main(["finetune", f"checkpoint={parent}", f"data={own}", f"run={run}", *short, *SHORT, *words]) == 0
    return run / "best.safetensors"


def test_it_ends_where_training_data_begin_and_says_so(tmp_path, capsys) -> None:
    path = pretrained(tmp_path, 1.5)
    core = repulsion_of(path)
    assert core["reach"] == 0.65 and 1.499 <= core["closest"]["Cu-Cu"] < 1.65
    said = " ".join(capsys.readouterr().out.split())
    assert "repulsion of close nuclei below 0.65 of the sum of covalent radii, where training data are closer there: Cu-Cu 1.5" in said
    assert load_artifact(path).potential.core_repulsion.closest == core["closest"]
    assert main(["models", "show", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"below 0.65 of the sum of covalent radii, Cu-Cu {core['closest']['Cu-Cu']:.2f} Å" in said


def test_data_without_close_pairs_leave_it_at_its_reach(sparse) -> None:
    assert repulsion_of(sparse) == {"reach": 0.65}


def test_without_repulsion_nothing_is_said(tmp_path, capsys) -> None:
    assert repulsion_of(pretrained(tmp_path, 1.5, "backbone.core_repulsion=null")) is None
    assert "repulsion of close nuclei" not in capsys.readouterr().out


def test_fine_tuning_on_closer_frames_ends_it_there_and_says_so(sparse, tmp_path, capsys) -> None:
    closest = repulsion_of(finetuned(sparse, tmp_path, 1.45))["closest"]["Cu-Cu"]
    assert 1.449 <= closest < 1.6
    said = " ".join(capsys.readouterr().out.split())
    assert f"closer than in pretraining: Cu-Cu {closest:.2f} Å; the repulsion of close nuclei ends there now" in said


def test_from_scratch_it_comes_from_the_frames_alone(sparse, tmp_path) -> None:
    assert repulsion_of(finetuned(sparse, tmp_path, 1.45, "from_scratch=true"))["closest"]["Cu-Cu"] < 1.6


def test_pretraining_that_goes_on_ends_it_where_the_new_data_begin(sparse, tmp_path) -> None:
    assert repulsion_of(pretrained(tmp_path, 1.5, f"start_from={sparse}"))["closest"]["Cu-Cu"] < END


@pytest.mark.parametrize("value", ["0", "1.5", "-0.5"])
def test_a_reach_outside_its_range_is_one_sentence(tmp_path, capsys, value: str) -> None:
    data = dimers(tmp_path / "set.extxyz", 2.0)
    words = ["experiment=smoke", "datasets.w.level_of_theory=PBE", f"backbone.core_repulsion={value}", *SHORT]
    assert main(["pretrain", f"run={tmp_path / 'run'}", f"datasets.w.path={data}", *words]) == 2
    assert "core_repulsion is" in capsys.readouterr().err
