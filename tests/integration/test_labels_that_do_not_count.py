"""Slabs with fixed atoms and a stress: fine-tuning and evaluation say what does not count, and show both errors of forces."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest

from unipot.cli import main


@pytest.fixture(scope="module")
def slabs(tmp_path_factory):
    """Twelve Cu slabs by EMT, half of their atoms held, forces after the constraint, and a stress that says nothing."""
    from ase.build import fcc111
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms
    from ase.io import write

    rng, frames = np.random.default_rng(0), []
    for _ in range(12):
        atoms = fcc111("Cu", (1, 2, 2), a=3.6, vacuum=6.0, orthogonal=True)
        atoms.info, atoms.pbc = {}, [True, True, False]
        atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.set_constraint(FixAtoms([0, 1]))
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": np.zeros(6)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    file = tmp_path_factory.mktemp("slabs") / "slabs.extxyz"
    write(file, frames)
    return file


@pytest.fixture(scope="module")
def pretrained(slabs):
    """A model that has seen the slabs, and what its training printed."""
    run, said = slabs.parent / "run", StringIO()
    words = ["backbone=native-mini", "schedule.max_steps=1", f"run={run}", "datasets.slabs.level_of_theory=EMT", "trainer.workers=0"]
    with redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")  # cells of tables are whole lines
        assert main(["pretrain", f"datasets.slabs.path={slabs}", *words]) == 0
    return run / "best.safetensors", said.getvalue()


def test_pretraining_says_which_labels_do_not_count(pretrained):
    said = pretrained[1]
    assert "stress (0 of 12 count)" in said
    assert re.search(r"x stress \([a-z]+, zero: no label counts\)", said)
    assert re.search(r"slabs: forces of (\d+) of (\d+) atoms do not count: they were fixed, and 100% of their force labels are", said)


def test_evaluate_shows_the_errors_on_free_and_on_all_atoms(slabs, pretrained, tmp_path, capsys):
    assert main(["evaluate", f"checkpoint={pretrained[0]}", f"data={slabs}", f"output={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "stress of 12 of 12 structures with a stress does not count" in said
    assert "forces of free atoms" in said and "forces of all atoms" in said
    (found,) = json.loads((tmp_path / "metrics.json").read_text())
    rows = {row["property"]: row for row in found["rows"] if row["element"] is None}
    assert (rows["forces"]["n"], rows["forces_all_atoms"]["n"]) == (72, 144)


def test_stress_that_is_asked_for_by_name_is_refused(slabs, pretrained, tmp_path, capsys):
    words = [f"checkpoint={pretrained[0]}", f"data={slabs}", "labels=[energy,forces,stress]"]
    for verb, folder in (("evaluate", "output"), ("finetune", "run")):
        assert main([verb, *words, f"{folder}={tmp_path / verb}"]) == 2
        assert "labels names stress, but none of the 12 structures with a stress is periodic along all axes" in capsys.readouterr().err
