"""`unipot relax` and `unipot md` from the command line to files."""

from __future__ import annotations

import pytest
from ase.build import bulk, molecule
from ase.io import read, write

from unipot.cli import main
from unipot.zoo import save_artifact


@pytest.fixture
def folder(tmp_path, make_potential, monkeypatch):
    """A folder with a model of two heads and two structures, made the working folder."""
    monkeypatch.chdir(tmp_path)
    save_artifact("model.safetensors", make_potential(heads=("a", "b")))
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.02, seed=1)
    write("in.extxyz", [molecule("H2O"), crystal])
    return tmp_path


def test_relax_writes_every_selected_structure_with_its_energy(folder, capsys):
    arguments = ["checkpoint=model.safetensors", "structure=in.extxyz", "index=':'", "head=a", "max_steps=3", "trajectory=steps.extxyz"]
    assert main(["relax", *arguments]) == 0
    relaxed = read("relaxed.extxyz", ":")
    assert [a.get_chemical_formula() for a in relaxed] == ["H2O", "Cu4"] and all(a.get_potential_energy() < 0 for a in relaxed)
    assert sorted(p.name for p in folder.glob("steps-*")) == ["steps-0000.extxyz", "steps-0001.extxyz"]
    assert "of 2 relaxed below" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs", "bfgs"])
def test_every_optimizer_of_relax_is_taken_from_the_command_line(folder, optimizer):
    """`optimizer` is a group of configurations in pretraining, and a plain setting here."""
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "max_steps=2"]
    (folder / "my.yaml").write_text(f"optimizer: {optimizer}\n")
    assert main(["relax", *words, f"optimizer={optimizer}"]) == 0
    assert main(["relax", *words, "config=my.yaml"]) == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer=adamw", "optimizer 'adamw' is not known"),
        ("fmax=0", "fmax is 0.0; it must be positive (eV/Å)"),
        ("max_steps=0", "max_steps is 0; it must be at least 1"),
    ],
)
def test_misuse_of_relax_is_one_sentence_and_exit_code_2(folder, capsys, word, message):
    assert main(["relax", "checkpoint=model.safetensors", "structure=in.extxyz", "head=a", word]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_md_writes_a_trajectory_and_reports_the_drift(folder, capsys):
    arguments = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=b", "ensemble=nve", "n_steps=10", "interval=5"]
    assert main(["md", *arguments]) == 0
    assert len(read("md.extxyz", ":")) == 3
    assert "drifts by" in capsys.readouterr().out


def test_md_with_a_bath_claims_no_drift(folder, capsys):
    assert main(["md", "checkpoint=model.safetensors", "structure=in.extxyz", "head=b", "n_steps=4", "interval=2"]) == 0
    out = capsys.readouterr().out
    assert "drifts" not in out and "potential energy between" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["structure=in.extxyz"], "the model has 2 heads: 'a' (level 0), 'b' (level 1); say which one"),
        (["structure=in.extxyz", "head=c"], "head 'c' is not in this model"),
        (["structure=gone.extxyz", "head=a"], "structure file 'gone.extxyz' is not there"),
        (["structure=model.safetensors", "head=a"], "ASE cannot read structure(s)"),
        (["structure=in.extxyz", "head=a", "dtype=float16"], "dtype is 'float16'; use one of: float32, float64"),
        (["structure=in.extxyz", "head=a", "n_step=3"], "option 'n_step' is not known (did you mean 'n_steps'?)"),
        (["structure=in.extxyz", "head=a", "index=':'"], "dynamics takes one"),
        (["structure=in.extxyz", "checkpoint=gone.safetensors"], "gone.safetensors is not there"),
        (["structure=in.extxyz", "head=a", "index=7"], "in.extxyz: there is no structure '7'; use '-1' for the last one"),
        (["structure=in.extxyz", "head=a", "device=gpu"], "device is 'gpu'; use one of: auto, cpu, cuda, cuda:<number>"),
        (["structure=in.extxyz", "head=a", "device=cuda:99"], "device is 'cuda:99', but torch finds"),
        (["structure=in.extxyz", "head=a", "friction=-1"], "friction is -1.0; it must not be negative (1/fs)"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(folder, capsys, arguments, message):
    assert main(["md", "checkpoint=model.safetensors", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
