"""`scripts/benchmark_precision.py`: a run in few bits, and what few bits do to the model that it left."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_precision.py"


def script(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def test_a_run_in_few_bits_ends_well_and_errors_of_its_model_are_in_order(smoke_overrides, toy_data, tmp_path):
    run = tmp_path / "run"
    done = script("command", "high", "pretrain", *smoke_overrides, f"run={run}")
    assert done.returncode == 0, done.stderr
    done = script("errors", "--checkpoint", run / "best.safetensors", "--head", "metals", "--frames", toy_data["metals"], "--limit", "5")
    assert done.returncode == 0, done.stderr
    assert "5 frames of metals.extxyz" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "against" in line]
    forces = [float(line.split()[-2]) for line in lines]
    assert [line.split()[0] for line in lines] == ["float32", "high", "medium", "float64"]
    assert 0 <= forces[0] < 0.3 * forces[1] < 0.3 * forces[2] and forces[2] < forces[3]


def test_a_mistake_of_the_command_is_its_exit_status(tmp_path):
    done = script("command", "medium", "pretrain", "experiment=smoke", "trainer.threads=0", f"run={tmp_path / 'run'}")
    assert done.returncode == 2 and done.stderr.startswith("unipot: error: ")
