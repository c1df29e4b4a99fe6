from dataclasses import replace

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.evaluation.records import Evaluation, evaluate_head
from unipot.models.heads import Head, HeadBank
from unipot.models.potential import Potential
from unipot.models.references import CompositionReference
from unipot.models.registry import build_backbone
from unipot.reporting.error_tables import error_table, full_table
from unipot.structure import Structure
from unipot.training.metrics import evaluate


@pytest.fixture
def potential():
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_layers": 1})
    heads = HeadBank()
    reference = CompositionReference(np.zeros(119), np.ones(119, dtype=bool))
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=reference))
    return Potential(backbone, heads)


@pytest.fixture
def batches(potential):
    rng = np.random.default_rng(0)

    def frame(k, labelled):
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(3, 3))} if labelled else {}
        fixed = np.array([k == 0, False, False])  # the first frame has a frozen oxygen
        positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.05 * rng.normal(size=(3, 3))
        return Structure(atomic_numbers=[8, 1, 1], positions=positions, labels=labels, fixed=fixed, id=f"w{k}")

    frames = [frame(k, labelled=k != 2) for k in range(6)]
    return [collate(part, cutoff=potential.cutoff) for part in (frames[:4], frames[4:])]


def test_table_equals_the_metrics_of_validation(potential, batches):
    assert evaluate_head(potential, batches, dataset="d", model="m", head="pbe").table == evaluate(potential, batches, ("d",))


def test_points_give_the_errors_of_the_table(potential, batches):
    found = evaluate_head(potential, batches, dataset="d", model="m", head="pbe")
    for name, n in {"energy_per_atom": 5, "forces": 3 * (5 * 3 - 1)}.items():  # one frame unlabelled, one atom frozen
        label, prediction = found.points[name]
        assert len(label) == n
        assert np.abs(prediction - label).mean() == pytest.approx(found.get(name, "mae"), rel=1e-6)


def test_recording_leaves_no_hook_behind(potential, batches):
    evaluate_head(potential, batches, dataset="d", model="m", head="pbe")
    assert not potential._forward_hooks


def test_evaluation_survives_the_disk(potential, batches, tmp_path):
    found = evaluate_head(potential, batches, dataset="d", model="m", head="pbe")
    found.save(tmp_path / "deep" / "before_v1.2")
    found.save(tmp_path / "deep" / "before_v1.3")
    loaded = Evaluation.load_all(tmp_path / "deep")["before_v1.2"]
    assert loaded.table == found.table
    assert (loaded.dataset, loaded.model, loaded.head) == ("d", "m", "pbe")
    assert all(np.array_equal(loaded.points[p][k], found.points[p][k]) for p in found.points for k in (0, 1))


def test_missing_evaluation_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="final.json is missing"):
        Evaluation.load(tmp_path / "final")


def test_unlabelled_dataset_is_refused(potential):
    water = Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="dataset 'd' has no labelled structure"):
        evaluate_head(potential, [collate([water], cutoff=potential.cutoff)], dataset="d", model="m", head="pbe")


def test_error_table_emphasises_the_smallest_force_error(potential, batches):
    first = evaluate_head(potential, batches, dataset="d", model="first", head="pbe")
    with torch.no_grad():
        potential.heads["pbe"].scale.fill_(100.0)
    worse = evaluate_head(potential, batches, dataset="d", model="worse", head="pbe")
    table = error_table([worse, first], "errors")
    assert table.best == 1
    assert table.rows[1][3] == pytest.approx(1e3 * first.get("forces", "mae"))


def test_full_table_lists_every_element(potential, batches):
    found = evaluate_head(potential, batches, dataset="d", model="m", head="pbe")
    assert {row[1] for row in full_table(found).rows} == {"all", "H", "O"}
    assert set(found.force_mae_per_element()) == {"H", "O"}


def test_tables_show_force_errors_on_free_and_on_all_atoms_side_by_side(potential, batches):
    found = evaluate_head(potential, batches, dataset="water", model="pbe", head="pbe")
    table = error_table([found], "Errors")
    numbers = dict(zip(table.columns, table.rows[0], strict=True))
    assert numbers["force MAE meV/Å"] == pytest.approx(1e3 * found.get("forces", "mae"))
    assert numbers["force MAE, fixed atoms too"] == pytest.approx(1e3 * found.get("forces_all_atoms", "mae"))
    assert {"forces of free atoms, eV/A", "forces of all atoms, eV/A"} <= {row[0] for row in full_table(found).rows}


def test_without_fixed_atoms_the_tables_have_no_such_column(potential, batches):
    free = [replace(batch, fixed=torch.zeros_like(batch.fixed)) for batch in batches]
    found = evaluate_head(potential, free, dataset="water", model="pbe", head="pbe")
    assert not [name for name in error_table([found], "Errors").columns if "fixed" in name]
    assert "forces, eV/A" in {row[0] for row in full_table(found).rows}
