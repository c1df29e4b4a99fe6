"""The number that chooses the best weights, and when it is no use to go on."""

import pytest

from unipot.training.callbacks import Validation, selection_value
from unipot.training.metrics import MetricRow, MetricTable


def table(**errors: tuple[float, float]) -> MetricTable:
    """Dataset name -> (energy_per_atom MAE, force MAE)."""
    rows = []
    for name, pair in errors.items():
        for property, mae in zip(("energy_per_atom", "forces"), pair, strict=True):
            rows.append(
                MetricRow(dataset=name, property=property, element=None, n=1, mae=mae, rmse=2 * mae, cosine=None, within=None)
            )
    return MetricTable(rows=rows)


def test_auto_is_the_weighted_mean_of_force_errors() -> None:
    assert selection_value(table(a=(9.0, 1.0), b=(9.0, 3.0)), "auto", "mae", {"b": 3.0}) == pytest.approx(2.5)


def test_balanced_does_not_change_when_one_dataset_is_measured_in_other_units() -> None:
    better = selection_value(table(a=(0.1, 0.2), b=(1.0, 2.0)), "balanced", "mae", {})
    worse = selection_value(table(a=(0.2, 0.2), b=(1.0, 2.0)), "balanced", "mae", {})
    assert worse / better == pytest.approx(2**0.25)
    better_small, worse_small = (selection_value(table(a=(e, 0.2), b=(1e-3, 2e-3)), "balanced", "mae", {}) for e in (0.1, 0.2))
    assert worse_small / better_small == pytest.approx(worse / better)


def test_balanced_leaves_out_datasets_of_weight_zero() -> None:
    assert selection_value(table(a=(0.5, 0.5), b=(7.0, 7.0)), "balanced", "mae", {"b": 0.0}) == pytest.approx(0.5)


def test_auto_looks_at_no_property_that_only_datasets_of_weight_zero_have() -> None:
    """`a` has energies alone; with forces of `b` every model would be as good as any other."""
    rows = [row for row in table(a=(0.5, 0.1), b=(7.0, 7.0)).rows if (row.dataset, row.property) != ("a", "forces")]
    assert selection_value(MetricTable(rows=rows), "auto", "mae", {"b": 0.0}) == pytest.approx(0.5)


def test_property_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation set is labelled"):
        selection_value(table(a=(0.5, 0.5)), "stress", "mae", {})


def test_patience_counts_on_after_a_resume() -> None:
    before, after = (Validation(dataset_names=["a"], every=1, patience=3) for _ in range(2))
    before.best, before.n_without_gain = (4, 0.5), 2
    after.load_state_dict(before.state_dict())
    assert (after.best, after.n_without_gain, after.stopped) == ((4, 0.5), 2, False)
    before.n_without_gain = 3
    after.load_state_dict(before.state_dict())
    assert after.stopped


def test_run_states_from_before_there_was_patience_are_read() -> None:
    validation = Validation(dataset_names=["a"], every=1, patience=3)
    validation.load_state_dict({"best": [4, 0.5]})
    assert (validation.best, validation.n_without_gain) == ((4, 0.5), 0)
