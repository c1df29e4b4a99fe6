"""Energies of different kinds never meet: in a head, in an evaluation, as parent and child; and everybody says which they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from rich.console import Console

from unipot.calculator import UnipotCalculator
from unipot.data.spec import DatasetSpec
from unipot.data.store import Store, StoreWriter
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.workflows.evaluate import evaluate
from unipot.workflows.finetuning.alignment import align_to_frames, parent_candidates
from unipot.workflows.finetuning.inputs import open_everything
from unipot.workflows.finetuning.schema import AUTO, FinetuneConfig
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.inputs.evaluation_sets import require_same_energy_kind
from unipot.workflows.inputs.user_frames import open_frames
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import DatasetConfig, EvaluateConfig, MixtureConfig, UserDataConfig
from unipot.zoo import describe_artifact, load_artifact, save_artifact

QUIET = Console(quiet=True)
BUDGET = MixtureConfig(max_atoms=100, max_edges=10_000)


@pytest.fixture
def store(tmp_path):
    def make(kind="adsorption", name="slabs", labels=("energy", "forces"), n=6):
        rng = np.random.default_rng(0)
        with StoreWriter(tmp_path / f"{name}.unipot", name=name, level_of_theory="RPBE", labels=labels, energy_kind=kind) as writer:
            for k in range(n):
                values = {"energy": rng.normal(), "forces": rng.normal(size=(3, 3))}
                positions = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.01 * k]]
                labelled = {label: values[label] for label in labels}
                writer.add(Structure(atomic_numbers=[8, 1, 1], positions=positions, labels=labelled, id=f"{name}-{k}"))
        return Store(tmp_path / f"{name}.unipot")

    return make


@pytest.fixture
def potential():
    """Heads a (total) and b (adsorption) that know H and O."""

    def make(**kinds):
        torch.manual_seed(0)
        backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1})
        known = np.isin(np.arange(119), [1, 8])
        bank = HeadBank()
        for name, kind in (kinds or {"a": "total", "b": "adsorption"}).items():
            reference = CompositionReference(np.zeros(119), known)
            bank.add(Head(name, level_of_theory="RPBE", n_channels=backbone.n_channels, reference=reference, energy_kind=kind))
        return Potential(backbone, bank).eval()

    return make


def test_unknown_kind_of_a_head_is_refused():
    with pytest.raises(ValueError, match="head 'a': energy_kind is 'binding'; use one of: total, adsorption, formation"):
        Head("a", level_of_theory="PBE", n_channels=4, energy_kind="binding")


def test_kind_survives_the_artifact_and_is_shown(potential, tmp_path):
    path = save_artifact(tmp_path / "m.safetensors", potential())
    artifact = load_artifact(path)
    assert [artifact.potential.heads[name].energy_kind for name in "ab"] == ["total", "adsorption"]
    text = io.StringIO()
    Console(width=120, file=text).print(describe_artifact(path))
    assert "adsorption" in text.getvalue()


def test_calculator_says_what_its_energies_are(potential):
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(potential(), head="b")
    assert atoms.calc.energy_kind == "adsorption"
    assert {"head": "b", "level_of_theory": "RPBE", "energy_kind": "adsorption"}.items() <= atoms.calc.parameters.items()
    atoms.get_potential_energy()
    with pytest.raises(ValueError, match="energy_kind of a calculator is fixed"):
        atoms.calc.set(energy_kind="total")


def test_dataset_takes_the_kind_of_its_store(store, tmp_path):
    config = DatasetConfig(path=str(store().path), level_of_theory="RPBE")
    assert open_datasets({"slabs": config}, cache=tmp_path, seed=0, console=QUIET)[0].spec.energy_kind == "adsorption"


def test_dataset_of_another_kind_than_stated_is_refused(store, tmp_path):
    config = DatasetConfig(path=str(store().path), level_of_theory="RPBE", energy_kind="total")
    with pytest.raises(ValueError, match="dataset 'slabs': energy_kind is 'total', but .*slabs.unipot was prepared with 'adsorption'"):
        open_datasets({"slabs": config}, cache=tmp_path, seed=0, console=QUIET)


def test_one_head_for_two_kinds_is_refused(store, tmp_path):
    configs = {
        name: DatasetConfig(path=str(store(kind, name).path), level_of_theory="RPBE", head="x")
        for name, kind in (("slabs", "adsorption"), ("bulk", "total"))
    }
    with pytest.raises(ValueError, match="head 'x' mixes kinds of energy: dataset 'slabs' is 'adsorption', dataset 'bulk' is 'total'"):
        open_datasets(configs, cache=tmp_path, seed=0, console=QUIET)


def test_structure_file_becomes_a_store_of_the_stated_kind(toy_data, tmp_path):
    options = UserDataConfig(energy_kind="adsorption")
    first = open_frames(str(toy_data["molecules"]), options, name="m", cache=tmp_path, console=QUIET)
    other = open_frames(str(toy_data["molecules"]), UserDataConfig(), name="m", cache=tmp_path, console=QUIET)
    assert (first.energy_kind, other.energy_kind) == ("adsorption", "total") and first.path != other.path
    with pytest.raises(ValueError, match="was prepared with adsorption energies, expected total ones"):
        open_frames(str(first.path), UserDataConfig(energy_kind="total"), name="m", cache=tmp_path, console=QUIET)


def test_evaluation_of_another_kind_is_refused(store, potential, tmp_path):
    path = save_artifact(tmp_path / "m.safetensors", potential())
    options = {"checkpoint": str(path), "data": str(store().path), "max_atoms": 100, "max_edges": 1000, "device": "cpu"}
    with pytest.raises(ValueError, match="has adsorption energies, head 'a' predicts total ones, which are not comparable"):
        evaluate(EvaluateConfig(head="a", output=str(tmp_path / "out"), **options))
    assert evaluate(EvaluateConfig(head="b", output=str(tmp_path / "out"), **options))


def test_forces_alone_may_be_compared_across_kinds(store, potential):
    require_same_energy_kind(potential(), "a", store(labels=("forces",)))


def opened(store):
    spec = DatasetSpec(name=store.name, path=str(store.path), level_of_theory="RPBE", energy_kind=store.energy_kind)
    return OpenDataset(
        spec=spec, store=store, train_indices=np.arange(len(store)), validation_store=store, validation_indices=np.arange(0)
    )


def test_parent_of_another_kind_is_no_candidate(store, potential):
    model = potential(a="total", b="adsorption", c="total")
    adaptation = align_to_frames(model, opened(store()), AUTO, BUDGET)
    assert adaptation.parent == "b" and [score.head for score in adaptation.scores] == ["b"]
    assert "heads of other kinds were not considered as parents: 'a' (total), 'c' (total)" in adaptation.alignment.warnings[-1]
    assert model.heads["slabs"].energy_kind == "adsorption"


def test_only_parents_of_another_kind_are_taken_and_it_is_said(store, potential):
    model = potential(a="total")
    adaptation = align_to_frames(model, opened(store()), AUTO, BUDGET)
    assert adaptation.parent == "a" and model.heads["slabs"].energy_kind == "adsorption"
    assert "parent head 'a' predicts total energies, the frames have adsorption ones" in adaptation.alignment.warnings[-1]


def test_references_are_refused_where_they_would_not_be_used(potential):
    words = ["checkpoint=a.safetensors", "data=a.extxyz", "heads.references.a.mode=none"]
    with pytest.raises(ValueError, match="heads.references are for from_scratch=true"):
        open_everything(load_config("finetune", FinetuneConfig, words), potential(), Path("run/data"), QUIET)


@pytest.mark.parametrize(
    ("kinds", "wanted", "parent", "candidates"),
    [
        ({"a": "total", "b": "adsorption"}, "total", AUTO, ["a"]),
        ({"a": "total", "b": "adsorption"}, "total", "b", ["a", "b"]),
        ({"a": "total", "b": "adsorption"}, "formation", AUTO, ["a", "b"]),
        ({"a": "total"}, "total", AUTO, ["a"]),
    ],
)
def test_candidates_for_a_parent(potential, kinds, wanted, parent, candidates):
    assert parent_candidates(potential(**kinds), wanted, parent)[0] == candidates
