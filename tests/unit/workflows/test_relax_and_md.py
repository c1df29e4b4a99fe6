"""`unipot relax` and `unipot md` from the command line to files."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from unipot.cli import main
from unipot.zoo import read_card, save_artifact


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
    assert main(["relax", *arguments, "allow_unconverged=true"]) == 0
    relaxed = read("relaxed.extxyz", ":")
    assert [a.get_chemical_formula() for a in relaxed] == ["H2O", "Cu4"] and all(a.get_potential_energy() < 0 for a in relaxed)
    assert sorted(p.name for p in folder.glob("steps-*")) == ["steps-0000.extxyz", "steps-0001.extxyz"]
    assert "of 2 relaxed below" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs", "bfgs"])
def test_every_optimizer_of_relax_is_taken_from_the_command_line(folder, optimizer):
    """`optimizer` is a group of configurations in pretraining, and a plain setting here."""
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "max_steps=2", "allow_unconverged=true", "overwrite=true"]
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


def test_an_unconverged_relaxation_is_written_flagged_and_ends_with_exit_code_3(folder, capsys):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "max_steps=1", "fmax=1e-9", "trajectory=steps.traj"]
    assert main(["relax", *words]) == 3
    assert "1 of 1 structures did not reach 1e-09 eV/A in 1 steps; they are in relaxed.extxyz" in capsys.readouterr().err
    flags = [read(file).info["converged"] for file in ("relaxed.extxyz", "steps.traj")]
    assert flags == [False, False]


def test_a_converged_relaxation_is_flagged_too(folder):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "fmax=1000", "trajectory=steps.traj"]
    assert main(["relax", *words]) == 0
    assert read("relaxed.extxyz").info["converged"] and read("steps.traj").info["converged"]


@pytest.mark.parametrize("name", ["out.extxyz", "out.xyz", "out.traj"])
@pytest.mark.parametrize("verb", ["md", "relax"])
def test_as_many_frames_are_in_the_file_as_the_last_line_says(folder, capsys, verb, name):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", f"out={name}"]
    more = ["n_steps=6", "interval=2"] if verb == "md" else ["index=':'", "fmax=1000"]
    assert main([verb, *words, *more]) == 0
    n_frames = 4 if verb == "md" else 2
    assert ("4 frames written to" if verb == "md" else "2 of 2 relaxed") in capsys.readouterr().out
    assert len(read(name, ":")) == n_frames


@pytest.mark.parametrize("name", ["out.vasp", "out.xsf", "out.res", "out", "out.lmp", "out.nc"])
@pytest.mark.parametrize("verb", ["md", "relax"])
def test_a_format_that_cannot_hold_the_frames_is_refused_before_the_model_is_opened(folder, capsys, verb, name):
    assert main([verb, "checkpoint=gone.safetensors", "structure=in.extxyz", f"out={name}", *["index=':'"] * (verb == "relax")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"unipot: error: {name}: ") and ".extxyz or .traj" in error and error.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["in.extxyz", "model.safetensors"]


def test_one_structure_may_be_written_in_a_format_that_holds_one_and_what_is_lost_is_said(folder, capsys):
    assert main(["relax", "checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "fmax=1000", "out=POSCAR"]) == 0
    assert "POSCAR: a file of format vasp does not keep energy, forces, stress, model" in capsys.readouterr().out
    assert len(read("POSCAR")) == 4


@pytest.mark.parametrize(("verb", "out"), [("md", "in.extxyz"), ("relax", "in.extxyz"), ("md", "old.traj"), ("relax", "old.traj")])
def test_nothing_is_overwritten_unasked(folder, capsys, verb, out):
    write("old.traj", bulk("Cu"))
    before = (folder / out).read_bytes()
    assert main([verb, "checkpoint=model.safetensors", "structure=in.extxyz", "head=a", f"out={out}"]) == 2
    assert f"{out} exists already; choose another name with out=, or allow it to be replaced with overwrite=true" in capsys.readouterr().err
    assert (folder / out).read_bytes() == before


def test_a_trajectory_of_a_relaxation_is_not_overwritten_either(folder):
    write("steps-0001.extxyz", bulk("Cu"))
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "index=':'", "trajectory=steps.extxyz"]
    assert main(["relax", *words]) == 2
    assert not (folder / "relaxed.extxyz").exists() and len(read("steps-0001.extxyz", ":")) == 1


def test_overwriting_happens_where_it_is_asked_for(folder):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "n_steps=1", "out=in.extxyz"]
    assert main(["md", *words, "overwrite=true"]) == 0
    assert len(read("in.extxyz", ":")) == 2


def test_two_outputs_of_one_name_are_refused(folder, capsys):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "out=a.extxyz", "trajectory=./a.extxyz"]
    assert main(["relax", *words]) == 2
    assert "a.extxyz is named twice as an output" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_every_frame_says_which_model_head_and_level_of_theory_it_is_from(folder, verb):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=b", "out=out.extxyz"]
    assert main([verb, *words, *(["n_steps=2", "interval=1"] if verb == "md" else ["fmax=1000"])]) == 0
    digest = read_card("model.safetensors")["sha256"]
    for frame in read("out.extxyz", ":"):
        facts = [frame.info[key] for key in ("model", "model_sha256", "head", "level_of_theory")]
        assert facts == ["model", digest, "b", "level 1"]


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_labels_of_another_method_do_not_travel_onto_moved_geometries(folder, capsys, verb):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.02, seed=1)
    atoms.info.update(REF_energy=-3.5, virial=np.eye(3), config_type="slab", number=7, charge=1.0, converged=True, head="pbe")
    atoms.arrays.update(dft_forces=np.ones((4, 3)), fragment=np.array([0, 0, 1, 1]))
    write("labelled.extxyz", atoms)
    words = ["checkpoint=model.safetensors", "structure=labelled.extxyz", "head=b", "out=out.extxyz"]
    with pytest.warns(UserWarning, match="does not read total charge"):
        assert main([verb, *words, *(["n_steps=2", "interval=1"] if verb == "md" else ["fmax=1e-9", "max_steps=2"])]) in (0, 3)
    assert "not carried over, since they belong to the geometry that was read: REF_energy, dft_forces, virial" in capsys.readouterr().out
    frame = read("out.extxyz")
    assert not {"REF_energy", "virial"} & set(frame.info) and "dft_forces" not in frame.arrays
    assert frame.info["config_type"] == "slab" and frame.info["number"] == 7 and frame.info["charge"] == 1 and frame.info["head"] == "b"
    assert frame.arrays["fragment"].tolist() == [0, 0, 1, 1] and frame.info.get("converged", False) is not True


def test_an_energy_in_the_info_of_the_input_is_no_obstacle(folder):
    atoms = bulk("Cu", cubic=True)
    atoms.info["energy"] = -1.0
    write("start.traj", atoms)
    assert main(["relax", "checkpoint=model.safetensors", "structure=start.traj", "head=a", "fmax=1000"]) == 0
    assert read("relaxed.extxyz").get_potential_energy() < -100


def test_exploded_dynamics_end_in_an_error_and_keep_their_frames_with_a_flag(folder, capsys):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "temperature=3000000", "n_steps=40", "interval=1"]
    assert main(["md", *words, "timestep=5"]) == 2
    error = capsys.readouterr().err
    assert "dynamics failed after step" in error and "in one step; check the geometry, or use a shorter time step" in error
    frames = read("md.extxyz", ":")
    assert f"md.extxyz keeps {len(frames)} frame(s), the last one flagged `exploded`" in error
    assert [f.info.get("exploded", False) for f in frames] == [False] * (len(frames) - 1) + [True]


def test_dynamics_hotter_than_allowed_end_with_the_option_that_allows_it(folder, capsys):
    words = ["checkpoint=model.safetensors", "structure=in.extxyz", "head=a", "temperature=300", "n_steps=40"]
    assert main(["md", *words, "max_temperature=10"]) == 2
    assert "K are more than 10 K; check the geometry" in capsys.readouterr().err


def test_dynamics_of_atoms_that_are_all_held_are_refused(folder, capsys):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms(range(4)))
    write("held.extxyz", atoms)
    assert main(["md", "checkpoint=model.safetensors", "structure=held.extxyz", "head=a"]) == 2
    assert "none of the 4 atoms can move, constraints hold them all" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_atoms_that_training_takes_as_fixed_are_held(folder, verb):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.02, seed=1)
    atoms.arrays["fixed"] = np.array([True, False, False, True])
    write("held.extxyz", atoms)
    more = ["n_steps=3", "interval=1"] if verb == "md" else ["fmax=1e-9", "max_steps=2", "allow_unconverged=true"]
    assert main([verb, "checkpoint=model.safetensors", "structure=held.extxyz", "head=a", "out=out.extxyz", *more]) == 0
    moved = np.abs(read("out.extxyz").positions - read("held.extxyz").positions).max(axis=1)
    assert (moved[[0, 3]] == 0).all() and (moved[[1, 2]] > 0).all()


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
        (["structure=model.safetensors", "head=a"], "model.safetensors cannot be read by ASE"),
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
