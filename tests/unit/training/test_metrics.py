from dataclasses import replace

import pytest
import torch

from unipot.training.metrics import ALL_ATOMS, MetricAccumulator, evaluate


@pytest.fixture
def table(batch, predictions):
    accumulator = MetricAccumulator(["even", "odd"])
    accumulator.update(predictions, batch)
    return accumulator.compute()


def test_energy_errors_by_dataset(batch, predictions, table):
    own = batch.dataset_index == 1
    error = (predictions.energy - batch.labels["energy"]).detach()[own]
    assert table.value("odd", "energy", "mae") == pytest.approx(error.abs().mean().item(), rel=1e-14)
    assert table.value("odd", "energy", "rmse") == pytest.approx(error.square().mean().sqrt().item(), rel=1e-14)
    per_atom = error / batch.n_atoms_per_structure[own]
    assert table.value("odd", "energy_per_atom", "mae") == pytest.approx(per_atom.abs().mean().item(), rel=1e-14)


def test_forces_errors_over_components_of_free_labelled_atoms(batch, predictions, table):
    own = (batch.label_mask["forces"] & (batch.dataset_index == 0))[batch.structure_index] & ~batch.fixed
    error = (predictions.forces - batch.labels["forces"]).detach()[own]
    assert table.value("even", "forces", "mae") == pytest.approx(error.abs().mean().item(), rel=1e-14)
    labels = batch.labels["forces"][own]
    size = labels.norm(dim=1)
    cosine = (size * torch.cosine_similarity(predictions.forces[own], labels, dim=1)).sum() / size.sum()
    assert table.value("even", "forces", "cosine") == pytest.approx(cosine.item(), rel=1e-12)


def test_force_errors_on_all_atoms_stand_beside_those_on_free_ones(batch, predictions, table):
    own = (batch.label_mask["forces"] & (batch.dataset_index == 0))[batch.structure_index]
    assert bool(batch.fixed[own].any())
    error = (predictions.forces - batch.labels["forces"]).detach()[own]
    assert table.value("even", ALL_ATOMS, "mae") == pytest.approx(error.abs().mean().item(), rel=1e-14)
    assert table.value("even", ALL_ATOMS, "mae") != pytest.approx(table.value("even", "forces", "mae"))
    titles = {table.title(row) for row in table.rows if row.dataset == "even"}
    assert {"forces of free atoms", "forces of all atoms"} <= titles and "forces" not in titles


def test_without_fixed_atoms_there_is_one_error_of_forces(batch, predictions):
    accumulator = MetricAccumulator(["even", "odd"])
    accumulator.update(predictions, replace(batch, fixed=torch.zeros_like(batch.fixed)))
    table = accumulator.compute()
    assert ALL_ATOMS not in {row.property for row in table.rows} and "forces" in {table.title(row) for row in table.rows}


def test_atoms_of_weight_zero_are_none_of_all_atoms(batch, predictions):
    """They count as fixed where the loss is concerned, and nowhere else."""
    weights = torch.ones(batch.n_atoms, dtype=batch.positions.dtype)
    weights[::2] = 0.0
    masks = {**batch.label_mask, "atom_weights": torch.ones(batch.n_structures, dtype=torch.bool)}
    weighted = replace(batch, labels={**batch.labels, "atom_weights": weights}, label_mask=masks, fixed=torch.zeros_like(batch.fixed))
    accumulator = MetricAccumulator(["even", "odd"])
    accumulator.update(predictions, weighted)
    assert ALL_ATOMS not in {row.property for row in accumulator.compute().rows}


def test_forces_that_only_fixed_atoms_have_are_predicted_and_compared(batch, make_potential):
    fixed = replace(batch, fixed=torch.ones_like(batch.fixed), head_index=torch.zeros_like(batch.head_index))
    table = evaluate(make_potential(), [fixed], ["even", "odd"])
    properties = {row.property for row in table.rows if row.dataset == "even"}
    assert ALL_ATOMS in properties and "forces" not in properties


def test_elements_add_up_to_all(table):
    rows = [row for row in table.rows if row.dataset == "even" and row.property == "forces"]
    whole = next(row for row in rows if row.element is None)
    parts = [row for row in rows if row.element is not None]
    assert sum(row.n for row in parts) == whole.n
    assert sum(row.n * row.mae for row in parts) == pytest.approx(whole.n * whole.mae, rel=1e-12)


def test_perfect_predictions_have_zero_error_and_cosine_one(batch, predictions):
    exact = replace(predictions, energy=batch.labels["energy"], forces=batch.labels["forces"], stress=batch.labels["stress"])
    accumulator = MetricAccumulator(["even", "odd"])
    accumulator.update(exact, batch)
    table = accumulator.compute()
    assert table.value("even", "forces", "mae") == 0.0
    assert table.value("even", "forces", "cosine") == pytest.approx(1.0)
    assert table.value("even", "energy_and_forces", "within") == 1.0


def test_within_needs_energy_and_every_force(batch, predictions):
    forces = batch.labels["forces"].clone()
    forces[~batch.fixed] += 0.029
    energy = batch.labels["energy"] + 0.019
    for worse, expected in ((0.0, 1.0), (0.002, 0.0)):
        accumulator = MetricAccumulator(["even", "odd"])
        accumulator.update(replace(predictions, energy=energy + worse, forces=forces), batch)
        assert accumulator.compute().value("odd", "energy_and_forces", "within") == expected


def test_sums_do_not_depend_on_how_structures_are_batched(make_batch, make_potential):
    potential = make_potential(heads=("a", "b"))
    whole = evaluate(potential, [make_batch(range(6))], ["even", "odd"])
    parts = evaluate(potential, [make_batch([k]) for k in range(6)], ["even", "odd"])
    assert whole.flat().keys() == parts.flat().keys()
    for key, value in whole.flat().items():
        assert parts.flat()[key] == pytest.approx(value, rel=1e-9), key


def test_datasets_without_labels_have_no_rows(make_batch, make_potential):
    table = evaluate(make_potential(heads=("a", "b")), [make_batch([2])], ["even", "odd"])
    assert {(row.dataset, row.property) for row in table.rows} == {("even", "energy"), ("even", "energy_per_atom")}


def test_missing_row_is_named(table):
    with pytest.raises(KeyError, match="no 'mae' of 'stress' for dataset 'nowhere'"):
        table.value("nowhere", "stress", "mae")


def test_markdown_and_dict_have_every_dataset(table):
    assert "| odd | forces (eV/A) | all |" in table.to_markdown()
    assert {row["dataset"] for row in table.to_dict()["rows"]} == {"even", "odd"}


def test_unknown_threshold_is_refused():
    with pytest.raises(ValueError, match="threshold for 'force' is not known"):
        MetricAccumulator(["a"], {"force": 0.1})


def test_labels_of_weight_zero_do_not_count(batch, predictions):
    """As if they were not there; a weight that is not zero makes no difference."""
    weight = torch.tensor([0.0, 2.0] * batch.n_structures, dtype=torch.float64)[: batch.n_structures]
    stated = torch.ones(batch.n_structures, dtype=torch.bool)
    weighted = replace(batch, labels={**batch.labels, "weight": weight}, label_mask={**batch.label_mask, "weight": stated})
    masked = replace(batch, label_mask={name: mask & (weight > 0) for name, mask in batch.label_mask.items()})
    tables = []
    for each in (weighted, masked):
        accumulator = MetricAccumulator(["even", "odd"])
        accumulator.update(predictions, each)
        tables.append(accumulator.compute())
    assert tables[0].rows == tables[1].rows
    assert tables[0].rows
