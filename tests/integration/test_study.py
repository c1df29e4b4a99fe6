"""One real run of a study, in its own process: what it records is what `unipot finetune` and `unipot evaluate` give."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.zoo.artifact import save_artifact

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def write_frames(path, n, seed):
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = Atoms("OHH", WATER + 0.05 * rng.normal(size=(3, 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=-14 + 0.1 * rng.normal(), forces=0.1 * rng.normal(size=(3, 3)))
        frames.append(atoms)
    write(path, frames)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folder of a study of one run whose rate of 1e-30 changes no weight."""
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 4, "n_vector_channels": 2, "n_layers": 1})
    known, heads = np.isin(np.arange(119), [1, 8]), HeadBank()
    reference = CompositionReference(np.where(known, -5.0, 0.0), known)
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=4, n_hidden=4, reference=reference))
    golden = [Structure(atomic_numbers=[8, 1, 1], positions=WATER, id="water")]
    potential, card = Potential(backbone, heads).eval(), {"name": "m", "licence": "CC0-1.0"}
    save_artifact(folder / "model.safetensors", potential, golden=golden, card=card)
    for seed, (name, n) in enumerate({"frames": 24, "warm": 5, "hot": 4, "old": 3}.items()):
        write_frames(folder / f"{name}.extxyz", n, seed)
    settings = {
        "checkpoint": str(folder / "model.safetensors"),
        "targets": {"water": {"data": str(folder / "frames.extxyz"), "tests": {t: str(folder / f"{t}.extxyz") for t in ("warm", "hot")}}},
        "frames": [22],  # of which fine-tuning would hold five out, were it not for small-data mode
        "seeds": [3],
        "strategies": {
            "from-scratch": None,
            "finetune": ["optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", f"forgetting.pbe.path={folder / 'old.extxyz'}"],
        },
        "overrides": ["schedule.max_steps=2", "schedule.warmup_steps=1", "trainer.validate_every=2"],
        "reference": None,
        "output": str(folder / "out"),
    }
    (folder / "study.yaml").write_text(json.dumps(settings))  # JSON is YAML
    assert main(["study", "learning-curve", f"config={folder / 'study.yaml'}"]) == 0
    return folder


def recorded(study):
    (result,) = json.loads((study / "out" / "study.json").read_text())["results"]
    return result


def test_the_start_is_what_the_run_started_from(study):
    result = recorded(study)
    assert set(result["errors"]) == set(result["start"]) == {"warm", "hot"}
    for test in ("warm", "hot"):
        for property in ("energy_per_atom", "forces"):
            assert result["errors"][test][property] == pytest.approx(result["start"][test][property], rel=1e-5)
            assert result["start"][test][property]["rmse"] >= result["start"][test][property]["mae"] > 0
    assert result["errors"]["warm"] != result["errors"]["hot"]
    assert result["start"] == result["parent"]


def test_forgetting_of_a_model_that_did_not_move_is_one(study):
    rows = recorded(study)["forgetting"]
    assert {(row["head"], row["property"]) for row in rows} == {("pbe", "energy_per_atom"), ("pbe", "forces")}
    assert all(row["ratio"] == pytest.approx(1.0, rel=1e-5) for row in rows)


@pytest.fixture(scope="module")
def evaluated(study, tmp_path_factory):
    """What `unipot evaluate` writes of the run's weights on one of its test sets."""
    best, output = study / "out" / "water" / "finetune" / "n22-seed3" / "best.safetensors", tmp_path_factory.mktemp("evaluated")
    assert main(["evaluate", f"checkpoint={best}", f"data={study / 'warm.extxyz'}", "head=water", f"output={output}"]) == 0
    (table,) = json.loads((output / "metrics.json").read_text())
    return table


def test_errors_are_those_of_unipot_evaluate(study, evaluated):
    found = {row["property"]: row for row in evaluated["rows"] if row["element"] is None}
    for property, numbers in recorded(study)["errors"]["warm"].items():
        assert numbers == pytest.approx({key: found[property][key] for key in numbers}, rel=1e-6)


def test_coverage_of_error_bars_is_that_of_unipot_evaluate(study, evaluated):
    found = {row["property"]: row["coverage"] for row in evaluated["error_bars"]}
    assert {name: row["coverage"] for name, row in recorded(study)["error_bars"]["warm"].items()} == pytest.approx(found)
    assert "## Error bars" in (study / "out" / "study.md").read_text()


def test_a_finished_run_is_not_repeated(study):
    result = study / "out" / "water" / "finetune" / "n22-seed3" / "result.json"
    written = result.stat().st_mtime_ns
    assert main(["study", "learning-curve", f"config={study / 'study.yaml'}"]) == 0
    assert result.stat().st_mtime_ns == written
