"""Replay without the original data, through the command line: what is shipped, what is labelled, what is remembered."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from rich.console import Console

from unipot.batch import collate
from unipot.cli import main
from unipot.data.store import Store
from unipot.evaluation.records import Evaluation
from unipot.training.losses import PropertyTerm
from unipot.training.module import TrainingModule
from unipot.workflows.finetuning.replay.pseudo_labels import drift_evaluation_sets, label_structure, self_labelled_sets
from unipot.workflows.finetuning.schema import SelfReplayConfig
from unipot.zoo.artifact import load_artifact, load_potential
from unipot.zoo.card import read_card
from unipot.zoo.sample import sample_of


def words_of_pretraining(files, run, *overrides):
    return [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false", "schedule.max_steps=8",
        f"datasets.metals.path={files['metals']}", "datasets.metals.level_of_theory=EMT-metals", "sample_structures=6",
        f"datasets.molecules.path={files['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules", *overrides,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    """Copper crystals to fine-tune on, and a file of structures without labels."""
    folder, rng, frames = tmp_path_factory.mktemp("self-replay"), np.random.default_rng(0), []
    for _ in range(8):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    write(folder / "copper.extxyz", frames)
    bare = [atoms.copy() for atoms in [*read(toy_data["metals"], ":3"), *read(toy_data["molecules"], ":2")]]
    for atoms in bare:
        atoms.calc = None
    write(folder / "bare.extxyz", bare)
    return {**toy_data, "folder": folder, "copper": folder / "copper.extxyz", "bare": folder / "bare.extxyz"}


@pytest.fixture(scope="module")
def parent(files):
    run = files["folder"] / "pretrain"
    assert main(words_of_pretraining(files, run)) == 0
    return run / "last.safetensors"


def finetune(files, parent, run, *overrides, steps=20):
    return main(
        [
            "finetune", f"checkpoint={parent}", f"data={files['copper']}", f"run={run}", f"schedule.max_steps={steps}",
            "schedule.warmup_steps=2", "trainer.validate_every=10", "trainer.checkpoint_every=3", "trainer.threads=1",
            "trainer.progress=false", "mixture.structures_per_step=6", *overrides,
        ]
    )  # fmt: skip


SELF = ("self_replay.structures=sample",)


def self_stores(run):
    return {store.name: store for store in map(Store, sorted((run / "data").glob("self-*.unipot")))}


def drift(parent, tuned):
    """Root mean square change of the forces of every head on its own sample, eV/Å."""
    models = [load_potential(path) for path in (parent, tuned)]
    sets = sample_of(read_card(parent))
    forces = [
        np.concatenate([label_structure(model, s, item.head, ("forces",)).labels["forces"] for item in sets for s in item.structures])
        for model in models
    ]
    return float(np.sqrt(np.mean((forces[1] - forces[0]) ** 2)))


def test_pretrained_model_carries_unlabelled_structures_of_every_dataset(files, parent):
    sets = sample_of(read_card(parent))
    assert [(item.dataset, item.head, len(item.structures)) for item in sets] == [("metals", "metals", 6), ("molecules", "molecules", 6)]
    assert all(not s.labels for item in sets for s in item.structures)
    originals = np.array([atoms.positions for atoms in read(files["metals"], ":")])
    assert all(np.abs(originals - s.positions).max(axis=(1, 2)).min() < 1e-4 for s in sets[0].structures)
    assert {z for s in sets[1].structures for z in s.atomic_numbers} == {1, 6, 7, 8}


def test_sample_can_be_left_out_entirely_and_is_then_missed(files, tmp_path, capsys):
    assert main(words_of_pretraining(files, tmp_path, "sample_structures=0", "schedule.max_steps=1")) == 0
    card = load_artifact(tmp_path / "last.safetensors").card
    assert "sample" not in card
    assert {entry["id"] for entry in card["golden"]} == {"golden-molecule", "golden-crystal", "golden-close"}
    assert finetune(files, tmp_path / "last.safetensors", tmp_path / "run", *SELF) == 2
    assert "the card of this checkpoint has none" in capsys.readouterr().err


def test_old_heads_drift_less_with_self_labelled_replay(files, parent, tmp_path):
    options = ("optimizer.learning_rate=0.001", "trainer.validate_every=1000", "trainer.checkpoint_every=1000")
    assert finetune(files, parent, tmp_path / "without", *options, steps=40) == 0
    assert finetune(files, parent, tmp_path / "with", *options, *SELF, steps=40) == 0
    without, replayed = (drift(parent, tmp_path / name / "last.safetensors") for name in ("without", "with"))
    assert 0 < replayed < 0.5 * without


def test_loss_on_replayed_structures_is_zero_before_the_first_step(files, parent, tmp_path):
    """Exactly so where a structure is predicted as it was labelled; to rounding where several share a batch."""
    assert finetune(files, parent, tmp_path, *SELF, "optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", steps=1) == 0
    potential = load_potential(tmp_path / "last.safetensors")
    stores = self_stores(tmp_path)
    assert {name: store.labels for name, store in stores.items()} == {
        "self-metals": ("energy", "forces", "stress"),
        "self-molecules": ("energy", "forces"),
    }
    for store in stores.values():
        head = potential.heads.index(store.name.removeprefix("self-"))
        for batch in ([[s] for s in store] + [list(store)]):
            collated = collate(batch, cutoff=potential.cutoff, head_index=[head] * len(batch), dtype=potential.dtype)
            predictions = potential(collated, properties=store.labels)
            for name in store.labels:
                total, count = PropertyTerm(property=name, kind="mae")(predictions, collated)
                assert count > 0
                assert float(total / count) == 0.0 if len(batch) == 1 else float(total / count) < 1e-5


def test_interrupted_run_continues_with_the_labels_it_had(files, parent, tmp_path, monkeypatch):
    options = (*SELF, "finetune=lora", "finetune.lora.rank=2")
    assert finetune(files, parent, tmp_path / "whole", *options, steps=6) == 0
    step = TrainingModule.training_step

    def interrupted(self, micro_batches, batch_idx):
        if self.trainer.global_step == 4:
            raise RuntimeError("power cut")
        return step(self, micro_batches, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            finetune(files, parent, tmp_path / "cut", *options, steps=6)
    made = {store.path: store.path.stat().st_mtime_ns for store in self_stores(tmp_path / "cut").values()}
    assert finetune(files, parent, tmp_path / "cut", *options, steps=6) == 0
    assert {store.path: store.path.stat().st_mtime_ns for store in self_stores(tmp_path / "cut").values()} == made
    hashes = [load_artifact(tmp_path / name / "last.safetensors").card["sha256"] for name in ("whole", "cut")]
    assert hashes[0] == hashes[1]


def test_structures_of_a_file_are_labelled_by_every_head_that_knows_their_elements(files, parent, tmp_path, capsys):
    options = (f"self_replay.structures={files['bare']}", "self_replay.rattle=0")
    assert finetune(files, parent, tmp_path / "all", *options, "finetune=heads-only", steps=1) == 0
    assert "2 of 5 structures have elements without a reference in head 'metals'" in " ".join(capsys.readouterr().out.split())
    assert {name: len(store) for name, store in self_stores(tmp_path / "all").items()} == {"self-metals": 3, "self-molecules": 2}
    assert finetune(files, parent, tmp_path / "one", *options, "self_replay.head=metals", steps=1) == 0
    assert list(self_stores(tmp_path / "one")) == ["self-metals"]


def test_displaced_copies_are_the_same_for_the_same_seed(parent, tmp_path):
    potential, card, quiet = load_potential(parent), read_card(parent), Console(quiet=True)
    config = SelfReplayConfig(structures="sample")
    a, b, c = (
        self_labelled_sets(config, potential, card, seed=seed, cache=tmp_path / name, console=quiet)[0].store
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert len(a) == 12 and sum(s.id.endswith("-rattled") for s in a) == 6
    assert a.metadata["content_hash"] == b.metadata["content_hash"] != c.metadata["content_hash"]
    moved = np.concatenate([(a[k + 6].positions - a[k].positions).ravel() for k in range(6)])
    assert np.std(moved) == pytest.approx(0.05, rel=0.35)


def test_a_quarter_of_the_structures_is_measured_and_not_replayed(parent, tmp_path):
    config = SelfReplayConfig(structures="sample")
    item = self_labelled_sets(config, load_potential(parent), read_card(parent), seed=0, cache=tmp_path, console=Console(quiet=True))[0]
    (measured,) = drift_evaluation_sets([item])
    assert sorted([*item.train_indices, *measured.indices]) == list(range(12))
    assert [item.store.ids[k] for k in measured.indices] == ["metals-3", "metals-3-rattled"]


def test_fine_tuned_model_keeps_the_sample_and_reports_the_drift(files, parent, tmp_path):
    assert finetune(files, parent, tmp_path, *SELF, steps=2) == 0
    assert read_card(tmp_path / "last.safetensors")["sample"] == read_card(parent)["sample"]
    before, after = (Evaluation.load(tmp_path / "evaluations" / f"{when}_self-metals") for when in ("before", "after"))
    assert before.get("forces", "mae") < 1e-6 < 1e-4 < after.get("forces", "mae")


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (("self_replay.structures=nowhere.extxyz",), "nowhere.extxyz"),
        (("self_replay.structures=sample", "self_replay.head=metals"), "self_replay.head is for structures of a file"),
        (("self_replay.structures=sample", "self_replay.rattle=-1"), "self_replay.rattle is -1.0"),
        (("self_replay.structures={bare}", "self_replay.head=metal"), "did you mean 'metals'"),
        (("self_replay.structures=sample", "from_scratch=true"), "neither a parent_head nor replay"),
    ],
)
def test_mistakes_get_one_sentence(files, parent, tmp_path, capsys, overrides, sentence):
    assert finetune(files, parent, tmp_path, *(word.format(bare=files["bare"]) for word in overrides)) == 2
    assert sentence in capsys.readouterr().err
