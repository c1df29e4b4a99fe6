"""Whose a run folder is, which run may be continued in it, and what is told where it may not."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unipot.training.checkpoint import LAST, PREVIOUS, keep_run_state
from unipot.workflows.runs.origin import Origin, settings_fingerprint
from unipot.workflows.runs.ownership import LOCK, own_folder, release_folders
from unipot.workflows.runs.run_folder import open_run_folder, read_json, write_json
from unipot.workflows.settings.compose import RESOLVED_CONFIG, load_config, to_yaml
from unipot.workflows.settings.schema import PretrainConfig

WORDS = ["datasets.a.path=a.extxyz", "datasets.a.level_of_theory=PBE"]


@pytest.fixture(autouse=True)
def released():
    """The lock of this process is given back after a test."""
    yield
    release_folders()


@cache
def loaded(*words: str) -> PretrainConfig:
    return load_config("pretrain", PretrainConfig, ["run=somewhere", *WORDS, *words])


def config_of(folder: Path, *words: str) -> PretrainConfig:
    return replace(loaded(*words), run=str(folder / "run"))


def opened(folder: Path, *words: str, resume: str = "auto"):
    config = config_of(folder, *words)
    return open_run_folder(config.run, resume=resume, config=config)


def dataset(content: str = "one", name: str = "a"):
    """As much of an open dataset as tells what it holds."""
    store, spec = SimpleNamespace(metadata={"content_hash": content}), SimpleNamespace(name=name)
    return SimpleNamespace(spec=spec, store=store, validation_store=store, train_indices=[0, 1], validation_indices=[2])


def add_state(folder: Path, step: int = 5, origin: Origin | None = None) -> None:
    """A run state as a run saves it; without an origin as one of an earlier version."""
    state = {"state_dict": {}, "optimizer_states": [], "weight_average": {}, "random_state": {}, "global_step": step}
    temporary = folder / "run" / LAST.with_suffix(".partial")
    torch.save(state | ({"origin": origin.to_dict()} if origin else {}), temporary)
    keep_run_state(temporary, folder / "run")


def begin(folder: Path, *words: str) -> None:
    """A run that has saved its first state."""
    run = opened(folder, *words)
    run.claim([dataset()])
    add_state(folder, origin=run.origin)
    (run.best).write_bytes(b"weights")


def test_run_is_continued(tmp_path):
    begin(tmp_path)
    run = opened(tmp_path)
    run.claim([dataset()])
    assert (run.resume, run.step, run.resume_from) == (True, 5, tmp_path / "run" / LAST)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("optimizer.learning_rate=0.01", "optimizer.learning_rate=0.005, now it is 0.01"),
        ("trainer.dtype=float64", "trainer.dtype=float32, now it is float64"),
        ("trainer.patience=3", "trainer.patience=None, now it is 3"),
        ("trainer.selection.statistic=rmse", "trainer.selection.statistic=mae, now it is rmse"),
        ("trainer.validate_every=7", "trainer.validate_every="),
        ("trainer.matmul_precision=high", "trainer.matmul_precision=highest, now it is high"),
        ("seed=3", "seed=0, now it is 3"),
        ("heads.references.a.mode=none", "heads.references.a.mode=None, now it is none"),
    ],
)
def test_setting_that_changes_weights_is_another_run(tmp_path, changed, said):
    begin(tmp_path)
    with pytest.raises(ValueError, match="was started with " + said.replace(".", r"\.")) as refused:
        opened(tmp_path, changed)
    assert "run=..." in str(refused.value) and "resume=fresh" in str(refused.value)


@pytest.mark.parametrize("changed", ["trainer.devices=2", "trainer.workers=3", "trainer.checkpoint_every=7", "logger.wandb=true"])
def test_setting_that_changes_no_weights_may_change(tmp_path, changed):
    begin(tmp_path)
    assert opened(tmp_path, changed).resume


def test_settings_of_the_state_count_and_not_the_file_that_anybody_may_edit(tmp_path):
    begin(tmp_path)
    (tmp_path / "run" / RESOLVED_CONFIG).write_text(to_yaml(config_of(tmp_path, "seed=3")))
    assert opened(tmp_path).resume


def test_other_checkpoint_under_the_same_path_is_another_run(tmp_path):
    (tmp_path / "parent.safetensors").write_bytes(b"one")
    begin(tmp_path, f"start_from={tmp_path / 'parent.safetensors'}")
    (tmp_path / "parent.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"parent.safetensors is not the one that .* \(SHA-256 7692c3ad3540, now 3fc4ccfe7458\)"):
        opened(tmp_path, f"start_from={tmp_path / 'parent.safetensors'}")


def test_other_data_under_the_same_path_are_another_run(tmp_path):
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"labels of dataset 'a' are not those .* \(digest \w+, now \w+\)"):
        opened(tmp_path).claim([dataset("two")])


def test_dataset_less_is_another_run(tmp_path):
    begin(tmp_path)
    with pytest.raises(ValueError, match="dataset 'a' are not those .* now none"):
        opened(tmp_path).claim([])


def test_file_made_from_another_checkpoint_is_made_again(tmp_path):
    """Models and stores in a run folder that are used again carry this fingerprint."""
    (tmp_path / "parent.safetensors").write_bytes(b"one")
    config = config_of(tmp_path, f"start_from={tmp_path / 'parent.safetensors'}")
    before = settings_fingerprint(config)
    assert settings_fingerprint(replace(config, run="elsewhere")) == before
    (tmp_path / "parent.safetensors").write_bytes(b"other")
    assert settings_fingerprint(config) != before


def test_weights_of_a_run_killed_before_its_first_state_go_to_no_other_run(tmp_path):
    opened(tmp_path).claim([dataset()])
    (tmp_path / "run" / "best.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match="was started with seed=0, now it is 3"):
        opened(tmp_path, "seed=3")
    with pytest.raises(ValueError, match="dataset 'a' are not those"):
        opened(tmp_path).claim([dataset("two")])
    run = opened(tmp_path)
    run.claim([dataset()])
    assert not run.resume


def test_weights_of_nobody_knows_which_run_are_not_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match="best.safetensors is there, but nothing says which run it is of"):
        opened(tmp_path)


def test_run_that_left_no_weights_stands_in_nobodys_way(tmp_path):
    opened(tmp_path)
    assert not opened(tmp_path, "seed=3").resume


@pytest.mark.parametrize("left", ["state", "weights"])
def test_run_is_not_touched_with_never(tmp_path, left):
    begin(tmp_path)
    (tmp_path / "run" / (LAST if left == "weights" else "best.safetensors")).unlink()
    with pytest.raises(FileExistsError, match="there is a run already"):
        opened(tmp_path, resume="never")


def test_fresh_moves_the_run_aside_and_leaves_its_data(tmp_path):
    begin(tmp_path)
    (tmp_path / "run" / "data").mkdir()
    run = opened(tmp_path, "seed=3", resume="fresh")
    assert not run.resume and not run.best.exists() and not (run.path / LAST).exists()
    assert (run.path / "replaced-1" / "best.safetensors").read_bytes() == b"weights" and (run.path / "replaced-1" / LAST).is_file()
    assert (run.path / "data").is_dir() and "seed: 3" in (run.path / RESOLVED_CONFIG).read_text()


def test_job_that_slurm_starts_again_goes_on_although_it_was_to_start_over_at_first(tmp_path, monkeypatch):
    begin(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert opened(tmp_path, resume="fresh").resume


def test_run_of_an_earlier_version_is_continued_with_a_warning(tmp_path, capsys):
    opened(tmp_path)
    add_state(tmp_path)
    config = tmp_path / "run" / RESOLVED_CONFIG
    old = config.read_text()
    for line in ("  references: {}\n", "    energy_kind: null\n", "  frozen_atoms: exclude\n"):  # options that there were not
        assert line in old
        old = old.replace(line, "")
    config.write_text(old)
    assert opened(tmp_path).resume
    assert "did not record the content of checkpoint and data" in " ".join(capsys.readouterr().out.split())


def test_run_of_an_earlier_version_with_other_settings_is_refused(tmp_path):
    opened(tmp_path)
    add_state(tmp_path)
    config = tmp_path / "run" / RESOLVED_CONFIG
    config.write_text(config.read_text().replace("  frozen_atoms: exclude\n", ""))
    with pytest.raises(ValueError, match="was started with loss.frozen_atoms=exclude, now it is include"):
        opened(tmp_path, "loss.frozen_atoms=include")


def test_damaged_state_gives_way_to_the_one_before_it(tmp_path, capsys):
    begin(tmp_path)
    add_state(tmp_path, step=10, origin=Origin.of(config_of(tmp_path)))
    last = tmp_path / "run" / LAST
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    run = opened(tmp_path)
    assert (run.resume, run.step, run.resume_from) == (True, 5, tmp_path / "run" / PREVIOUS)
    said = " ".join(capsys.readouterr().out.split())
    assert "last.ckpt: the run state is truncated or damaged" in said and "goes on from the state before it, of step 5" in said


def test_damage_of_every_state_is_named(tmp_path):
    begin(tmp_path)
    (tmp_path / "run" / LAST).write_bytes(b"PK")
    with pytest.raises(ValueError, match="last.ckpt: the run state is truncated or damaged.*resume=fresh"):
        opened(tmp_path)


def test_second_process_is_told_who_owns_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    held = "import sys; from pathlib import Path; from unipot.workflows.runs.ownership import own_folder\n"
    held += "own_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", held, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FileExistsError, match=rf"another process writes into this folder \(process {other.pid} on \S+, since 20"):
            opened(tmp_path)
        other.kill()
        other.communicate()
    assert not opened(tmp_path).resume
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] != other.pid


def test_forked_process_does_not_keep_the_folder(tmp_path):
    """Processes that load data outlive a killed trainer by seconds."""
    (tmp_path / "run").mkdir()
    held = "import os, sys; from pathlib import Path; from unipot.workflows.runs.ownership import own_folder\n"
    held += "own_folder(Path(sys.argv[1]))\nif os.fork() == 0:\n    print('forked', flush=True); sys.stdin.read()\n"
    command = [sys.executable, "-c", held, tmp_path / "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "forked\n"
        assert other.wait(30) == 0
        own_folder(tmp_path / "run")


def test_damaged_json_is_named(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    (tmp_path / "x.json").write_bytes(b'{"a": \xff')
    with pytest.raises(ValueError, match="x.json: damaged"):
        read_json(tmp_path / "x.json")
