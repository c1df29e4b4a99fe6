"""A run that is killed and continued ends with the same weights, bit for bit, as one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unipot.training.metrics_log import read_metrics

#: (workers, step after which the kill comes); the run state is written every 5 steps, so work is lost and done again
KILLS = [(2, 6, False), (2, 27, False), (0, 19, False), pytest.param(0, 19, True, marks=pytest.mark.nightly)]

#: a compiled run takes minutes before its first step
SECONDS = 500


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "unipot.cli", "pretrain", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*words: str) -> None:
    process = start(*words)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output


def last_step(run: Path) -> int:
    rows = read_metrics(run / "metrics.csv")
    return int(rows[-1]["step"]) if rows and (rows[-1]["step"] or "").isdigit() else 0


def kill_after(step: int, run: Path, *words: str) -> None:
    process = start(f"run={run}", *words)
    deadline = time.monotonic() + SECONDS
    while last_step(run) < step:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(("workers", "step", "compiled"), KILLS)
def test_killed_run_ends_with_the_same_weights(tmp_path, smoke_overrides, workers, step, compiled):
    words = [*smoke_overrides, f"trainer.workers={workers}", "schedule.max_steps=40", f"trainer.compile={str(compiled).lower()}"]
    check_killed_run(tmp_path, words, step)


def test_killed_run_from_a_checkpoint_ends_with_the_same_weights(tmp_path, smoke_overrides):
    finish(f"run={tmp_path / 'parent'}", *smoke_overrides, "schedule.max_steps=3")
    words = [*smoke_overrides, "schedule.max_steps=40", f"start_from={tmp_path / 'parent' / 'last.safetensors'}", "seed=1"]
    check_killed_run(tmp_path, words, 13)


def check_killed_run(tmp_path: Path, words: list[str], step: int) -> None:
    """A run of 40 steps, killed after `step` and continued, against one that was not."""
    whole = start(f"run={tmp_path / 'whole'}", *words)
    kill_after(step, tmp_path / "killed", *words)
    state = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["global_step"] < 40, "the run was not interrupted"
    finish(f"resume={tmp_path / 'killed'}")
    output, _ = whole.communicate(timeout=SECONDS)
    assert whole.returncode == 0, output
    whole, killed = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "killed"))
    assert whole["global_step"] == killed["global_step"] == 40
    assert all(torch.equal(value, killed["state_dict"][name]) for name, value in whole["state_dict"].items())
    shadow = killed["weight_average"]["shadow"]
    assert all(torch.equal(value, shadow[name]) for name, value in whole["weight_average"]["shadow"].items())
    assert rows_without_time(tmp_path / "whole") == rows_without_time(tmp_path / "killed")


def rows_without_time(run: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "atoms_per_second"} for row in read_metrics(run / "metrics.csv")]
