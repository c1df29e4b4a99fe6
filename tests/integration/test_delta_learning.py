"""A teacher corrected by the user's frames: what the difference is learned from, what the final model learns, what is kept and said."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.io import write
from rich.console import Console

from tests.integration.distillation_cases import methanol, parent_for_distillation, parent_with_differences, run_finetune
from unipot.data.store import Store
from unipot.evaluation.records import Evaluation
from unipot.structure import Structure
from unipot.workflows.finetuning.distillation import method_choice as teacher_choice
from unipot.workflows.finetuning.distillation import xtb_labels as teacher_labels
from unipot.workflows.finetuning.distillation.method_choice import FEW, FEW_CORRECTED
from unipot.workflows.finetuning.distillation.xtb_labels import driven_by, labels_by
from unipot.workflows.finetuning.replay.pseudo_labels import label_structure
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.runs.finetune_run import SUMMARY_FILE
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.compose import load_config
from unipot.zoo.artifact import load_artifact, load_potential

pytest.importorskip("tblite", reason="tblite is the teacher")
DISTILLATION = (
    "teacher.method=gfn2-xtb", "teacher.frames=40", "teacher.steps_before=5", "teacher.steps_between=3", "teacher.max_steps=30",
    "teacher.own_steps=6",
)  # fmt: skip
TRIALS = ("small_data=auto", "small_data.folds=2", "small_data.candidates={configured: {}}", "schedule.max_steps=8")


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("corrected")
    write(folder / "mine.extxyz", methanol(8))
    write(folder / "test.extxyz", methanol(4, seed=2))
    return {"folder": folder, "checkpoint": parent_for_distillation(folder / "pretrain", toy_data)}


def finetune(files, run, *overrides):
    return run_finetune(files, run, *DISTILLATION, *overrides)


@pytest.fixture(scope="module")
def run(files):
    folder = files["folder"] / "run"
    assert finetune(files, folder, f"test_data={files['folder'] / 'test.extxyz'}") == 0
    return folder


def store_called(run, beginning):
    (path,) = (run / "data").glob(f"{beginning}-*.unipot")
    return Store(path)


def test_the_difference_is_learned_from_labels_less_those_of_the_teacher(run):
    store = store_called(run, "difference")
    for structure, frame in zip(store, methanol(8), strict=True):
        teacher = driven_by("gfn2-xtb", structure)
        np.testing.assert_allclose(structure.labels["forces"] + teacher.get_forces(), frame.get_forces(), atol=1e-6)
        np.testing.assert_allclose(structure.labels["energy"] + teacher.get_potential_energy(), frame.get_potential_energy(), atol=1e-6)
    assert store.energy_kind == "difference" and "less GFN2-xTB" in store.level_of_theory


def test_structures_are_labelled_by_the_teacher_and_the_model_of_the_difference(run):
    corrected, taught = store_called(run, "corrected"), store_called(run, "gfn2-xtb")
    model = load_potential(run / "difference.safetensors")
    for ours, theirs in list(zip(corrected, taught, strict=True))[:5]:
        left = label_structure(model, theirs, "mine", ("energy", "forces")).labels
        np.testing.assert_allclose(ours.labels["forces"], theirs.labels["forces"] + left["forces"], atol=1e-9)
        np.testing.assert_allclose(ours.labels["energy"], theirs.labels["energy"] + left["energy"], atol=1e-9)


def test_corrected_structures_have_the_level_of_the_users_frames(run):
    corrected = store_called(run, "corrected")
    assert (corrected.level_of_theory, corrected.energy_kind, len(corrected)) == ("as in mine", "total", 40)


def test_the_final_model_has_the_users_head_alone_beside_those_of_the_checkpoint(files, run):
    pretrained = load_potential(files["checkpoint"])
    assert load_potential(run / "best.safetensors").head_names == (*pretrained.head_names, "mine")


def test_the_frames_alone_come_last_and_the_facts_of_the_distillation_are_in_the_card(run):
    card = load_artifact(run / "best.safetensors").card
    facts = card["finetune"]["teacher"]
    assert (facts["method"], facts["corrected"], facts["n_labelled"], facts["n_frames"], facts["steps"]) == ("gfn2-xtb", True, 40, 8, [4])
    assert json.loads((run / SUMMARY_FILE).read_text())["n_steps"] == 6


def test_the_start_that_is_reported_is_the_aligned_checkpoint(files, run, tmp_path):
    assert finetune(files, tmp_path / "plain", "teacher.method=none", f"test_data={files['folder'] / 'test.extxyz'}") == 0
    corrected, plain = (Evaluation.load_all(folder / "evaluations") for folder in (run, tmp_path / "plain"))
    assert set(corrected) == {"zero_shot", "taught", "final"}
    assert corrected["zero_shot"].get("forces", "mae") == plain["zero_shot"].get("forces", "mae")


def test_a_run_that_is_continued_repeats_neither_the_difference_nor_the_distillation(files, run):
    kept = [run / name for name in ("difference.safetensors", "taught.safetensors")]
    before = [path.stat().st_mtime_ns for path in kept]
    (run / "best.safetensors").unlink()
    assert finetune(files, run, f"test_data={files['folder'] / 'test.extxyz'}") == 0
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_two_runs_end_with_the_same_weights(files, run, tmp_path):
    assert finetune(files, tmp_path / "again", f"test_data={files['folder'] / 'test.extxyz'}") == 0
    first, second = (load_potential(folder / "best.safetensors").state_dict() for folder in (run, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))


def test_small_data_mode_searches_the_difference_and_its_folds_calibrate_the_error_bars(files, tmp_path):
    assert finetune(files, tmp_path / "run", *TRIALS, "uncertainty=last-layer") == 0
    card = load_artifact(tmp_path / "run" / "best.safetensors").card
    assert card["finetune"]["small_data"]["n_folds"] == 2
    assert card["uncertainty"]["calibration"] == "calibrated out of fold on 8 frames of 2 folds"


def test_two_candidates_that_are_nearly_equal_are_averaged(files, tmp_path):
    alike = "small_data.candidates={configured: {}, other: {optimizer: {learning_rate: 4.9e-3}}}"
    assert finetune(files, tmp_path / "run", *TRIALS, alike) == 0
    folder = tmp_path / "run"
    models = [load_potential(folder / name) for name in ("difference.safetensors", "difference-2.safetensors")]
    ours, theirs = store_called(folder, "corrected")[3], store_called(folder, "gfn2-xtb")[3]
    left = [label_structure(model, theirs, "mine", ("energy", "forces")).labels for model in models]
    assert np.abs(left[0]["forces"] - left[1]["forces"]).max() > 1e-6
    np.testing.assert_allclose(ours.labels["forces"], theirs.labels["forces"] + (left[0]["forces"] + left[1]["forces"]) / 2, atol=1e-9)
    assert len(load_artifact(folder / "best.safetensors").card["finetune"]["teacher"]["steps"]) == 2


def test_a_frame_that_the_teacher_fails_on_is_learned_all_the_same(files, tmp_path, monkeypatch, capsys):
    calls = []

    def failing(method, structure, labels):
        calls.append(structure)
        return None if len(calls) == 3 else labels_by(method, structure, labels)

    monkeypatch.setattr(teacher_labels, "labels_by", failing)
    assert finetune(files, tmp_path / "run") == 0
    assert "failed on 1 of 8 frames" in capsys.readouterr().out
    assert len(store_called(tmp_path / "run", "difference")) == 7
    assert json.loads((tmp_path / "run" / SUMMARY_FILE).read_text())["n_training"] == 8


def test_a_head_for_differences_is_where_the_difference_starts(files, run, toy_data, tmp_path, capsys):
    store = store_called(run, "difference")
    write(tmp_path / "less.extxyz", [s.to_ase() for s in store])
    parent = parent_with_differences(tmp_path / "parent", toy_data, tmp_path / "less.extxyz")
    assert finetune({**files, "checkpoint": parent}, tmp_path / "run", "teacher.known_steps=20") == 0
    assert "starts from head 'less'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("labels=[energy]",), "your frames have no forces"),
        (("finetune.l2_to_start=1.0",), "the strategy holds on to the pretrained model"),
    ],
)
def test_where_the_teacher_cannot_be_corrected_its_own_distillation_is_given(files, tmp_path, capsys, overrides, said):
    assert finetune(files, tmp_path / "run", *overrides) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "taught.json").is_file() and not (tmp_path / "run" / "difference.safetensors").exists()


def test_a_share_outside_its_range_is_refused(files, tmp_path, capsys):
    assert finetune(files, tmp_path / "run", "teacher.own_share=1.0") == 2
    assert "teacher.own_share is 1.0; it must be above 0 and below 1" in capsys.readouterr().err


def test_how_closely_the_corrected_teacher_is_followed_is_measured_on_structures_that_are_not_trained_on(run):
    errors = load_artifact(run / "best.safetensors").card["finetune"]["teacher"]["held_out_errors"]
    assert 0 < errors["forces"] < 10 and 0 < errors["energy_per_atom"] < 10


def test_weights_of_frames_are_those_of_their_differences(files, tmp_path):
    frames = methanol(8)
    for number, frame in enumerate(frames):
        frame.info["weight"] = 0.5 + number
    write(tmp_path / "weighted.extxyz", frames)
    assert finetune(files, tmp_path / "run", f"data={tmp_path / 'weighted.extxyz'}", "labels=[energy,forces,weight]") == 0
    store = store_called(tmp_path / "run", "difference")
    assert [float(s.labels["weight"]) for s in store] == [0.5 + number for number in range(8)]


@pytest.mark.parametrize(("n", "distillation"), [(FEW_CORRECTED - 1, True), (FEW_CORRECTED, False)])
def test_more_frames_than_for_a_distillation_as_it_is_are_still_few_for_a_corrected_one(files, tmp_path, n, distillation, monkeypatch):
    assert FEW < n
    monkeypatch.setattr(teacher_choice, "_by_evidence", lambda method, frames: (method, "whose forces follow yours"))
    config = load_config("finetune", FinetuneConfig, [f"checkpoint={files['checkpoint']}", "data=mine"])
    spec, store = SimpleNamespace(labels=("energy", "forces")), [Structure.from_ase(methanol(1)[0])]
    frames = SimpleNamespace(spec=spec, train_indices=np.zeros(n, dtype=int), store=store)
    chosen = teacher_choice.choose_teacher(config, frames, RunFolder(tmp_path, resume=False), Console(quiet=True))
    assert chosen.teacher.method == ("gfn2-xtb" if distillation else "none")


@pytest.mark.parametrize("n", [1, 5])
def test_a_handful_of_structures_is_a_distillation_too(files, tmp_path, n):
    assert finetune(files, tmp_path / "run", f"teacher.frames={n}") == 0
    assert load_artifact(tmp_path / "run" / "best.safetensors").card["finetune"]["teacher"]["n_labelled"] == n


@pytest.mark.parametrize(("change", "again"), [((), False), (("seed=1",), True)])
def test_a_distillation_of_a_run_killed_before_its_training_is_used_only_with_the_same_options(files, run, tmp_path, change, again):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints")
    for weights in ("best.safetensors", "last.safetensors"):
        (folder / weights).unlink()
    kept = [folder / name for name in ("difference.safetensors", "taught.safetensors")]
    before = [load_artifact(path).card["sha256"] for path in kept]
    assert finetune(files, folder, f"test_data={files['folder'] / 'test.extxyz'}", *change) == 0
    assert [load_artifact(path).card["sha256"] != sha for path, sha in zip(kept, before, strict=True)] == [again, again]
