"""Quality of error bars, from errors whose distribution is known."""

import json

import numpy as np
import pytest
from scipy import stats

from unipot.finetune.uncertainty.calibration import ErrorsAndWidths
from unipot.reporting.error_bar_quality import calibration_figure, error_bar_quality, miscalibration_area, observed_coverage, quality_table


def normal_errors(too_small=1.0, n=8000):
    """Errors drawn with the stated standard deviations, which are then divided by `too_small`."""
    rng = np.random.default_rng(0)
    widths = np.exp(rng.normal(size=n))
    return ErrorsAndWidths(errors=np.abs(widths * rng.normal(size=n)), widths=widths / too_small, structures=np.arange(n) // 8)


def test_true_standard_deviations_are_calibrated_and_follow_the_errors():
    found = error_bar_quality("forces", normal_errors(), factor=2.0)
    assert found.coverage == pytest.approx(0.9, abs=0.01)
    assert found.expected_error < 0.01 < found.expected_error_before
    assert found.coverage_before == pytest.approx(2 * stats.norm.cdf(1.645 / 2) - 1, abs=0.02)  # the factor taken out again
    assert found.needed_factor == pytest.approx(1.0, abs=0.03)
    assert found.spearman > 0.4
    assert found.n_structures == 1000


def test_error_bars_half_as_wide_as_they_should_be_are_found_out():
    found = error_bar_quality("energy", normal_errors(too_small=2.0), factor=1.0)
    assert found.coverage == pytest.approx(2 * stats.norm.cdf(1.645 / 2) - 1, abs=0.02)
    assert found.needed_factor == pytest.approx(2.0, abs=0.06)
    assert found.expected_error == found.expected_error_before > 0.1


def test_area_of_intervals_that_always_or_never_cover_is_one_half():
    assert miscalibration_area(np.zeros(101)) == pytest.approx(0.5, abs=0.01)
    assert miscalibration_area(observed_coverage(np.zeros(10))) == pytest.approx(0.5, abs=1e-9)


def test_errors_without_variation_have_no_correlation():
    flat = ErrorsAndWidths(errors=np.ones(5), widths=np.ones(5), structures=np.arange(5))
    assert error_bar_quality("energy", flat, 1.0).spearman is None


def test_no_errors_is_refused():
    nothing = ErrorsAndWidths(errors=np.zeros(0), widths=np.zeros(0), structures=np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="no structure has a label of energy"):
        error_bar_quality("energy", nothing, 1.0)


def test_table_figure_and_json_of_two_properties():
    both = [error_bar_quality(name, normal_errors(n=200), 1.5) for name in ("energy", "forces")]
    table = quality_table("water", "mine", both).to_markdown()
    assert "energy, meV |" in table and "calibration error" in table
    assert calibration_figure({"water": both}).startswith(b"\x89PNG")
    json.dumps([quality.to_dict() for quality in both], allow_nan=False)
