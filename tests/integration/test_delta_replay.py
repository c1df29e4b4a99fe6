"""A checkpoint that carries differences with their labels: that of the user's frames is learned beside them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import write
from rich.console import Console

from tests.integration.distillation_cases import methanol, parent_with_differences, run_finetune, xtb
from unipot.data.store import Store
from unipot.structure import Structure
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation import delta_replay
from unipot.workflows.finetuning.distillation.delta_learning import knowing_head, of_difference
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.search.fold_models import FoldModel, FoldModels
from unipot.workflows.finetuning.search.trials import Fold
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.compose import load_config
from unipot.zoo.artifact import load_artifact, load_potential
from unipot.zoo.card import read_card
from unipot.zoo.sample import DIFFERENCES, sample_of

pytest.importorskip("tblite", reason="tblite is the teacher")
DISTILLATION = (
    "teacher.method=gfn2-xtb", "teacher.frames=20", "teacher.steps_before=5", "teacher.steps_between=3", "teacher.max_steps=10",
    "teacher.own_steps=4", "teacher.known_steps=40", "teacher.known_rate=0.5",
)  # fmt: skip
SEARCH = ("small_data=auto", "small_data.folds=2", "schedule.max_steps=8", "uncertainty=last-layer")


def less_xtb(frames):
    """`frames` with the energies and forces of GFN2-xTB taken off."""
    found = []
    for frame in frames:
        teacher = frame.copy()
        teacher.calc = xtb("GFN2-xTB")()
        less = frame.copy()
        less.info["energy"] = frame.get_potential_energy() - teacher.get_potential_energy()
        less.arrays["forces"] = frame.get_forces() - teacher.get_forces()
        found.append(less)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("known")
    write(folder / "mine.extxyz", methanol(8))
    write(folder / "less.extxyz", less_xtb(methanol(30, seed=5)))
    return {"folder": folder, "checkpoint": parent_with_differences(folder / "pretrain", toy_data, folder / "less.extxyz")}


@pytest.fixture(scope="module")
def run(files):
    folder = files["folder"] / "run"
    assert run_finetune(files, folder, *DISTILLATION, *SEARCH) == 0
    return folder


def facts_of(run):
    return load_artifact(run / "best.safetensors").card["finetune"]["teacher"]


def test_the_checkpoint_carries_the_differences_that_it_was_trained_on(files):
    (carried,) = sample_of(read_card(files["checkpoint"]), DIFFERENCES)
    assert (carried.dataset, carried.head, len(carried.structures)) == ("less", "less", 27)  # a tenth of thirty is held out


def test_they_are_replayed_with_the_labels_that_they_had(files, run):
    (path,) = (run / "data").glob("known-less-*.unipot")
    (carried,) = sample_of(read_card(files["checkpoint"]), DIFFERENCES)
    for ours, theirs in zip(Store(path), carried.structures, strict=True):
        np.testing.assert_array_equal(ours.labels["forces"], theirs.labels["forces"])
        np.testing.assert_array_equal(ours.labels["energy"], theirs.labels["energy"])
    assert facts_of(run)["n_known"] == 27


def test_the_training_beside_them_is_the_one_candidate_and_its_folds_calibrate_the_error_bars(run):
    card = load_artifact(run / "best.safetensors").card
    trials = card["finetune"]["small_data"]["trials"]
    assert [(trial["candidate"], trial["fold"], trial["steps"]) for trial in trials] == [
        ("beside known differences", 0, 20), ("beside known differences", 1, 20),
    ]  # fmt: skip
    assert card["uncertainty"]["calibration"] == "calibrated out of fold on 8 frames of 2 folds"
    assert facts_of(run)["steps"] == [40]


def test_the_start_is_kept_where_training_beside_them_is_worse(files, tmp_path):
    assert run_finetune(files, tmp_path / "run", *DISTILLATION, *SEARCH, "teacher.known_rate=50") == 0
    card = load_artifact(tmp_path / "run" / "best.safetensors").card
    assert card["finetune"]["small_data"]["choice"]["candidate"] is None and facts_of(tmp_path / "run")["steps"] == [0]
    assert card["uncertainty"]["calibration"] == "calibrated out of fold on 8 frames of 2 folds"


def test_models_of_folds_where_nothing_was_trained_are_the_start_of_the_difference():
    """Not the result of the run, which predicts labels."""
    fold = Fold(training=np.arange(2), store=None, held_out=np.arange(2, 4))
    folds = FoldModels(models=(FoldModel(fold=fold, path=Path("best.safetensors")),), start_has_seen=False)
    kept = of_difference(folds, "the difference", Path("difference.safetensors"))
    assert [model.path for model in kept.models] == [Path("difference.safetensors")] and kept.dataset == "the difference"
    assert of_difference(folds, "the difference", None).models == folds.models


@pytest.mark.parametrize(("left", "head"), [(0.49, "less"), (0.51, None)])
def test_only_a_head_that_leaves_less_than_half_of_the_difference_has_its_training_set_learned_beside_it(left, head):
    (frame,) = less_xtb(methanol(1))
    structure = Structure.from_ase(frame).with_labels(forces=frame.arrays["forces"])
    dataset = SimpleNamespace(store=[structure], train_indices=np.arange(1))
    size = float(np.abs(frame.arrays["forces"]).mean())
    assert knowing_head(SimpleNamespace(parent="less", scores=[SimpleNamespace(force_mae=left * size)]), dataset) == head
    assert knowing_head(SimpleNamespace(parent="less", scores=[]), dataset) is None


def test_a_share_of_zero_learns_the_difference_from_the_frames_alone(files, tmp_path, capsys):
    assert run_finetune(files, tmp_path / "run", *DISTILLATION, "teacher.known_share=0") == 0
    said = capsys.readouterr().out
    assert "starts from head 'less'" in said and "learned beside" not in said
    assert facts_of(tmp_path / "run")["n_known"] == 0 and facts_of(tmp_path / "run")["steps"] == [4]


def test_a_model_of_the_difference_is_another_with_other_known_ones(files, tmp_path):
    """Without small-data mode too: the same number of steps on the frames alone ends elsewhere."""
    ends = []
    for name, share in (("with", 0.5), ("without", 0.0)):
        assert run_finetune(files, tmp_path / name, *DISTILLATION, f"teacher.known_share={share}", "teacher.known_steps=4") == 0
        ends.append(load_potential(tmp_path / name / "difference.safetensors").state_dict())
    assert any((ends[0][key] != value).any() for key, value in ends[1].items() if hasattr(value, "any"))


def test_a_run_that_is_continued_does_not_learn_the_difference_again(files, run):
    before = (run / "difference.safetensors").stat().st_mtime_ns
    (run / "best.safetensors").unlink()
    assert run_finetune(files, run, *DISTILLATION, *SEARCH) == 0
    assert (run / "difference.safetensors").stat().st_mtime_ns == before


def test_a_fine_tuned_model_still_carries_them(files, run):
    assert read_card(run / "best.safetensors")[DIFFERENCES] == read_card(files["checkpoint"])[DIFFERENCES]


def test_a_checkpoint_without_them_is_learned_as_before(files, tmp_path, toy_data, capsys):
    bare = parent_with_differences(tmp_path / "bare", toy_data, files["folder"] / "less.extxyz", "sample_differences=0")
    assert DIFFERENCES not in read_card(bare)
    assert run_finetune({**files, "checkpoint": bare}, tmp_path / "run", *DISTILLATION) == 0
    assert facts_of(tmp_path / "run")["n_known"] == 0


def test_carried_structures_without_labels_are_not_learned(files, tmp_path, monkeypatch):
    card = json.loads(json.dumps(read_card(files["checkpoint"])))
    for entry in card[DIFFERENCES][0]["structures"][5:]:
        del entry["forces"]
    monkeypatch.setattr(delta_replay, "read_card", lambda path: card)
    config = load_config("finetune", FinetuneConfig, [f"checkpoint={files['checkpoint']}", "data=mine"])
    run, console = RunFolder(tmp_path, resume=False), Console(quiet=True)
    context = FinetuneContext(config=config, run=run, cache=tmp_path, budget=config.mixture, console=console)
    (found,) = delta_replay.delta_replay_sets(context, load_potential(files["checkpoint"]), "less")
    assert len(found.store) == 5
    for entry in card[DIFFERENCES][0]["structures"]:
        entry.pop("energy")
    assert delta_replay.delta_replay_sets(context, load_potential(files["checkpoint"]), "less") == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("teacher.known_share=1.0", "teacher.known_share is 1.0; it must be at least 0 (none) and below 1"),
        ("teacher.known_share=-0.1", "teacher.known_share is -0.1; it must be at least 0 (none) and below 1"),
        ("teacher.known_steps=0", "teacher.known_steps is 0; it must be positive"),
        ("teacher.known_rate=0.0", "teacher.known_rate is 0.0; it must be positive"),
    ],
)
def test_an_option_outside_its_range_is_refused(files, tmp_path, capsys, override, said):
    assert run_finetune(files, tmp_path / "run", *DISTILLATION, override) == 2
    assert said in capsys.readouterr().err
