"""LoRA, the pull towards the start and new elements, through the command line: what moves, what is written, what is resumed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main
from unipot.finetune.alignment.periodic_neighbors import stand_in_for
from unipot.training.metrics_log import read_metrics
from unipot.training.module import TrainingModule
from unipot.zoo.artifact import load_artifact, load_potential

SILVER = 47


def labelled(symbols, n, seed):
    """Rattled four-atom crystals labelled by EMT."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk(symbols[0], "fcc", a=3.85, cubic=True)
        atoms.symbols[k % 4] = symbols[1]
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("strategies")
    write(folder / "alloy.extxyz", labelled(("Cu", "Ni"), 12, seed=1))
    write(folder / "silver.extxyz", labelled(("Cu", "Ag"), 8, seed=2))
    write(folder / "gold.extxyz", labelled(("Cu", "Au"), 2, seed=3))
    return {**toy_data, "folder": folder, **{name: folder / f"{name}.extxyz" for name in ("alloy", "silver", "gold")}}


@pytest.fixture(scope="module")
def parent(files):
    run = files["folder"] / "pretrain"
    arguments = [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false", "schedule.max_steps=8",
        f"datasets.metals.path={files['metals']}", "datasets.metals.level_of_theory=EMT-metals",
        f"datasets.molecules.path={files['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules",
    ]  # fmt: skip
    assert main(arguments) == 0
    return run / "last.safetensors"


def words(files, parent, run, *overrides, data="alloy", steps=10):
    return [
        "finetune", f"checkpoint={parent}", f"data={files[data]}", f"run={run}", f"schedule.max_steps={steps}", "schedule.warmup_steps=2",
        "trainer.validate_every=5", "trainer.checkpoint_every=3", "trainer.threads=1", "trainer.progress=false", "alignment=shift",
        "uncertainty=none", "small_data=off", *overrides,
    ]  # fmt: skip


LORA = ("finetune=lora", "finetune.lora.rank=2")


@pytest.fixture(scope="module")
def lora_run(files, parent):
    run = files["folder"] / "lora"
    arguments = words(files, parent, run, *LORA, f"validation_data={files['silver']}", "optimizer.learning_rate=0.01", data="silver")
    assert main(arguments) == 0
    return run


def changes(old, new):
    """Parameter -> change, of the backbone."""
    return {name: tensor.double() - old.state_dict()[name].double() for name, tensor in new.backbone.state_dict(prefix="backbone.").items()}


def changed_rows(change, axis=0):
    return torch.nonzero(change.movedim(axis, 0).reshape(change.shape[axis], -1).abs().sum(1))[:, 0].tolist()


def test_lora_changes_matrices_by_its_rank_and_new_rows_and_nothing_else(parent, lora_run):
    old, new = load_potential(parent), load_potential(lora_run / "last.safetensors")
    tables = old.backbone.element_tables()
    matrices = set(load_artifact(lora_run / "last.safetensors").card["finetune"]["lora"]["matrices"])
    moved = 0
    for name, change in changes(old, new).items():
        name = name.removeprefix("backbone.")
        if name in matrices:
            values = torch.linalg.svdvals(change)
            assert len(values) <= 2 or values[2] < 1e-5 * values[0] + 1e-6, name
            moved += bool(values[0] > 1e-5)
        elif name in tables:
            assert changed_rows(change, *tables[name]) in ([], [SILVER]), name
        else:
            assert not change.any(), name
    assert moved > len(matrices) / 2  # what feeds the vectors of the last layer learns nothing
    assert changed_rows(changes(old, new)["backbone.embedding.weight"]) == [SILVER]
    for head in old.head_names:
        kept = new.heads[head].state_dict()
        assert all(torch.equal(tensor, kept[key]) for key, tensor in old.heads[head].state_dict().items())


def test_merged_artifact_gives_the_validation_numbers_of_the_adapted_model(files, lora_run, tmp_path):
    arguments = ["evaluate", f"checkpoint={lora_run / 'last.safetensors'}", f"data={files['silver']}", "head=silver", f"output={tmp_path}"]
    assert main(arguments) == 0
    (table,) = json.loads((tmp_path / "metrics.json").read_text())
    found = next(row["mae"] for row in table["rows"] if row["property"] == "forces" and row["element"] is None)
    rows = {row["step"]: row for row in read_metrics(lora_run / "metrics.csv")}
    assert found == pytest.approx(float(rows["10"]["validation/silver/forces/mae"]), rel=1e-6)


