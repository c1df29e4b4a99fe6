"""`trainer.activation_checkpointing` changes what is kept, not what is learnt, and stays out of the artifact."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from unipot.cli import main
from unipot.workflows.runs.fit import checkpoint_activations
from unipot.zoo.artifact import load_artifact


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def test_training_learns_the_same(smoke_overrides, tmp_path):
    common = ["pretrain", *smoke_overrides, "trainer.dtype=float64", "schedule.max_steps=6", "trainer.progress=false"]
    for name, checkpointing in (("plain", "false"), ("kept", "true")):
        assert main([*common, f"run={tmp_path / name}", f"trainer.activation_checkpointing={checkpointing}"]) == 0
    plain, kept = losses(tmp_path / "plain"), losses(tmp_path / "kept")
    assert len(plain) == 6 and plain[-1] != plain[0] and kept == pytest.approx(plain, rel=1e-9)
    backbone = load_artifact(tmp_path / "kept" / "last.safetensors").potential.backbone
    assert not backbone.activation_checkpointing and "activation_checkpointing" not in backbone.hyperparameters


def test_a_run_sets_and_clears_it(make_potential):
    potential = make_potential()
    for wanted in (True, False):
        checkpoint_activations(potential, wanted)
        assert potential.backbone.activation_checkpointing is wanted


def test_a_backbone_that_cannot_is_refused():
    other = SimpleNamespace(backbone=SimpleNamespace(name="other"))
    checkpoint_activations(other, False)
    with pytest.raises(ValueError, match="activation_checkpointing is true, but backbone 'other' cannot recompute its layers"):
        checkpoint_activations(other, True)
