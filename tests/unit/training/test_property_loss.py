"""Loss, metrics and selection of scalar properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unipot.batch import Predictions
from unipot.properties import ScalarProperty
from unipot.training.callbacks import selection_value
from unipot.training.losses import StepLoss
from unipot.training.metrics import MetricAccumulator, MetricTable, labelled_properties
from unipot.training.property_loss import ScalarTerm, bootstrap_weights

GAP = ScalarProperty(name="gap", key="gap", unit="eV", threshold=0.5)
LABELS = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.0, 6.0], dtype=torch.float64)
MASK = torch.tensor([True, True, False, True, False, True])


@pytest.fixture
def valued(batch):
    """The mixed batch with gaps for four of six structures."""
    return replace(batch, labels={**batch.labels, "gap": LABELS}, label_mask={**batch.label_mask, "gap": MASK})


def predicted(errors, n_members=3):
    """Members that miss the labels by `errors`, all alike."""
    members = (LABELS + torch.tensor(errors, dtype=torch.float64))[:, None].repeat(1, n_members).requires_grad_(True)
    return Predictions(energy=torch.zeros(6, dtype=torch.float64, requires_grad=True), members={"gap": members})


def test_one_member_sums_huber_of_normalised_residuals(valued):
    term = ScalarTerm(property="gap", spread=2.0)
    total, count = term(predicted([1.0, -1.0, 99.0, 0.0, 99.0, 8.0], n_members=1), valued)
    assert count == 4 == term.count(valued)
    assert float(total.detach()) == pytest.approx(0.5 * 0.5**2 * 2 + (4 - 0.5))


def test_members_weigh_structures_by_their_bootstrap(valued):
    term = ScalarTerm(property="gap", spread=1.0, seed=4)
    predictions = predicted([0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    total, _ = term(predictions, valued)
    weights = bootstrap_weights([valued.ids[0]], 3, 4)
    assert float(total.detach()) == pytest.approx(0.5 * 0.25 * float(weights.mean()))
    total.backward()
    assert torch.unique(predictions.members["gap"].grad[0]).numel() == 3


def test_bootstrap_weights_are_a_function_of_seed_and_id():
    ids = [f"s{k}" for k in range(4000)]
    weights = bootstrap_weights(ids, 4, 7)
    assert torch.equal(weights[[17]], bootstrap_weights(["s17"], 4, 7))
    assert not torch.equal(weights, bootstrap_weights(ids, 4, 8))
    assert torch.allclose(weights.mean(dim=0), torch.ones(4, dtype=torch.float64), atol=0.06)
    assert torch.allclose(weights.std(dim=0), torch.ones(4, dtype=torch.float64), atol=0.1)
    assert np.abs(np.corrcoef(weights.numpy().T) - np.eye(4)).max() < 0.06


def test_without_values_the_loss_is_zero_and_connected(batch):
    predictions = predicted([0.0] * 6)
    predictions.members["gap"].data[2] = torch.nan
    total, count = ScalarTerm(property="gap", spread=1.0)(predictions, batch)
    total.backward()
    assert (float(total.detach()), float(count)) == (0.0, 0.0)
    assert torch.nan_to_num(predictions.members["gap"].grad).abs().max() == 0


def test_a_value_of_an_element_that_was_not_fitted_is_named(valued):
    predictions = predicted([0.0] * 6)
    predictions.members["gap"].data[3] = torch.nan
    with pytest.raises(ValueError, match="structure 's3' has a value of 'gap', but elements"):
        ScalarTerm(property="gap", spread=1.0)(predictions, valued)


def test_a_step_loss_of_a_property_alone(valued):
    loss = StepLoss(terms=(ScalarTerm(property="gap", spread=1.0, weight=2.0),))
    assert loss.properties == ("gap",)
    predictions = predicted([2.0] * 6, n_members=1)
    total, shares = loss(predictions, valued, loss.counts([valued, valued]))
    assert float(total.detach()) == pytest.approx(2.0 * 4 * 1.5 / 8)
    assert shares.tolist() == pytest.approx([0.75])


def table_of(predictions, batch, **options):
    accumulator = MetricAccumulator(["even", "odd"], properties={"gap": GAP}, **options)
    accumulator.update(predictions, batch)
    return accumulator.compute()


def test_errors_of_a_property_by_dataset(valued):
    table = table_of(predicted([0.3, 0.6, 99.0, -0.2, 99.0, 1.0]), valued)
    assert table.value("even", "gap", "mae") == pytest.approx(0.3)
    assert table.value("odd", "gap", "mae") == pytest.approx((0.6 + 0.2 + 1.0) / 3)
    assert table.value("odd", "gap", "rmse") == pytest.approx(((0.36 + 0.04 + 1.0) / 3) ** 0.5)
    assert table.value("odd", "gap", "within") == pytest.approx(1 / 3)
    assert table.scalars == ("gap",) and table.units["gap"] == "eV"


def test_a_threshold_can_be_overridden_and_unknown_ones_are_refused(valued):
    table = table_of(predicted([0.3, 0.6, 0.0, -0.2, 0.0, 1.0]), valued, thresholds={"gap": 0.7})
    assert table.value("odd", "gap", "within") == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="threshold for 'hardness' is not known; known are: .*gap"):
        MetricAccumulator(["a"], {"hardness": 1.0}, {"gap": GAP})


def test_without_a_threshold_there_is_no_success_rate(valued):
    accumulator = MetricAccumulator(["even", "odd"], properties={"gap": replace(GAP, threshold=None)})
    accumulator.update(predicted([0.3] * 6), valued)
    (row,) = [row for row in accumulator.compute().rows if (row.dataset, row.property) == ("even", "gap")]
    assert row.within is None and row.mae == pytest.approx(0.3)


def test_only_properties_of_the_model_are_asked_for(batch, valued):
    assert labelled_properties(valued, ["gap"]) == ("energy", "forces", "stress", "gap")
    assert labelled_properties(batch, ["gap"]) == labelled_properties(valued) == ("energy", "forces", "stress")


def test_selection_takes_properties_with_the_forces(valued, predictions):
    both = table_of(replace(predictions, members=predicted([0.5] * 6).members), valued)
    without = MetricTable(rows=[row for row in both.rows if row.property != "gap"])
    forces = selection_value(without, "auto", "mae", {})
    assert selection_value(both, "auto", "mae", {}) == pytest.approx((forces * 0.5) ** 0.5)
    assert selection_value(both, "gap", "mae", {}) == pytest.approx(0.5)


def test_selection_works_with_properties_alone(valued):
    table = table_of(predicted([0.5] * 6), valued)
    alone = MetricTable(rows=[row for row in table.rows if row.property == "gap"], units=table.units)
    assert selection_value(alone, "auto", "mae", {}) == pytest.approx(0.5)