def test_lora_starts_as_the_parent(files, parent, tmp_path):
    still = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0")
    assert main(words(files, parent, tmp_path, *LORA, *still, steps=1)) == 0
    old, new = load_potential(parent), load_potential(tmp_path / "last.safetensors")
    assert all(not change.any() for change in changes(old, new).values())


@pytest.mark.parametrize(
    "strategy",
    [(*LORA, "finetune.l2_to_start=3"), ("finetune=layer-wise", "finetune.l2_to_start=3", "finetune.l2_to_start_heads=true")],
    ids=["lora", "layer-wise"],
)
def test_interrupted_run_ends_bitwise_like_one_that_was_not(files, parent, tmp_path, monkeypatch, strategy):
    assert main(words(files, parent, tmp_path / "whole", *strategy)) == 0
    step = TrainingModule.training_step

    def interrupted(self, micro_batches, batch_idx):
        if self.trainer.global_step == 7:
            raise RuntimeError("power cut")
        return step(self, micro_batches, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            main(words(files, parent, tmp_path / "cut", *strategy))
    assert main(words(files, parent, tmp_path / "cut", *strategy)) == 0
    whole, cut = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "cut"))
    assert whole["starting_point"]
    shadows = [state["weight_average"]["shadow"] for state in (whole, cut)]
    for one, other in ((whole["state_dict"], cut["state_dict"]), (whole["starting_point"], cut["starting_point"]), shadows):
        assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    hashes = [load_artifact(tmp_path / name / "last.safetensors").card["sha256"] for name in ("whole", "cut")]
    assert hashes[0] == hashes[1]


def test_stronger_pull_keeps_the_backbone_nearer_to_its_start(files, parent, tmp_path):
    distances = []
    for strength in (0, 30, 90):
        run = tmp_path / str(strength)
        options = (f"finetune.l2_to_start={strength}", "optimizer.learning_rate=0.01", "optimizer.weight_decay=0")
        assert main(words(files, parent, run, *options)) == 0
        found = changes(load_potential(parent), load_potential(run / "last.safetensors"))
        distances.append(sum(float(change.square().sum()) for change in found.values()) ** 0.5)
    assert distances[0] > 1.05 * distances[1] > 1.05 * distances[2] > 0


def test_replay_trains_low_rank_updates_and_the_old_head(files, parent, tmp_path):
    replay = [f"replay.metals.path={files['metals']}", "replay.metals.level_of_theory=EMT-metals"]
    assert main(words(files, parent, tmp_path, *LORA, "finetune.l2_to_start=1", *replay, steps=4)) == 0
    old, new = load_potential(parent), load_potential(tmp_path / "last.safetensors")
    values = {name: [model.heads[name].readout.value.weight for model in (old, new)] for name in old.head_names}
    assert {name for name, pair in values.items() if not torch.equal(*pair)} == {"metals"}


