"""The shipped smoke experiment, start to end."""

import json
import re

import pytest
import torch

from unipot.cli import main
from unipot.data.mixture.datamodule import evaluation_batches
from unipot.data.mixture.splits import split
from unipot.data.spec import SplitSpec
from unipot.data.store import Store
from unipot.training.metrics import evaluate
from unipot.training.metrics_log import read_metrics
from unipot.workflows.pretrain import pretrain
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import PretrainConfig
from unipot.zoo.artifact import load_artifact


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_data):
    """A finished smoke run with two heads: (folder, what it printed)."""
    run = tmp_path_factory.mktemp("run") / "a"
    words = [f"datasets.{name}.path={path}" for name, path in toy_data.items()]
    words += [f"datasets.{name}.level_of_theory=EMT-{name}" for name in toy_data]
    config = load_config("pretrain", PretrainConfig, [f"run={run}", "experiment=smoke", "trainer.threads=1", *words])
    return run, pretrain(config)


def test_everything_a_run_leaves_is_there(finished):
    run, result = finished
    for name in ("resolved_config.yaml", "metrics.csv", "checkpoints/last.ckpt", "best.safetensors", "last.safetensors"):
        assert (run / name).is_file(), name
    assert result.step == 20


def test_loss_falls_and_every_step_is_logged(finished):
    rows = read_metrics(finished[0] / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_run_state_is_read_without_pickle(finished):
    state = torch.load(finished[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 20 and state["weight_average"]["n_updates"] == 20


def test_artifact_has_averaged_weights_and_a_card(finished):
    run, _ = finished
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    artifact = load_artifact(run / "last.safetensors")
    weights = dict(artifact.potential.named_parameters())
    assert all(torch.equal(weights[name], shadow) for name, shadow in state["weight_average"]["shadow"].items())
    assert [item["name"] for item in artifact.card["datasets"]] == ["metals", "molecules"]
    assert artifact.potential.head_names == ("metals", "molecules")
    assert len(artifact.card["golden"]) >= 2
    references = json.loads((run / "references.json").read_text())
    assert artifact.card["references"] == references and references["metals"]["rank"] == 3
    assert references["metals"]["mode"] == "fit" and artifact.card["heads"]["metals"]["energy_kind"] == "total"


def test_artifact_reproduces_the_logged_validation_exactly(finished):
    run, _ = finished
    potential = load_artifact(run / "last.safetensors").potential
    logged = {key: float(value) for key, value in read_metrics(run / "metrics.csv")[-1].items() if key.startswith("validation/") and value}
    for index, name in enumerate(("metals", "molecules")):
        store = Store(next((run / "data").glob(f"{name}-*.unipot")))
        held_out = split(store, SplitSpec(fraction=0.1, seed=0))[1]
        batches = evaluation_batches(
            store, held_out, cutoff=potential.cutoff, head_index=index, dataset_index=0, max_atoms=512, max_edges=40000
        )
        for key, value in evaluate(potential, batches, [name]).flat().items():
            assert logged.pop(f"validation/{key}") == value, key
    assert set(logged) == {"validation/selection"}


def test_resolved_configuration_is_complete(finished):
    text = (finished[0] / "resolved_config.yaml").read_text()
    assert "???" not in text and "learning_rate: 0.005" in text


def test_finished_run_is_not_trained_again(finished, toy_data, smoke_overrides):
    files = [finished[0] / name for name in ("metrics.csv", "last.safetensors", "best.safetensors")]
    before = [path.read_bytes() for path in files]
    result = pretrain(load_config("pretrain", PretrainConfig, [f"resume={finished[0]}"]))
    assert result.step == 20 and [path.read_bytes() for path in files] == before


def test_continuing_with_other_settings_is_refused(finished, capsys):
    assert main(["pretrain", f"resume={finished[0]}", "optimizer.learning_rate=1.0"]) == 2
    assert "was started with optimizer.learning_rate=0.005, now it is 1.0" in capsys.readouterr().err


def test_continuing_with_other_frames_under_the_same_path_is_refused(tmp_path, toy_data, capsys):
    frames = tmp_path / "metals.extxyz"
    text = toy_data["metals"].read_text()
    frames.write_text(text)
    words = ["pretrain", f"run={tmp_path / 'run'}", "experiment=smoke", "schedule.max_steps=2", "trainer.threads=1"]
    words += [f"datasets.metals.path={frames}", "datasets.metals.level_of_theory=EMT"]
    assert main(words) == 0
    frames.touch()  # another date alone is not another content
    assert main(words) == 0
    weights = (tmp_path / "run" / "best.safetensors").read_bytes()
    energy = re.search(r"energy=(-?\d+\.\d)", text)
    frames.write_text(text.replace(energy[0], f"energy={float(energy[1]) + 1:.1f}", 1))
    capsys.readouterr()
    assert main(words) == 2
    assert "labels of dataset 'metals' are not those that the run in" in capsys.readouterr().err
    assert main([*words, "resume=fresh"]) == 0
    assert (tmp_path / "run" / "replaced-1" / "best.safetensors").read_bytes() == weights


def test_existing_run_is_not_touched_with_resume_never(finished, capsys):
    words = ["pretrain", f"run={finished[0]}", "resume=never", "datasets.a.path=a", "datasets.a.level_of_theory=b"]
    assert main(words) == 2
    assert "there is a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["datasets.metals.labels=[energy,forces,stress]", "datasets.molecules.labels=[stress]"], "no frame has the label key 'stress'"),
        (["datasets.molecules.head=metals"], "head 'metals' mixes levels of theory"),
        (["mixture.max_atoms=3"], "max_atoms"),
        (["datasets.metals.path=nowhere.extxyz"], "nowhere.extxyz"),
        (["datasets.metals.sources.energy.key=enregy", "datasets.metals.sources.energy.unit=eV"], "'enregy'"),
        (["datasets.metals.sources.energy.key=energy", "datasets.metals.sources.energy.unit=ev"], "unit 'ev'"),
        (["loss.dataset_weights.metal=2"], "names 'metal', which is not a dataset of this run"),
        (["loss.energy.weight=0", "loss.forces.weight=0", "loss.stress.weight=0"], "loss weight is above 0"),
        (["trainer.selection.property=force"], "trainer.selection.property is 'force'"),
        (["trainer.dtype=float16"], "trainer.dtype is 'float16'"),
        (["trainer.strategy=fsdp"], "second derivatives"),
        (["backbone.hyperparameters.n_chanels=8"], "n_channels"),
        (["mixture.temperature=0.5"], "temperature is 0.5"),
    ],
)
def test_misuse_is_refused_before_training(tmp_path, capsys, smoke_overrides, words, message):
    code = main(["pretrain", f"run={tmp_path / 'run'}", *smoke_overrides, *words])
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.startswith("unipot: error: ") and "Traceback" not in error
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_wandb_is_one_switch_and_works_offline(tmp_path, monkeypatch, smoke_overrides):
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [f"run={tmp_path / 'run'}", *smoke_overrides, "logger=wandb", "schedule.max_steps=2", "schedule.warmup_steps=0"]
    pretrain(load_config("pretrain", PretrainConfig, words))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 2


def test_two_datasets_may_share_a_head(tmp_path, toy_data):
    words = ["experiment=smoke", "trainer.threads=1", "schedule.max_steps=2", "schedule.warmup_steps=0", f"run={tmp_path / 'run'}"]
    for name in ("one", "two"):
        words += [f"datasets.{name}.path={toy_data['metals']}", f"datasets.{name}.level_of_theory=EMT", f"datasets.{name}.head=shared"]
    pretrain(load_config("pretrain", PretrainConfig, words))
    card = load_artifact(tmp_path / "run" / "best.safetensors").card
    assert list(card["heads"]) == ["shared"]
    assert json.dumps(card["datasets"]).count('"head": "shared"') == 2
