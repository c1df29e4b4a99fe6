import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.reporting.data_efficiency import Bounded, data_efficiency, frames_needed, median_of, monotone

positive = st.floats(min_value=1e-3, max_value=1e3)
curves = st.dictionaries(st.integers(min_value=2, max_value=2000), positive, min_size=1, max_size=6)


@given(scale=positive, exponent=st.floats(min_value=0.1, max_value=2.0), frames=st.floats(min_value=10.0, max_value=1000.0))
def test_a_power_law_is_inverted_exactly(scale, exponent, frames):
    reference = {n: scale * n**-exponent for n in (10, 30, 100, 1000)}
    needed = frames_needed(reference, scale * frames**-exponent)
    if 10.01 < frames < 999.9:
        assert needed.bound == "exact"
    assert needed.value == pytest.approx(frames, rel=1e-6)


@given(exponent=st.floats(min_value=0.1, max_value=2.0), gain=st.floats(min_value=1.5, max_value=9.0))
def test_the_factor_of_a_strategy_that_sees_more_in_each_frame_is_that_multiple(exponent, gain):
    reference = {n: n**-exponent for n in (10, 100, 1000)}
    assert data_efficiency(reference, 50, (gain * 50) ** -exponent).value == pytest.approx(gain, rel=1e-6)


@given(curve=curves, error=positive)
def test_a_bound_is_given_exactly_where_the_error_is_outside_the_curve(curve, error):
    needed, errors = frames_needed(curve, error), list(monotone(curve).values())
    expected = "upper" if error > errors[0] else "lower" if error < errors[-1] else "exact"
    assert needed.bound == expected
    assert min(curve) * (1 - 1e-9) <= needed.value <= max(curve) * (1 + 1e-9)


@given(curve=curves, error=positive, factor=st.floats(min_value=1.0, max_value=10.0))
def test_a_smaller_error_never_needs_fewer_frames(curve, error, factor):
    assert frames_needed(curve, error / factor).value >= frames_needed(curve, error).value * (1 - 1e-9)


@given(curve=curves)
def test_noise_in_the_reference_never_flatters_the_factor(curve):
    made = monotone(curve)
    assert list(made) == sorted(curve) and all(made[n] <= curve[n] for n in curve)
    assert list(made.values()) == sorted(made.values(), reverse=True)


def test_worse_than_the_smallest_reference_is_an_upper_bound_of_the_factor():
    assert str(data_efficiency({100: 1.0, 300: 0.5}, 50, 2.0)) == "< 2.00"


def test_better_than_the_largest_reference_is_a_lower_bound_of_the_factor():
    assert str(data_efficiency({100: 1.0, 300: 0.5}, 10, 0.4)) == "> 30.0"


def test_median_does_not_care_for_bounds_on_its_far_sides():
    median = median_of([Bounded(value=2, bound="upper"), Bounded(value=5), Bounded(value=9, bound="lower")])
    assert (median.low, median.high, median.n, median.n_bounds) == (5, 5, 3, 2)
    assert str(median) == "5.00"


def test_median_that_is_a_bound_is_shown_as_one():
    assert str(median_of([Bounded(value=2), Bounded(value=5, bound="lower"), Bounded(value=9)])) == "5.00 to 9.00"
    assert str(median_of([Bounded(value=2), Bounded(value=9, bound="lower"), Bounded(value=8, bound="lower")])) == "> 8.00"
    assert str(median_of([Bounded(value=3, bound="upper")])) == "< 3.00"


@given(values=st.lists(positive, min_size=1, max_size=7), data=st.data())
def test_median_contains_the_median_of_whatever_the_bounds_stand_for(values, data):
    kinds = data.draw(st.lists(st.sampled_from(["exact", "lower", "upper"]), min_size=len(values), max_size=len(values)))
    median = median_of([Bounded(value=v, bound=k) for v, k in zip(values, kinds, strict=True)])
    truth = sorted({"exact": v, "lower": 3 * v, "upper": v / 3}[k] for v, k in zip(values, kinds, strict=True))
    middle = (truth[(len(truth) - 1) // 2] + truth[len(truth) // 2]) / 2
    assert median.low * (1 - 1e-9) <= middle <= median.high * (1 + 1e-9) or math.isinf(median.high)


def test_an_empty_reference_and_a_zero_error_are_refused():
    with pytest.raises(ValueError, match="no finished run"):
        frames_needed({}, 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        frames_needed({10: 1.0}, 0.0)
