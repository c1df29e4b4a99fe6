"""Two processes make the same steps as one."""

import os
import subprocess
import sys

import pytest
import torch

from unipot.training.metrics_log import read_metrics
from unipot.workflows.pretrain import pretrain
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import PretrainConfig

pytestmark = pytest.mark.distributed


def two_ranks(*words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unipot.cli", "pretrain", *words, "trainer.devices=2", "trainer.strategy=ddp"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_two_ranks_train_as_one(tmp_path, smoke_overrides):
    words = [*smoke_overrides, "mixture.micro_batches_per_step=2", "trainer.dtype=float64", "schedule.max_steps=6"]
    pretrain(load_config("pretrain", PretrainConfig, [f"run={tmp_path / 'one'}", *words]))
    two_ranks(f"run={tmp_path / 'two'}", *words)
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two")]
    for key in ("train/loss", "train/gradient_norm"):
        assert [float(row[key]) for row in rows[1]] == pytest.approx([float(row[key]) for row in rows[0]], rel=1e-8)
    key = "validation/metals/forces/mae"
    assert float(rows[1][-1][key]) == pytest.approx(float(rows[0][-1][key]), rel=1e-6)
