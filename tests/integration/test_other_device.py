"""Whole commands with training and prediction on another device than the CPU, as on a GPU: the same numbers, and nothing forgotten here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.finetune.uncertainty.calibrated_posterior import fit_posterior
from unipot.structure import Structure
from unipot.testing import other_device
from unipot.training.metrics_log import read_metrics
from unipot.training.module import TrainingModule
from unipot.workflows import evaluate
from unipot.workflows.inputs import structure_files as simulation_input
from unipot.workflows.runs import fit
from unipot.zoo.artifact import RESERVED, load_artifact, save_artifact

#: what differs is the order of float32 sums: padded products there, compiled kernels here
ROUNDING = 2e-3


class AnyDevice(CPUAccelerator):
    """Refuses no device."""

    def setup_device(self, device: torch.device) -> None:
        pass


@pytest.fixture
def elsewhere(monkeypatch):
    """Within this process models are trained on the other device, and `device=` of commands means that one."""

    def trainer(**options) -> Trainer:
        strategy = SingleDeviceStrategy(device=device, accelerator=AnyDevice())
        return Trainer(**{**options, "accelerator": "auto", "strategy": strategy})

    monkeypatch.setattr(fit, "Trainer", trainer)
    for module in (evaluate, simulation_input):
        monkeypatch.setattr(module, "device_named", lambda name: str(device))
    with other_device() as device:
        yield device


@pytest.fixture(scope="module")
def parent(tmp_path_factory, toy_data) -> Path:
    """A run that was trained here."""
    run = tmp_path_factory.mktemp("parent") / "run"
    words = [f"datasets.{name}.path={path}" for name, path in toy_data.items()]
    words += [f"datasets.{name}.level_of_theory=EMT-{name}" for name in toy_data]
    assert main(["pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", *words]) == 0
    give_error_bars(run / "best.safetensors", toy_data["metals"])
    return run


def give_error_bars(path: Path, data: Path) -> None:
    """A posterior for head metals of the model at `path`, as fine-tuning makes one."""
    artifact = load_artifact(path)
    potential, card = artifact.potential, artifact.card
    images = read(data, ":")
    labels = [{"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()} for atoms in images]
    frames = [Structure.from_ase(atoms, labels=own) for atoms, own in zip(images, labels, strict=True)]
    index = potential.heads.index("metals")
    options = {"cutoff": potential.cutoff, "dtype": potential.dtype}
    batches = [collate(frames[k : k + 8], head_index=[index] * 8, **options) for k in range(0, 40, 8)]
    fit_posterior(potential, "metals", batches[:4], batches[4:])
    save_artifact(path, potential, card={key: value for key, value in card.items() if key not in RESERVED})


def losses(run: Path) -> list[float]:
    return [float(row["train/loss"]) for row in read_metrics(run / "metrics.csv") if row["train/loss"]]


def test_pretraining_takes_the_steps_that_it_takes_here(parent, elsewhere, tmp_path, smoke_overrides):
    overrides = [word for word in smoke_overrides if "labels" not in word]
    assert main(["pretrain", f"run={tmp_path / 'there'}", *overrides]) == 0
    assert losses(tmp_path / "there") == pytest.approx(losses(parent), rel=ROUNDING)


def test_interrupted_pretraining_ends_with_the_same_weights(elsewhere, tmp_path, smoke_overrides, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["pretrain", f"run={whole}", *smoke_overrides, "trainer.checkpoint_every=4"]) == 0
    step = TrainingModule.training_step

    def interrupted(self, *arguments):
        if self.trainer.global_step == 10:
            raise ValueError("interrupted")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", interrupted)
        with pytest.raises(ValueError, match="interrupted"):
            main(["pretrain", f"run={stopped}", *smoke_overrides, "trainer.checkpoint_every=4"])
    assert main(["pretrain", f"resume={stopped}"]) == 0
    weights = [dict(load_artifact(run / "last.safetensors").potential.named_parameters()) for run in (whole, stopped)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_fine_tuning_by_default(parent, elsewhere, tmp_path, toy_data):
    """With its search, replay of structures that the model labels, error bars and forgetting."""
    run = tmp_path / "tuned"
    words = [f"checkpoint={parent / 'best.safetensors'}", f"data={toy_data['metals']}", f"run={run}", "n_train=12", "level_of_theory=EMT"]
    words += ["schedule.max_steps=10", "small_data.search_budget=3", "self_replay.structures=sample"]
    assert main(["finetune", *words]) == 0
    head = load_artifact(run / "best.safetensors").potential.heads["metals-2"]
    assert head.posterior is not None and all(tensor.device.type == "cpu" for tensor in head.state_dict().values())


@pytest.fixture
def command(parent, toy_data, tmp_path):
    """Predict metals with the parent's best weights; returns the output folder."""

    def run(name: str, *words: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        paths = [word.format(data=toy_data["metals"], folder=folder) for word in words]
        assert main([name, f"checkpoint={parent / 'best.safetensors'}", "head=metals", *paths]) == 0
        return folder

    return run


def test_evaluation(command, request):
    words = ["data={data}", "output={folder}", "labels=[energy,forces,stress]"]
    here = command("evaluate", *words)
    request.getfixturevalue("elsewhere")
    there = command("evaluate", *words)
    found = [json.loads((folder / "metrics.json").read_text())[0] for folder in (here, there)]
    errors = [{(row["property"], row["element"]): row["mae"] for row in own["rows"] if row["mae"] is not None} for own in found]
    assert len(errors[0]) >= 6 and errors[1] == pytest.approx(errors[0], rel=1e-4)
    widths = [{bar["property"]: bar["interval_width"] for bar in own["error_bars"]} for own in found]
    assert {"energy", "forces"} < set(widths[0]) and widths[1] == pytest.approx(widths[0], rel=1e-3)


def test_relaxation_and_dynamics(command, request):
    relax = ["relax", "structure={data}", "index=0", "out={folder}/out.extxyz", "max_steps=4", "relax_cell=true", "allow_unconverged=true"]
    md = ["md", "structure={data}", "index=0", "out={folder}/out.extxyz", "n_steps=8", "interval=4"]
    here = [read(command(*words) / "out.extxyz") for words in (relax, md)]
    request.getfixturevalue("elsewhere")
    for words, expected in zip((relax, md), here, strict=True):
        found = read(command(*words) / "out.extxyz")
        np.testing.assert_allclose(found.positions, expected.positions, atol=1e-4)
        assert found.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-4)


def test_error_bars_of_the_calculator(parent, toy_data, request):
    atoms = read(toy_data["metals"], 0)
    images, coefficients = read(toy_data["metals"], ":6:3"), (1.0, -1.0)

    def results(device: str) -> dict[str, object]:
        calculator = UnipotCalculator(parent / "best.safetensors", head="metals", device=device, uncertainty=True)
        calculator.calculate(atoms)
        return {**calculator.results, "difference": calculator.energy_difference_uncertainty(images, coefficients)}

    here = results("cpu")
    there = results(str(request.getfixturevalue("elsewhere")))
    assert here["forces_uncertainty"].min() > 0 and here["difference"] > 0
    for name in ("forces", "energy_uncertainty", "forces_uncertainty", "difference"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-3, atol=1e-4)
