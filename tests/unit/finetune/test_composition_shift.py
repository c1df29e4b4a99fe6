import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.finetune.alignment.composition_shift import fit_composition_shift, open_compositions

ELEMENTS = (1, 6, 8)
TRUE_SHIFT = np.array([-12.5, -1030.25, -2040.5])


def frames(n, seed=0):
    return np.random.default_rng(seed).integers(1, 12, size=(n, 3))


def test_determined_compositions_recover_the_shift_exactly():
    counts = frames(12)
    fit = fit_composition_shift(counts, counts @ TRUE_SHIFT, ELEMENTS)
    np.testing.assert_allclose(fit.shift, TRUE_SHIFT, rtol=1e-11)
    assert (fit.rank, fit.ridge, fit.regularised) == (3, 0.0, ())
    assert fit.rmse_after < 1e-9 < fit.rmse_before


def test_without_ridge_the_fit_is_weighted_least_squares():
    counts = frames(30)
    differences = counts @ TRUE_SHIFT + np.random.default_rng(1).normal(size=30)
    n_atoms = counts.sum(axis=1)
    expected = np.linalg.lstsq(counts / n_atoms[:, None], differences / n_atoms, rcond=None)[0]
    np.testing.assert_allclose(fit_composition_shift(counts, differences, ELEMENTS, ridge=0.0).shift, expected, rtol=1e-9)


def test_one_composition_gives_one_common_shift():
    counts = np.tile([4, 1, 1], (30, 1))
    noise = np.random.default_rng(0).normal(size=30)
    fit = fit_composition_shift(counts, 6 * (-250.0 + 0.01 * noise), ELEMENTS)
    np.testing.assert_allclose(fit.shift, -250.0 + 0.01 * noise.mean(), rtol=1e-12)
    assert fit.rank == 1
    assert "every difference between H, C, O" in fit.regularised[0]


def test_undetermined_direction_follows_the_common_shift_and_is_named():
    counts = np.array([[2 * k, k, m] for k, m in [(1, 3), (2, 1), (3, 5), (1, 1), (4, 2)]])  # H always 2 C
    fit = fit_composition_shift(counts, counts @ np.array([-1.0, -1.0, -3.0]), ELEMENTS)
    assert fit.rank == 2
    assert len(fit.regularised) == 1
    assert "H" in fit.regularised[0] and "C" in fit.regularised[0]
    assert fit.rmse_after < 1e-9
    assert np.ptp(fit.shift) < 5.0  # the undetermined part did not run away


def test_left_out_error_equals_refitting_without_each_frame():
    counts = frames(9, seed=3)
    differences = counts @ TRUE_SHIFT + np.random.default_rng(4).normal(size=9)
    left_out = []
    for k in range(9):
        keep = np.arange(9) != k
        shift = fit_composition_shift(counts[keep], differences[keep], ELEMENTS, ridge=0.0).shift
        left_out.append((differences[k] - counts[k] @ shift) / counts[k].sum())
    expected = np.sqrt(np.mean(np.square(left_out)))
    assert fit_composition_shift(counts, differences, ELEMENTS, ridge=0.0).rmse_leave_one_out == pytest.approx(expected, rel=1e-8)


def test_noise_along_a_barely_determined_direction_is_damped():
    rng = np.random.default_rng(5)
    counts = np.tile([40, 40, 40], (20, 1))
    counts[::2] += [1, -1, 0]  # compositions differ by one atom in 120
    differences = counts.sum(axis=1) * (-5.0 + rng.normal(size=20))
    fit = fit_composition_shift(counts, differences, ELEMENTS)
    assert fit.ridge > 0
    assert np.ptp(fit.shift) < np.ptp(fit_composition_shift(counts, differences, ELEMENTS, ridge=0.0).shift)


def test_strong_ridge_makes_all_elements_move_together():
    counts = frames(20)
    fit = fit_composition_shift(counts, counts @ TRUE_SHIFT, ELEMENTS, ridge=1e12)
    np.testing.assert_allclose(fit.shift, fit.common, rtol=1e-6)


def test_single_frame_and_single_element():
    fit = fit_composition_shift(np.array([[3]]), np.array([-6.0]), (29,))
    assert fit.shift.tolist() == [-2.0]
    assert fit.to_dict()["rmse_left_out_eV_per_atom"] is None


@pytest.mark.parametrize("counts, n_differences", [((0, 3), 0), ((2, 2), 2), ((2, 3), 3)])
def test_wrong_shapes_are_named(counts, n_differences):
    with pytest.raises(ValueError, match="one difference per frame"):
        fit_composition_shift(np.ones(counts), np.zeros(n_differences), ELEMENTS)


def test_non_finite_differences_are_refused():
    with pytest.raises(ValueError, match="1 of 2 energy differences are not finite"):
        fit_composition_shift(np.ones((2, 3)), np.array([1.0, np.nan]), ELEMENTS)


def in_table(counts):
    """(n, 119) from counts of `ELEMENTS`."""
    table = np.zeros((len(counts), 119))
    table[:, ELEMENTS] = counts
    return table


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3).filter(any), min_size=1, max_size=4), st.integers(0, 2**16))
def test_mixtures_of_the_frames_compositions_have_a_certain_zero(counts, seed):
    table = in_table(counts)
    parts = np.random.default_rng(seed).integers(0, 3, size=len(counts))
    assert np.linalg.norm(parts @ table @ open_compositions(table, 100.0)) < 1e-9


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3).filter(any), min_size=1, max_size=4), st.tuples(*[st.integers(0, 6)] * 3))
def test_any_other_composition_has_an_open_zero(counts, other):
    table, new = in_table(counts), in_table([other])
    determined = np.linalg.matrix_rank(np.concatenate([table, new])) == np.linalg.matrix_rank(table)
    width = np.linalg.norm(new @ open_compositions(table, 100.0))
    assert width < 1e-9 if determined else width > 1.0


def test_an_element_that_no_frame_has_is_open_by_the_scale_for_each_of_its_atoms():
    open_zero = open_compositions(in_table([(2, 0, 1)]), 30.0)
    platinum = np.zeros(119)
    platinum[78] = 2
    assert 60.0 <= np.linalg.norm(platinum @ open_zero) <= 2 * 60.0


@pytest.mark.parametrize("n_frames, scale", [(0, 1.0), (1, -1.0), (1, np.nan)])
def test_open_compositions_need_frames_and_a_scale(n_frames, scale):
    with pytest.raises(ValueError, match="at least one frame and a scale"):
        open_compositions(np.ones((n_frames, 119)), scale)
