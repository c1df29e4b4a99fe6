"""A process of a run that is killed from outside is told in one sentence, and the run does not look like a success."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unipot.training.metrics_log import read_metrics

SECONDS = 300


def children(process: int) -> list[int]:
    """Processes that `process` has started, whichever of its threads did."""
    return [int(child) for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()]


def started(run: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "unipot.cli", "pretrain", f"run={run}", *words, "schedule.max_steps=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + SECONDS
    while len(read_metrics(run / "metrics.csv")) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    return process


def errors_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("unipot: error: ")]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children of a process are looked up in /proc")
def test_killed_process_that_loads_data_is_named(tmp_path, smoke_overrides):
    process = started(tmp_path / "run", *smoke_overrides, "trainer.workers=1")
    worker = children(process.pid)[-1]
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "Traceback" not in output
    # a worker that was handing over a batch is a connection that ends, without its number
    assert re.match(rf"unipot: error: a process that loads data (\(pid {worker}\) |is gone \()", errors_of(output)[0])


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children of a process are looked up in /proc")
def test_killed_rank_is_told_by_the_one_that_is_left(tmp_path, smoke_overrides):
    process = started(tmp_path / "run", *smoke_overrides, "trainer.devices=2", "trainer.strategy=ddp")
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "Traceback" not in output
    assert errors_of(output)[0].startswith("unipot: error: another process of this run is gone (Connection ")


@pytest.mark.distributed
def test_signal_to_one_rank_ends_all_of_them_after_the_same_step(tmp_path, smoke_overrides):
    words = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.checkpoint_every=100000", "trainer.validate_every=100000"]
    process = started(tmp_path / "run", *smoke_overrides, *words)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output
    assert "Traceback" not in output and output.count("unipot: ended by SIGUSR1: the run state of step") == 1
