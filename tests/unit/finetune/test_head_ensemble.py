"""Ensemble and left-out errors against a linear truth, and both against solving again."""

from types import SimpleNamespace

import numpy as np
import pytest

from unipot.finetune.alignment.readout_fit import free_of_composition
from unipot.finetune.linear.evidence import Block, NothingToFit, laplace_posterior
from unipot.finetune.linear.frame_sums import FrameSums, extended, frame_sums
from unipot.finetune.linear.readout_rows import ReadoutRows
from unipot.finetune.uncertainty.head_ensemble import ensemble_factor
from unipot.finetune.uncertainty.leave_one_out import leave_one_out_residuals

N_WEIGHTS, NOISE = 5, {"energy": 0.02, "forces": 0.1}


def linear_rows(rng, n_frames=60, n_forces=6, designs=None, fractions=None):
    """Frames of a linear truth that a shift per element and `N_WEIGHTS` weights describe; returns the rows, labels as targets."""
    fractions = rng.dirichlet((1, 1), size=n_frames) if fractions is None else fractions
    owners = {"energy": np.arange(n_frames), "forces": np.repeat(np.arange(n_frames), n_forces), "stress": np.zeros(0, dtype=int)}
    designs = designs or {name: rng.normal(size=(len(own), N_WEIGHTS)) for name, own in owners.items()}
    truth, shift = np.arange(1.0, N_WEIGHTS + 1), np.array([-3.0, 2.0])
    targets = {name: designs[name] @ truth + NOISE.get(name, 0) * rng.normal(size=len(own)) for name, own in owners.items()}
    targets["energy"] += fractions @ shift
    blocks = {name: Block(design=designs[name], target=targets[name]) for name in owners}
    sizes = np.full(n_frames, 3)
    return ReadoutRows(blocks=blocks, frames=owners, fractions=fractions, n_atoms=sizes, n_frames=n_frames, n_components=3 * n_forces)


def solved(rows, chosen=None):
    """Weights and shifts by least squares over the frames `chosen`, and the rows with their residuals; no code of ours."""
    chosen = np.ones(rows.n_frames, dtype=bool) if chosen is None else chosen
    scaled = [(extended(rows, n)[chosen[rows.frames[n]]] / s, rows.blocks[n].target[chosen[rows.frames[n]]] / s) for n, s in NOISE.items()]
    weights = np.linalg.lstsq(np.concatenate([a for a, _ in scaled]), np.concatenate([b for _, b in scaled]), rcond=None)[0]
    blocks = {n: Block(design=b.design, target=b.target - extended(rows, n) @ weights) for n, b in rows.blocks.items()}
    return weights, ReadoutRows(**{**vars(rows), "blocks": blocks})


def sums_of(rows) -> FrameSums:
    return frame_sums(rows, SimpleNamespace(noise=NOISE, prior_precision=1e-9))


def test_error_bars_of_differences_are_the_true_spread_over_new_data():
    """Labels are drawn again 400 times on the same frames: posterior and ensemble must tell the spread of the solved weights."""
    rng = np.random.default_rng(0)
    first = linear_rows(rng, n_frames=300)
    designs = {name: block.design for name, block in first.blocks.items()}
    again = [solved(linear_rows(rng, 300, designs=designs, fractions=first.fractions))[0][:N_WEIGHTS] for _ in range(400)]
    differences = rng.normal(size=(40, N_WEIGHTS)) - rng.normal(size=(40, N_WEIGHTS))
    true = np.std(np.array(again) @ differences.T, axis=0)
    weights, rows = solved(first)
    posterior = laplace_posterior(free_of_composition(rows), weights[:N_WEIGHTS]).factor
    for factor, tolerance in ((posterior, 0.2), (ensemble_factor(sums_of(rows), n_members=200), 0.3)):
        found = np.linalg.norm(differences @ factor, axis=1)
        np.testing.assert_allclose(found, true, rtol=tolerance)


def test_members_are_independent_least_squares_solutions_of_resamples():
    weights, rows = solved(linear_rows(np.random.default_rng(1)))
    sums = sums_of(rows)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=8)
    factor = ensemble_factor(sums, n_members=8)
    members = []
    for own in counts:
        repeated = np.repeat(np.arange(60), own)
        picked = [(n, s, rows.frames[n] == frame) for frame in repeated for n, s in NOISE.items()]
        stacked = [(extended(rows, n)[mask] / s, rows.blocks[n].target[mask] / s) for n, s, mask in picked]
        design, target = (np.concatenate(column) for column in zip(*stacked, strict=True))
        members.append(np.linalg.lstsq(design, target, rcond=None)[0][:N_WEIGHTS])
    np.testing.assert_allclose(factor @ factor.T, np.cov(np.array(members).T), rtol=1e-5)


def test_fewer_members_than_weights_leave_zero_columns():
    _, rows = solved(linear_rows(np.random.default_rng(1)))
    factor = ensemble_factor(sums_of(rows), n_members=3)
    assert factor.shape == (N_WEIGHTS, N_WEIGHTS)
    assert np.abs(factor[:, :3]).max() > 0 and not factor[:, 3:].any()


def test_left_out_residual_is_that_of_a_fit_without_the_frame():
    truth = linear_rows(np.random.default_rng(2), n_frames=12)
    _, rows = solved(truth)
    sums = sums_of(rows)
    found = {name: leave_one_out_residuals(rows, sums, name) for name in NOISE}
    for frame in (0, 7):
        _, without = solved(truth, np.arange(12) != frame)
        for name, (residual, exists) in found.items():
            own = rows.frames[name] == frame
            assert exists[own].all()
            np.testing.assert_allclose(residual[own], without.blocks[name].target[own], rtol=1e-5)
            assert np.abs(residual[own] - rows.blocks[name].target[own]).max() > 1e-4


def test_groups_are_left_out_together():
    truth = linear_rows(np.random.default_rng(2), n_frames=12)
    _, rows = solved(truth)
    groups = [f"trajectory {k % 6}" for k in range(12)]
    sums = frame_sums(rows, SimpleNamespace(noise=NOISE, prior_precision=1e-9), groups)
    assert sums.n_units == 6
    residual, _ = leave_one_out_residuals(rows, sums, "forces")
    _, without = solved(truth, np.arange(12) % 6 != 2)
    own = np.isin(rows.frames["forces"], (2, 8))
    np.testing.assert_allclose(residual[own], without.blocks["forces"].target[own], rtol=1e-5)


def test_energy_of_the_only_frame_of_a_composition_cannot_be_left_out():
    fractions = np.array([[1.0, 0.0]] * 9 + [[0.5, 0.5]])
    _, rows = solved(linear_rows(np.random.default_rng(3), n_frames=10, fractions=fractions))
    _, exists = leave_one_out_residuals(rows, sums_of(rows), "energy")
    assert exists.tolist() == [True] * 9 + [False]


def test_one_frame_makes_no_ensemble():
    rng = np.random.default_rng(4)
    with pytest.raises(NothingToFit, match="one frame cannot be resampled"):
        ensemble_factor(sums_of(linear_rows(rng, n_frames=1)))
    with pytest.raises(ValueError, match="at least 2 members"):
        ensemble_factor(sums_of(linear_rows(rng)), n_members=1)
