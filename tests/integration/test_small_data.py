"""Small-data mode through the command line: what is tried, chosen, kept, and left to the user."""

import json

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main
from unipot.training.metrics_log import read_metrics
from unipot.workflows.finetuning.search.trials import TrialRunner
from unipot.zoo.artifact import load_artifact, load_potential


def frames(n, seed, same=False):
    """Distorted methanol labelled by EMT; `same`: one geometry over and over."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("CH3OH")
        atoms.positions += 0.0 if same else 0.06 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() - 7.25 * len(atoms), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("small-data")
    for name, made in {"many": frames(24, 1), "few": frames(12, 4), "one": frames(1, 2), "same": frames(6, 3, same=True)}.items():
        write(folder / f"{name}.extxyz", made)
    run = folder / "pretrain"
    arguments = [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false", "schedule.max_steps=8",
        f"datasets.molecules.path={toy_data['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules",
    ]  # fmt: skip
    assert main(arguments) == 0
    return {"folder": folder, "checkpoint": run / "last.safetensors"}


CANDIDATES = ("configured", "muon-5e-3", "muon-1e-3", "adamw-1e-3", "heads-only")
#: two candidates, one of which the rate alone makes worse than the start
SMALL = (
    *(f"small_data.candidates.{name}=null" for name in CANDIDATES if name != "muon-5e-3"),
    "small_data.candidates.wild.optimizer.learning_rate=10.0", "small_data.search_budget=4", "small_data.from_scratch=never",
)  # fmt: skip
#: a rate that twelve frames and eight steps gain by
FEW = (*SMALL, "small_data.candidates.muon-5e-3.optimizer.learning_rate=1.0e-2")


def words(files, run, *overrides, data="many"):
    return [
        "finetune", f"checkpoint={files['checkpoint']}", f"data={files['folder'] / data}.extxyz", f"run={files['folder'] / run}",
        "trainer.threads=1", "trainer.progress=false", "trainer.validate_every=4", "teacher.method=none", *overrides,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The length of a run in a file would be the user's statement, so the shipped one is changed where it is composed."""
    patch = pytest.MonkeyPatch()
    import unipot.workflows.settings.compose as compose

    composed = compose._composed

    def shortened(verb, choices):
        config = composed(verb, choices)
        if verb == "finetune":
            config.schedule.max_steps = 8
        return config

    patch.setattr(compose, "_composed", shortened)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(files, short):
    folder = files["folder"] / "searched"
    assert main(words(files, "searched", *SMALL)) == 0
    return folder


def report_of(run):
    return json.loads((run / "small_data.json").read_text())


def test_the_better_candidate_is_chosen_and_trained_on_all_frames(run):
    summary, found = json.loads((run / "finetune_summary.json").read_text()), report_of(run)
    assert found["choice"]["candidate"] == "muon-5e-3"
    assert (summary["n_training"], summary["n_validation"]) == (24, 0)
    assert summary["n_steps"] == found["choice"]["steps"]


def test_the_budget_is_kept(run):
    found = report_of(run)
    assert sum(trial["steps"] for trial in found["trials"]) <= found["budget"] == 32


