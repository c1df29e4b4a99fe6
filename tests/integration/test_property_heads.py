"""Property heads through the command line: alone, beside energies, evaluated, and from the calculator."""

import json

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.evaluation.records import Evaluation
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.zoo.artifact import load_artifact, load_potential, save_artifact

GAP = "properties.gap={key: stretch, unit: A, threshold: 0.05}"
TINY = {"n_channels": 16, "n_vector_channels": 8, "n_layers": 1}


def frames(n, seed, energies):
    """Distorted water labelled with the mean of its bond lengths (an intensive number), every seventh without."""
    rng, found = np.random.default_rng(seed), []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.positions += 0.08 * rng.normal(size=(3, 3))
        if energies:
            atoms.calc = EMT()
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results)
        if k % 7 or not energies:
            atoms.info["stretch"] = float(np.mean(atoms.get_distances(0, [1, 2])))
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Frames with and without energies, and a model with random weights."""
    folder = tmp_path_factory.mktemp("property-heads")
    write(folder / "both.extxyz", frames(70, 0, True))
    write(folder / "alone.extxyz", frames(70, 0, False))
    write(folder / "test.extxyz", frames(30, 1, False))
    torch.manual_seed(0)
    backbone = build_backbone("native", TINY)
    known = np.isin(np.arange(119), [1, 6, 8])
    bank = HeadBank()
    bank.add(Head("emt", level_of_theory="EMT", n_channels=backbone.n_channels, reference=CompositionReference(-1.0 * known, known)))
    save_artifact(folder / "model.safetensors", Potential(backbone, bank))
    return folder


def finetune(files, data, run, *overrides, steps=30):
    return main(
        [
            "finetune", f"checkpoint={files / 'model.safetensors'}", f"data={files / data}", f"run={files / run}",
            f"schedule.max_steps={steps}", "schedule.warmup_steps=2", "trainer.validate_every=15", "trainer.threads=1",
            "trainer.progress=false", "validation_fraction=0.3", *overrides,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(files):
    fast = ("finetune=heads-only", "optimizer.learning_rate=0.02", "optimizer.ema_decay=0.9")
    assert finetune(files, "alone.extxyz", "alone", GAP, *fast, f"test_data={files / 'test.extxyz'}", steps=90) == 0
    return files / "alone"


@pytest.fixture(scope="module")
def both(files):
    assert finetune(files, "both.extxyz", "both", GAP, steps=15) == 0
    return files / "both"


def test_a_property_alone_trains_its_head_and_nothing_else(files, alone):
    before, after = load_potential(files / "model.safetensors"), load_potential(alone / "best.safetensors")
    kept = after.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.state_dict().items())
    assert after.head_names == before.head_names
    assert list(after.scalar_properties) == ["gap"]


def test_a_property_alone_is_learnt(alone):
    final = Evaluation.load(alone / "evaluations" / "final")
    label = np.array([np.mean(a.get_distances(0, [1, 2])) for a in frames(30, 1, False)])
    assert final.get("gap", "mae") < 0.9 * np.abs(label - label.mean()).mean()
    assert 0 <= final.get("gap", "within") <= 1
    assert final.get("forces", "mae") is None


def test_intervals_are_calibrated_and_stated_in_the_card(alone):
    artifact = load_artifact(alone / "best.safetensors")
    where = {entry["frames"]: entry for entry in artifact.card["property_intervals"]}
    assert where["held out"]["factor"] == pytest.approx(float(artifact.potential.property_heads["gap"].interval))
    assert where["test"]["n"] == 30
    assert where["test"]["coverage"] > 0.6


def test_energies_and_a_property_learn_together(files, both):
    potential = load_potential(both / "best.safetensors")
    final = Evaluation.load(both / "evaluations" / "final")
    assert potential.head_names == ("emt", "both")
    assert all(final.get(name, "mae") is not None for name in ("energy", "forces", "gap"))
    assert final.get("gap", "within") is not None


def test_missing_values_are_masked_and_counted(both, capsys):
    card = load_artifact(both / "best.safetensors").card["datasets"][0]
    assert card["labels"] == ["energy", "forces", "gap"]
    store = next((both / "data").glob("*.unipot"))
    assert json.loads((store / "scalars.json").read_text())["gap"]["n"] == 60


def test_evaluate_finds_the_values_by_their_key(files, both, tmp_path):
    output = tmp_path / "evaluated"
    arguments = ["evaluate", f"checkpoint={both / 'best.safetensors'}", f"data={files / 'test.extxyz'}", "head=both", f"output={output}"]
    assert main(arguments) == 0
    (content,) = json.loads((output / "metrics.json").read_text())
    assert content["units"]["gap"] == "A"
    (row,) = [row for row in content["rows"] if row["property"] == "gap"]
    assert row["n"] == 30 and row["within"] is not None
    (interval,) = json.loads((output / "property_intervals.json").read_text())
    assert interval["n"] == 30 and 0 <= interval["coverage"] <= 1


def test_the_calculator_gives_property_and_uncertainty(files, both):
    atoms = read(files / "test.extxyz", 0)
    atoms.calc = UnipotCalculator(both / "best.safetensors", head="both")
    atoms.get_potential_energy()
    assert atoms.calc.results["gap"] == atoms.calc.get_property("gap", atoms)
    assert atoms.calc.results["gap"] == pytest.approx(0.97, abs=0.3)
    assert atoms.calc.results["gap_uncertainty"] > 0


def test_the_calculator_leaves_out_what_the_head_was_not_trained_on(files, both):
    atoms = molecule("CO")
    atoms.calc = UnipotCalculator(both / "best.safetensors", head="emt")
    assert np.isfinite(atoms.get_potential_energy())
    assert "gap" not in atoms.calc.results


def test_lora_and_replay_go_with_a_property_alone(files):
    replay = f"replay.old={{path: {files / 'both.extxyz'}, level_of_theory: EMT, head: emt, validation_fraction: 0.2}}"
    options = ("finetune=lora", "finetune.lora.rank=2", replay)
    assert finetune(files, "alone.extxyz", "lora", GAP, *options, steps=2) == 0
    tuned = load_potential(files / "lora" / "best.safetensors")
    assert tuned.head_names == ("emt",) and list(tuned.scalar_properties) == ["gap"]


def test_a_report_shows_properties(files, alone, tmp_path):
    assert main(["report", f"finetune_runs=[{alone}]", f"output={tmp_path / 'report.html'}"]) == 0
    assert "gap, A" in (tmp_path / "report.html").read_text()


def test_a_finished_run_can_be_looked_at_again(files, both):
    before = (both / "best.safetensors").read_bytes()
    assert finetune(files, "both.extxyz", "both", GAP, steps=15) == 0
    assert (both / "best.safetensors").read_bytes() == before


REFUSED = {
    "absent key": (["properties.gap={key: band_gap, unit: eV}"], "no frame has a value under the key 'band_gap'"),
    "taken name": (["properties.energy={key: stretch, unit: A}"], "properties.energy: this name is taken"),
    "malformed name": (["properties.Gap={key: stretch, unit: A}"], "this name is not allowed"),
    "unknown kind": (["properties.gap={key: stretch, unit: A, kind: per-bond}"], "use one of: intensive, extensive"),
    "threshold": (["properties.gap={key: stretch, unit: A, threshold: 0}"], "it must be positive (A)"),
    "weight": (["properties.gap={key: stretch, unit: A, weight: 0}"], "it must be positive"),
    "members": (["properties.gap={key: stretch, unit: A, members: 99}"], "it must be from 1 to 16"),
    "not one number": (["properties.gap={key: forces, unit: A}"], "holds 9 numbers, not one number"),
    "compiled": ([GAP, "trainer.compile=true"], "trainer.compile=true has no place for properties"),
    "nothing": (["labels=[]"], "labels=[] leaves nothing to train on"),
    "scratch": ([GAP, "labels=[]", "from_scratch=true"], "from_scratch=true needs energies"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(files, capsys, case):
    overrides, sentence = REFUSED[case]
    assert finetune(files, "both.extxyz", f"refused-{case.replace(' ', '-')}", *overrides) != 0
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert sentence in text
    assert "Traceback" not in text


def test_constant_values_are_refused(files, capsys):
    constant = frames(20, 3, False)
    for atoms in constant:
        atoms.info["stretch"] = 1.5
    write(files / "constant.extxyz", constant)
    assert finetune(files, "constant.extxyz", "constant", GAP) != 0
    assert "training values are 1.5 A, so there is nothing to learn" in " ".join(capsys.readouterr().err.split())
