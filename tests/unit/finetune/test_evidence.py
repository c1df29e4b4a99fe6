import numpy as np
import pytest

from unipot.finetune.linear.evidence import Block, laplace_posterior, log_evidence, maximise_evidence


@pytest.fixture
def blocks():
    """Two blocks of one linear truth, with noise of 0.1 and 0.5."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=6)
    designs = {"energy": rng.normal(size=(40, 6)), "forces": 3 * rng.normal(size=(200, 6))}
    noise = {"energy": 0.1, "forces": 0.5}
    return truth, {n: Block(design=x, target=x @ truth + noise[n] * rng.normal(size=len(x))) for n, x in designs.items()}


def test_mean_and_covariance_are_those_of_the_dense_solve(blocks):
    _, rows = blocks
    found = maximise_evidence(rows)
    stacked = np.concatenate([b.design / found.noise[n] for n, b in rows.items()])
    targets = np.concatenate([b.target / found.noise[n] for n, b in rows.items()])
    covariance = np.linalg.inv(stacked.T @ stacked + found.prior_precision * np.eye(6))
    np.testing.assert_allclose(found.mean, covariance @ stacked.T @ targets, rtol=1e-10)
    np.testing.assert_allclose(found.factor @ found.factor.T, covariance, rtol=1e-9, atol=1e-15)
    assert np.array_equal(found.factor, np.tril(found.factor))


def test_noise_of_each_block_and_the_weights_are_found(blocks):
    truth, rows = blocks
    found = maximise_evidence(rows)
    assert found.converged
    assert found.noise["energy"] == pytest.approx(0.1, rel=0.3)
    assert found.noise["forces"] == pytest.approx(0.5, rel=0.3)
    np.testing.assert_allclose(found.mean, truth, atol=0.1)


@pytest.mark.parametrize("factor", [0.7, 1.4])
@pytest.mark.parametrize("which", ["prior", "energy", "forces"])
def test_precisions_are_at_a_maximum_of_the_evidence(blocks, factor, which):
    _, rows = blocks
    found = maximise_evidence(rows)
    alpha, beta = found.prior_precision, {name: sigma**-2 for name, sigma in found.noise.items()}
    if which == "prior":
        alpha *= factor
    else:
        beta[which] *= factor
    assert log_evidence(rows, alpha, beta) < found.log_evidence


def test_labels_that_the_rows_do_not_explain_leave_the_weights_alone():
    rng = np.random.default_rng(1)
    rows = {"forces": Block(design=rng.normal(size=(400, 5)), target=rng.normal(size=400))}
    least_squares = np.linalg.lstsq(rows["forces"].design, rows["forces"].target, rcond=None)[0]
    assert np.abs(maximise_evidence(rows).mean).max() < 0.7 * np.abs(least_squares).max()


def test_start_does_not_change_the_result(blocks):
    _, rows = blocks
    first = maximise_evidence(rows)
    other = maximise_evidence({n: Block(design=b.design, target=2 * b.target) for n, b in rows.items()})
    np.testing.assert_allclose(maximise_evidence(rows, other).mean, first.mean, rtol=1e-4)


def test_more_weights_than_rows_is_still_finite():
    rng = np.random.default_rng(2)
    found = maximise_evidence({"energy": Block(design=rng.normal(size=(3, 10)), target=rng.normal(size=3))})
    assert np.isfinite(found.mean).all() and np.isfinite(found.factor).all()


def test_labels_that_are_exact_do_not_divide_by_zero():
    rng = np.random.default_rng(3)
    design = rng.normal(size=(50, 4))
    found = maximise_evidence({"forces": Block(design=design, target=design @ np.ones(4))})
    np.testing.assert_allclose(found.mean, 1.0, atol=1e-6)
    zero = maximise_evidence({"forces": Block(design=design, target=np.zeros(50))})
    np.testing.assert_allclose(zero.mean, 0.0, atol=1e-12)


def test_posterior_of_trained_weights_stays_at_them_and_narrows_with_data(blocks):
    truth, rows = blocks
    residuals = {n: Block(design=b.design, target=b.target - b.design @ truth) for n, b in rows.items()}
    few = {n: Block(design=b.design[:10], target=b.target[:10]) for n, b in residuals.items()}
    found, wide = laplace_posterior(residuals, truth), laplace_posterior(few, truth)
    assert np.array_equal(found.mean, truth)
    assert found.converged
    assert np.trace(found.factor @ found.factor.T) < 0.5 * np.trace(wide.factor @ wide.factor.T)


@pytest.mark.parametrize(
    "rows, message",
    [
        ({}, "no rows to fit"),
        ({"energy": Block(design=np.zeros((0, 3)), target=np.zeros(0))}, "no rows to fit"),
        ({"energy": Block(design=np.ones((2, 3)), target=np.array([1.0, np.nan]))}, "not finite"),
        ({"energy": Block(design=np.ones((2, 3)), target=np.ones(3))}, "2 rows and 3 targets"),
        ({"a": Block(design=np.ones((2, 3)), target=np.ones(2)), "b": Block(design=np.ones((2, 4)), target=np.ones(2))}, "same number"),
    ],
)
def test_bad_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        maximise_evidence(rows)
