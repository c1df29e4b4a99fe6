"""Signals end a training after a step, with its state in the run folder; on SLURM nothing is read or written anywhere else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unipot.cli import main
from unipot.training.checkpoint import readable_run_state
from unipot.training.metrics_log import read_metrics

SECONDS = 300
#: what a task of a job sees that srun has started
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "unipot", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip


#: `python -m unipot.cli`, with Ctrl-C listened to even where the tests run in the background of a script, whose processes ignore it
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from unipot.cli import main
raise SystemExit(main())
"""
STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_left_running():
    """A test that fails leaves no training behind, which would slow down all that follow."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def start(folder: Path, *words: str, command: str = "pretrain", **environment: str) -> subprocess.Popen:
    """`unipot <command>` in a process group of its own, with `folder` as the current one."""
    folder.mkdir(exist_ok=True)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    called = [sys.executable, "-c", PROGRAM, command, *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    STARTED.append(subprocess.Popen(called, env=settings, cwd=folder, start_new_session=True, **streams))
    return STARTED[-1]


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    deadline = time.monotonic() + SECONDS
    while not any((row["step"] or "").isdigit() and int(row["step"]) >= step for row in read_metrics(run / "metrics.csv")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


def long(smoke_overrides: list[str], *words: str) -> list[str]:
    """A run that lasts until it is ended, with no state of its own accord before."""
    return [*smoke_overrides, "schedule.max_steps=100000", "trainer.checkpoint_every=100000", "trainer.validate_every=100000", *words]


@pytest.mark.parametrize(
    ("number", "code", "said", "workers"),
    [(signal.SIGUSR1, 75, "SIGUSR1", 2), (signal.SIGTERM, 143, "SIGTERM", 0), (signal.SIGINT, 130, "Ctrl-C", 2)],
)
def test_signal_saves_the_state_in_the_run_folder_and_is_told_by_the_exit_code(tmp_path, smoke_overrides, number, code, said, workers):
    """The signal goes to all processes, as from a terminal or SLURM; a job's current folder has a checkpoint of somebody else."""
    here, run = tmp_path / "here", tmp_path / "run"
    here.mkdir()
    torch.save({"state_dict": {}, "global_step": 99999}, here / "hpc_ckpt_1.ckpt")
    process = start(here, f"run={run}", *long(smoke_overrides, f"trainer.workers={workers}"), **SLURM)
    wait_for_step(process, run, 3)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == code, output + errors
    step = readable_run_state(run)[1]["global_step"]
    assert 3 <= step < 99999
    last = errors.strip().splitlines()[-1]
    assert last == f"unipot: ended by {said}: the run state of step {step} is saved in {run}; resume={run} goes on from there"
    assert "Traceback" not in output + errors
    assert sorted(path.name for path in here.iterdir()) == ["hpc_ckpt_1.ckpt"]


def test_run_ended_by_a_signal_ends_with_the_weights_of_one_that_was_not(tmp_path, smoke_overrides):
    words = [*smoke_overrides, "schedule.max_steps=150", "trainer.validate_every=50"]
    process = start(tmp_path, f"run={tmp_path / 'ended'}", *words)
    wait_for_step(process, tmp_path / "ended", 7)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    assert readable_run_state(tmp_path / "ended")[1]["global_step"] < 150
    assert main(["pretrain", f"resume={tmp_path / 'ended'}"]) == 0
    assert main(["pretrain", f"run={tmp_path / 'whole'}", *words]) == 0
    ended, whole = (readable_run_state(tmp_path / name)[1] for name in ("ended", "whole"))
    assert ended["global_step"] == whole["global_step"] == 150
    assert all(torch.equal(value, ended["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_second_ctrl_c_ends_at_once(tmp_path, smoke_overrides):
    """Each step has a batch that takes minutes, so that no step is over before."""
    words = long(smoke_overrides, "mixture.structures_per_step=20000", "mixture.max_atoms=200")
    process = start(tmp_path, f"run={tmp_path / 'run'}", *words)
    lines = []
    while not any("training 100000 steps" in line for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    assert re.search("Ctrl-C once more ends it at once", process.stderr.readline() + process.stderr.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "ended by Ctrl-C: no step is saved yet" in errors


def test_ctrl_c_before_the_training_says_what_is_kept(tmp_path, smoke_overrides):
    process = start(tmp_path, f"run={tmp_path / 'run'}", *smoke_overrides)
    while not (tmp_path / "run" / "resolved_config.yaml").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, output + errors
    assert f"what is finished before the training (data, labels, trials) is kept in {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors


def test_ctrl_c_in_a_search_keeps_its_finished_trials(tmp_path, toy_data, smoke_overrides):
    """Trials are trained in memory: they have no state to save, and Lightning would end them without a word."""
    assert main(["pretrain", f"run={tmp_path / 'parent'}", *smoke_overrides, "schedule.max_steps=2"]) == 0
    words = [f"checkpoint={tmp_path / 'parent' / 'last.safetensors'}", f"data={toy_data['metals']}", "small_data=on", "teacher.method=none"]
    words += [f"run={tmp_path / 'run'}", "trainer.threads=1", "trainer.progress=false"]
    process = start(tmp_path, *words, command="finetune")
    trials = tmp_path / "run" / "small_data_trials.json"
    while not trials.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, output + errors
    assert "ended by Ctrl-C: no step is saved yet" in errors and "Traceback" not in errors
    assert json.loads(trials.read_text())