@pytest.mark.distributed
def test_two_ranks_adapt_as_one(files, parent, tmp_path):
    mixture = ("mixture.micro_batches_per_step=2", "mixture.structures_per_step=4")
    options = (*LORA, "finetune.l2_to_start=3", "trainer.dtype=float64", *mixture)
    assert main(words(files, parent, tmp_path / "one", *options, data="silver", steps=4)) == 0
    arguments = words(files, parent, tmp_path / "two", *options, "trainer.devices=2", "trainer.strategy=ddp", data="silver", steps=4)
    command = [sys.executable, "-m", "unipot.cli", *arguments]
    finished = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two"))
    assert any(name.endswith(".up") for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.fixture(scope="module")
def silver_run(files, parent):
    run = files["folder"] / "silver-heads-only"
    assert main(words(files, parent, run, "finetune=heads-only", "name=alloys", data="silver")) == 0
    return run


def test_rows_of_a_new_element_start_from_its_neighbor_and_learn_alone(parent, silver_run):
    old, new = load_potential(parent), load_potential(silver_run / "last.safetensors")
    tables = old.backbone.element_tables()
    assert stand_in_for(SILVER, [29]).rule == "group"
    for name, change in changes(old, new).items():
        name = name.removeprefix("backbone.")
        assert changed_rows(change, *tables.get(name, (0,))) in ([], [SILVER] if name in tables else []), name
        if name in ("embedding.weight", "radial_centre.weight", "radial_neighbor.weight"):
            copper, silver = (model.backbone.state_dict()[name][z] for model, z in ((old, 29), (new, SILVER)))
            assert 0 < (silver - copper).abs().max() < 0.1


def test_card_and_report_tell_of_the_new_element(silver_run):
    card = load_artifact(silver_run / "last.safetensors").card
    assert "Ag" in card["heads"]["alloys"]["elements"]
    assert not any("Ag" in card["heads"][name]["elements"] for name in ("metals", "molecules"))
    (new,) = card["finetune"]["new_elements"]
    assert (new["element"], new["weights"], new["n_frames"], new["n_atoms"]) == ("Ag", {"Cu": 1.0}, 8, 8)
    report = json.loads((silver_run / "alignment_report.json").read_text())
    table = next(table for table in report["tables"] if table["title"].startswith("New elements"))
    assert table["rows"] == [["Ag", "1.00 Cu (group)", 8, 8]]
    assert any("Ag is in no head of the checkpoint" in text and "extrapolation" in text for text in report["alignment"]["warnings"])


def test_new_element_is_known_to_the_next_run(files, silver_run, tmp_path):
    assert main(words(files, silver_run / "last.safetensors", tmp_path, "finetune=heads-only", "name=again", data="silver", steps=1)) == 0
    assert "new_elements" not in load_artifact(tmp_path / "last.safetensors").card["finetune"]


def test_other_elements_stay_refused_after_it(files, silver_run, tmp_path, capsys):
    arguments = ["evaluate", f"checkpoint={silver_run / 'last.safetensors'}", f"data={files['gold']}", "head=alloys", f"output={tmp_path}"]
    assert main(arguments) == 2
    assert "Au" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ((*LORA, "finetune.freeze_groups=1"), "freeze_groups=1 contradicts it"),
        ((*LORA, "finetune.layer_decay=0.8"), "layer_decay=0.8 contradicts it"),
        (("finetune=lora", "finetune.lora.rank=0"), "finetune.lora.rank is 0; it must be at least 1"),
        (("finetune=lora", "finetune.lora.rank=null"), "finetune.lora.rank is not set"),
        (("finetune=lora", "finetune.lora.patterns=[blocks.*]"), "'blocks.*' matches no matrix of the backbone"),
        (("finetune=lora", "finetune.lora.groups=[block-1]"), "'block-1' is not a layer group of the backbone"),
        (("finetune=full", "finetune.lora.rank=4"), "the method is 'full', which has no low-rank updates; add finetune=lora"),
        ((*LORA, "from_scratch=true"), "neither finetune=lora nor l2_to_start means anything"),
        (("finetune.l2_to_start=1", "from_scratch=true"), "neither finetune=lora nor l2_to_start means anything"),
        (("finetune.l2_to_start=-1",), "finetune.l2_to_start is -1.0; it must not be negative"),
        (("finetune.l2_to_start=1000",), "their product is above 1"),
        (("finetune.l2_to_start_heads=true",), "finetune.l2_to_start is 0, so nothing is pulled"),
        (("finetune=heads-only", "finetune.l2_to_start=1"), "l2_to_start pulls nothing"),
        (("new_elements=refuse", "data=SILVER"), "contain Ag, which no head of the checkpoint was trained on"),
        (("loss.frozen_atoms=maybe",), "loss.frozen_atoms is 'maybe'; use one of: exclude, include"),
    ],
)
def test_contradictory_options_get_one_sentence(files, parent, tmp_path, capsys, overrides, sentence):
    chosen = [word.replace("SILVER", str(files["silver"])) for word in overrides]
    assert main(words(files, parent, tmp_path, *chosen)) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