def test_what_was_tried_is_in_the_card_and_in_the_report(run, tmp_path):
    card = load_artifact(run / "best.safetensors").card["finetune"]["small_data"]
    assert {trial["candidate"] for trial in card["trials"]} == {"muon-5e-3", "wild"}
    assert main(["report", f"finetune_runs=[{run}]", f"output={tmp_path / 'r.html'}"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Small-data mode: errors on held-out frames" in page and "wild" in page


def test_a_killed_search_goes_on_with_its_finished_trials_and_chooses_the_same(files, short, run, monkeypatch):
    train, calls = TrialRunner._train, []

    def killed_at_the_third(self, *arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(self, *arguments)

    monkeypatch.setattr(TrialRunner, "_train", killed_at_the_third)
    try:
        main(words(files, "killed", *SMALL))
    except KeyboardInterrupt:
        pass
    assert not (files["folder"] / "killed" / "small_data.json").exists()
    assert main(words(files, "killed", *SMALL)) == 0
    assert len(calls) == 1 + len(report_of(run)["trials"])
    assert report_of(files["folder"] / "killed")["choice"] == report_of(run)["choice"]
    old, new = (load_potential(folder / "best.safetensors").state_dict() for folder in (run, files["folder"] / "killed"))
    assert all(torch.equal(value, new[name]) for name, value in old.items())


def test_the_start_is_kept_where_no_candidate_is_better(files, short):
    wild = [*SMALL, "small_data.candidates.muon-5e-3=null"]
    assert main(words(files, "kept", *wild)) == 0
    run = files["folder"] / "kept"
    assert report_of(run)["choice"]["candidate"] is None
    assert json.loads((run / "finetune_summary.json").read_text())["n_steps"] == 0
    old, new = (load_potential(path) for path in (files["checkpoint"], run / "best.safetensors"))
    for name, value in old.backbone.state_dict().items():
        assert torch.equal(value, new.backbone.state_dict()[name])


def test_stated_options_are_not_searched(files):
    stated = ("schedule.max_steps=6", "optimizer.learning_rate=1.0e-3", "finetune=heads-only")
    assert main(words(files, "stated", *stated, "small_data.search_budget=6")) == 0
    run = files["folder"] / "stated"
    found = report_of(run)
    assert found["stated"] == ["finetune", "optimizer.learning_rate", "schedule.max_steps"]
    assert {trial["candidate"] for trial in found["trials"]} == {"configured", "adamw-1e-3"}
    assert json.loads((run / "finetune_summary.json").read_text())["n_steps"] == 6


@pytest.fixture(scope="module")
def few(files, short):
    """Twelve frames, everything else by default but for the candidates."""
    folder = files["folder"] / "few"
    assert main(words(files, "few", *FEW, data="few")) == 0
    assert report_of(folder)["choice"]["candidate"] == "muon-5e-3"
    return folder


def error_bars_of(run):
    return load_artifact(run / "best.safetensors").card["uncertainty"]


def test_nothing_is_held_out_and_error_bars_are_calibrated_out_of_fold(few):
    summary, found = json.loads((few / "finetune_summary.json").read_text()), error_bars_of(few)
    assert (summary["n_training"], summary["n_validation"]) == (12, 0)
    assert found["calibration"] == "calibrated out of fold on 12 frames of 3 folds"
    assert (found["n_frames"], found["energy"]["n"]) == (12, 12)


def test_only_models_of_the_chosen_candidate_are_kept(few):
    assert len(list((few / "small_data_folds").iterdir())) == 3


def test_a_run_that_is_continued_finds_the_models_of_its_folds(files, few):
    before = error_bars_of(few)
    (few / "best.safetensors").unlink()  # as if killed between training and error bars
    assert main(words(files, "few", *FEW, data="few")) == 0
    assert error_bars_of(few) == before


def test_a_longer_training_that_pays_is_what_is_trained_and_calibrated(files, short):
    """Eight steps have hardly begun, so that three times as many are better on every fold."""
    assert main(words(files, "longer", *FEW, "small_data.search_budget=20", "small_data.longer=3", data="few")) == 0
    run = files["folder"] / "longer"
    found = report_of(run)
    assert [(trial["fold"], trial["steps"]) for trial in found["trials"][-3:]] == [(0, 24), (1, 24), (2, 24)]
    assert (found["choice"]["steps"], json.loads((run / "finetune_summary.json").read_text())["n_steps"]) == (24, 24)
    assert error_bars_of(run)["calibration"] == "calibrated out of fold on 12 frames of 3 folds"
    assert len(list((run / "small_data_folds").iterdir())) == 3


def test_models_of_folds_that_are_gone_are_said_and_done_without(files, few, capsys):
    (few / "best.safetensors").unlink()
    for path in (few / "small_data_folds").iterdir():
        path.unlink()
    assert main(words(files, "few", *FEW, data="few")) == 0
    assert "3 of 3 models of the folds are not in" in " ".join(capsys.readouterr().out.split())
    assert error_bars_of(few)["calibrated_on"] == "left-out"


def test_a_start_that_is_kept_is_calibrated_on_all_folds(files, short):
    assert main(words(files, "kept-few", *SMALL, "small_data.candidates.muon-5e-3=null", data="few")) == 0
    assert report_of(files["folder"] / "kept-few")["choice"]["candidate"] is None
    assert error_bars_of(files["folder"] / "kept-few")["calibration"] == "calibrated out of fold on 12 frames of 3 folds"


def test_frames_are_held_out_where_that_is_asked_for(files, short):
    assert main(words(files, "asked", *SMALL, "validation_fraction=0.2")) == 0
    run = files["folder"] / "asked"
    assert json.loads((run / "finetune_summary.json").read_text())["n_validation"] == 5
    assert {trial["fold"] for trial in report_of(run)["trials"]} == {0}
    assert error_bars_of(run)["calibrated_on"] == "held-out"
    assert not (run / "small_data_folds").exists()


@pytest.mark.parametrize(("data", "sentence"), [("one", "1 frames are too few"), ("same", "1 frames are too few")])
def test_frames_that_cannot_be_split_are_trained_on_as_configured(files, data, sentence, capsys, short):
    assert main(words(files, f"unsplit-{data}", data=data)) == 0
    assert sentence in capsys.readouterr().out
    assert not (files["folder"] / f"unsplit-{data}" / "small_data.json").exists()


def test_a_budget_too_small_for_a_search_is_said_and_trains_as_configured(files, capsys):
    assert main(words(files, "tiny", "schedule.max_steps=1", "small_data.search_budget=4")) == 0
    assert "allows 4 steps, but 5 candidates on 3 folds need at least 11" in " ".join(capsys.readouterr().out.split())
    assert not (files["folder"] / "tiny" / "small_data.json").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["small_data.candidates.mine.optimizer.rate=1"], "small_data.candidates.mine: option 'optimizer.rate' is not known"),
        (["small_data.candidates.mine.schedule.max_steps=1"], "small_data.candidates.mine: option 'schedule' is not known"),
        (["small_data.candidates.mine=muon"], "'muon' is not a mapping"),
        (["small_data.candidates.mine.optimizer.learning_rate=-1"], "small_data.candidates.mine: optimizer.learning_rate is -1"),
        (["small_data=on", "small_data.search_budget=0.001"], "small_data.search_budget allows"),
        (["small_data.folds=1"], "small_data.folds is 1; give at least 2"),
        ([*(f"small_data.candidates.{name}=null" for name in CANDIDATES)], "small_data.candidates is empty"),
        (["trainer.patience=0"], "trainer.patience is 0; it must be at least 1"),
        (["small_data=on", "trainer.devices=2"], "small_data=on searches in one process"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(files, overrides, sentence, capsys):
    assert main(words(files, "refused", *overrides)) == 2
    captured = capsys.readouterr()
    assert sentence in " ".join((captured.out + captured.err).split())


def test_training_that_stopped_early_is_not_continued(files, capsys):
    """A rate that only makes it worse: stopped at the second validation without gain, also when run again."""
    stop = ("small_data=off", "schedule.max_steps=20", "optimizer.learning_rate=10.0", "trainer.patience=2")
    assert main(words(files, "stopped", *stop)) == 0
    run = files["folder"] / "stopped"
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped at step 8: the held-out error has not fallen for 2 validations; best at step 0" in said
    before = (run / "last.safetensors").read_bytes()
    assert main(words(files, "stopped", *stop)) == 0
    assert "stopped at step 8" in capsys.readouterr().out
    assert (run / "last.safetensors").read_bytes() == before
    assert max(int(row["step"]) for row in read_metrics(run / "metrics.csv")) == 8


def test_random_weights_take_part_where_no_head_follows_the_forces_and_are_kept_where_they_win(files, short, capsys):
    turned = frames(12, 5)
    for atoms in turned:
        atoms.calc.results |= {"energy": -atoms.calc.results["energy"], "forces": -atoms.calc.results["forces"]}
    write(files["folder"] / "turned.extxyz", turned)
    options = [option for option in FEW if "from_scratch" not in option]
    assert main(words(files, "turned", *options, "check_labels=false", data="turned")) == 0
    found, card = report_of(files["folder"] / "turned"), load_artifact(files["folder"] / "turned" / "best.safetensors").card
    assert "random weights are one more candidate" in " ".join(capsys.readouterr().out.split())
    assert {trial["candidate"] for trial in found["trials"]} == {"muon-5e-3", "wild", "from-scratch"}
    assert (found["choice"]["candidate"] == "from-scratch") == (card["finetune"].get("method") == "from scratch")


def test_frames_that_were_trained_on_are_not_evaluated_as_validation(run, capsys):
    assert main(["evaluate", f"checkpoint={run / 'best.safetensors'}"]) == 2
    assert "has no validation data; add data=" in capsys.readouterr().err
