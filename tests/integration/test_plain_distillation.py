"""Distillation of xTB before the user's labels: what is learned from it, what it may not see, what is refused."""

import json

import numpy as np
import pytest
import torch
from ase.io import write
from rich.console import Console

from tests.integration.distillation_cases import methanol, parent_for_distillation, run_finetune, xtb
from unipot.data.store import Store
from unipot.evaluation.records import Evaluation
from unipot.structure import Structure
from unipot.workflows.finetuning.distillation import method_choice as teacher_choice
from unipot.workflows.finetuning.distillation import plain as teacher
from unipot.workflows.finetuning.distillation import xtb_labels as teacher_labels
from unipot.workflows.finetuning.replay.pseudo_labels import label_structure
from unipot.zoo.artifact import load_artifact, load_potential

pytest.importorskip("tblite", reason="tblite is the teacher")
DISTILLATION = (
    "teacher.method=gfn2-xtb", "teacher.frames=40", "teacher.steps_before=5", "teacher.steps_between=3", "teacher.max_steps=30",
    "teacher.corrected=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("teacher")
    write(folder / "mine.extxyz", methanol(8))
    write(folder / "other-labels.extxyz", methanol(8, factor=1.5))
    return {"folder": folder, "checkpoint": parent_for_distillation(folder / "pretrain", toy_data)}


def finetune(files, run, *overrides, data="mine"):
    return run_finetune(files, run, *overrides, f"data={files['folder'] / data}.extxyz")


@pytest.fixture(scope="module")
def run(files):
    folder = files["folder"] / "run"
    assert finetune(files, folder, *DISTILLATION) == 0
    return folder


def test_the_distillation_is_in_the_card(run):
    facts = load_artifact(run / "best.safetensors").card["finetune"]["teacher"]
    assert (facts["method"], facts["n_labelled"], facts["head"]) == ("gfn2-xtb", 40, "gfn2-xtb")
    assert set(facts["held_out_errors"]) >= {"energy_per_atom", "forces"}


def test_errors_of_the_pretrained_model_are_measured_before_the_distillation(files, run, tmp_path):
    tests = f"test_data={files['folder'] / 'other-labels.extxyz'}"
    assert finetune(files, tmp_path / "taught", *DISTILLATION, tests) == 0
    assert finetune(files, tmp_path / "plain", "teacher.method=none", tests) == 0
    taught, plain = (Evaluation.load_all(tmp_path / name / "evaluations") for name in ("taught", "plain"))
    assert set(taught) == {"zero_shot", "taught", "final"} and set(plain) == {"zero_shot", "final"}
    before = [found["zero_shot"].get("forces", "mae") for found in (taught, plain)]
    assert before[0] == before[1] != taught["taught"].get("forces", "mae")


def force_error(model, structures, head):
    """eV/Å, mean over the labelled structures."""
    potential = load_potential(model).eval()
    predicted = [label_structure(potential, structure, head, ("energy", "forces")).labels["forces"] for structure in structures]
    return np.mean([np.abs(a - s.labels["forces"]).mean() for a, s in zip(predicted, structures, strict=True)])


def test_replay_keeps_during_the_distillation_what_the_model_knew(files, tmp_path, toy_data):
    replay = (f"replay.molecules={{path: {toy_data['molecules']}, level_of_theory: EMT-molecules, head: molecules}}",)
    for name, options in (("kept", replay), ("lost", ())):
        assert finetune(files, tmp_path / name, *DISTILLATION, "teacher.max_steps=60", *options) == 0
    known = [s for s in Store(next((tmp_path / "kept" / "data").glob("molecules-*.unipot"))) if "forces" in s.labels]
    kept, lost = (force_error(tmp_path / name / "taught.safetensors", known, "molecules") for name in ("kept", "lost"))
    assert kept < 0.9 * lost


def test_labels_of_the_distillation_are_those_of_the_method(run):
    from tblite.ase import TBLite

    store = Store(next((run / "data").glob("gfn2-xtb-*.unipot")))
    structure = store[17]
    atoms = structure.to_ase()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    assert float(structure.labels["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert structure.labels["forces"] == pytest.approx(atoms.get_forces(), abs=1e-3)


def test_the_distillation_lowers_the_errors_of_its_head_on_structures_it_has_not_trained_on(files, run, tmp_path):
    assert finetune(files, tmp_path, *DISTILLATION, "teacher.max_steps=1") == 0
    long, short = (json.loads((folder / "taught.json").read_text())["held_out_errors"]["forces"] for folder in (run, tmp_path))
    assert long < 0.8 * short


def test_the_users_labels_are_not_seen_by_the_teacher(files, run, tmp_path):
    assert finetune(files, tmp_path, *DISTILLATION, "check_labels=false", data="other-labels") == 0
    one, other = (load_potential(folder / "taught.safetensors").state_dict() for folder in (run, tmp_path))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_that_is_continued_does_not_repeat_the_distillation(files, tmp_path, monkeypatch):
    assert finetune(files, tmp_path, *DISTILLATION) == 0
    first = load_potential(tmp_path / "best.safetensors").state_dict()
    monkeypatch.setattr(teacher, "labelled_store", None)
    for name in ("best.safetensors", "last.safetensors"):
        (tmp_path / name).unlink()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    assert finetune(files, tmp_path, *DISTILLATION) == 0
    again = load_potential(tmp_path / "best.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("frames", "overrides", "sentence"),
    [
        (lambda: methanol(6, calculator=xtb("GFN1-xTB")), [], "distillation first: GFN2-xTB, whose forces have a cosine of 1.00"),
        (lambda: methanol(6), [], "distillation first: none, because GFN2-xTB, whose forces have a cosine of"),
        (lambda: methanol(6, calculator=xtb("GFN2-xTB")), [], "distillation first: none, because your labels are those of GFN2-xTB itself"),
        (lambda: methanol(6, calculator=xtb("GFN1-xTB")), ["finetune=heads-only"], "because it changes the whole backbone"),
        (lambda: methanol(6, calculator=xtb("GFN1-xTB")), ["finetune.l2_to_start=1"], "and l2_to_start is to keep it"),
    ],
    ids=["follows", "does not follow", "own labels", "heads only", "l2 to start"],
)
def test_a_distillation_is_chosen_by_how_the_teachers_forces_follow_the_users(files, tmp_path, capsys, frames, overrides, sentence):
    write(tmp_path / "frames.extxyz", frames())
    few = [option for option in DISTILLATION if not option.startswith("teacher.method")]
    assert finetune(files, tmp_path / "run", *few, *overrides, data=tmp_path / "frames") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert sentence in said, said
    assert (tmp_path / "run" / "taught.json").is_file() == ("first: GFN2-xTB" in said)


def test_a_run_that_is_continued_keeps_what_it_decided(files, tmp_path, monkeypatch):
    write(tmp_path / "frames.extxyz", methanol(6, calculator=xtb("GFN1-xTB")))
    few = [option for option in DISTILLATION if not option.startswith("teacher.method")]
    assert finetune(files, tmp_path / "run", *few, data=tmp_path / "frames") == 0
    before = load_artifact(tmp_path / "run" / "last.safetensors").card["sha256"]
    (tmp_path / "run" / "best.safetensors").unlink()  # as if killed between training and the end
    monkeypatch.setattr(teacher_choice.importlib.util, "find_spec", lambda name: None)  # tblite is gone
    assert finetune(files, tmp_path / "run", *few, data=tmp_path / "frames") == 0
    assert load_artifact(tmp_path / "run" / "best.safetensors").card["sha256"] == before


@pytest.mark.parametrize(
    ("frames", "overrides"),
    [
        (lambda: methanol(6, calculator=xtb("GFN1-xTB"), pbc=[True, True, False], cell=[9.0, 9.0, 9.0]), []),
        (lambda: methanol(6, calculator=xtb("GFN1-xTB")), ["from_scratch=true"]),
        (lambda: methanol(6, calculator=xtb("GFN1-xTB")), ["labels=[energy]"]),
        (lambda: methanol(100, calculator=xtb("GFN1-xTB")), ["teacher.corrected=false"]),
    ],
    ids=["partly periodic", "from scratch", "no forces", "a hundred frames"],
)
def test_no_distillation_is_thought_of_where_it_would_not_apply(files, tmp_path, capsys, frames, overrides):
    write(tmp_path / "frames.extxyz", frames())
    assert finetune(files, tmp_path / "run", *overrides, data=tmp_path / "frames") == 0
    assert "distillation first" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher.method=pm7", "teacher.method is 'pm7'; use one of: none, auto, gfn1-xtb, gfn2-xtb"),
        ("teacher.method=gfn2-xtb teacher.frames=0", "teacher.frames is 0; it must be positive"),
        ("teacher.method=gfn2-xtb from_scratch=true", "so it has no teacher"),
        ("teacher.method=gfn2-xtb finetune=heads-only", "the whole backbone, of which finetune=heads-only keeps weights"),
        ("teacher.method=gfn2-xtb finetune=lora", "the whole backbone, of which finetune=lora keeps weights"),
        ("teacher.method=gfn2-xtb finetune=freeze-k", "the whole backbone, of which finetune.freeze_groups=2 keeps weights"),
        ("teacher.method=gfn2-xtb finetune=layer-wise finetune.freeze_groups=1", "of which finetune.freeze_groups=1 keeps weights"),
    ],
)
def test_contradictions_are_refused_in_one_sentence(files, tmp_path, capsys, override, sentence):
    assert finetune(files, tmp_path, *override.split()) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert sentence in error and "Traceback" not in error


def test_trajectories_beside_one_another_are_those_of_one_after_the_other(tmp_path, monkeypatch):
    options = teacher_labels.TeacherConfig(method="gfn2-xtb", frames=10, steps_before=4, steps_between=2)
    starts = [Structure.from_ase(atoms, labels={}, id=str(k), group=str(k)) for k, atoms in enumerate(methanol(4))]
    found = []
    for at_once in (1, 4):
        monkeypatch.setattr(teacher_labels, "_at_once", lambda at_once=at_once: at_once)
        found.append(list(teacher_labels.labelled_store(options, starts, 0, tmp_path / str(at_once), Console(quiet=True))))
    assert [s.id for s in found[0]] == [s.id for s in found[1]] == [f"{n}-{k}" for n in range(3) for k in range(3)] + ["3-0"]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.labels["forces"], other.labels["forces"])
