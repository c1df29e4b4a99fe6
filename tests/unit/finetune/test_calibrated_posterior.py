import numpy as np
import pytest
import torch
from scipy import stats

from unipot.finetune.align import align_head
from unipot.finetune.calibrated_posterior import fit_posterior
from unipot.finetune.calibration import calibration_of
from unipot.models.last_layer import NORMAL_90, is_stale, predict_uncertainty


def test_factor_covers_ninety_percent_of_exchangeable_errors():
    ratios = np.abs(np.random.default_rng(0).normal(size=2000)) * 3.0
    found = calibration_of(ratios[:1000])
    assert found.factor == pytest.approx(3.0, rel=0.1)
    assert np.mean(ratios[1000:] <= found.factor * NORMAL_90) == pytest.approx(0.9, abs=0.03)
    assert found.coverage_before == pytest.approx(2 * stats.norm.cdf(NORMAL_90 / 3) - 1, abs=0.05)


def test_few_errors_are_widened_as_students_interval():
    assert calibration_of(np.full(3, 1.0)).factor == pytest.approx(stats.t.ppf(0.95, 3) / NORMAL_90)
    assert calibration_of(np.zeros(0)).factor == 1.0


def test_weights_stay_and_the_error_bars_cover_the_calibration_frames(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    report = fit_posterior(potential, "mine", batches[:1], batches[1:])
    after = potential.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not is_stale(potential, potential.heads["mine"])
    batch = batches[1]
    index = torch.full_like(batch.head_index, potential.heads.index("mine"))
    own = type(batch)(**{**batch.__dict__, "head_index": index})
    error = (potential(own).forces.double() - batch.labels["forces"].double()).abs()
    inside = (error <= NORMAL_90 * predict_uncertainty(potential, own).forces * (1 + 1e-6)).double().mean()
    assert 0.88 <= float(inside) <= 1.0
    assert report.calibrated_on == "held-out" and report.forces.n == error.numel()
    assert report.to_dict()["method"] == "last-layer"


def test_no_held_out_frames_is_a_warning(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    report = fit_posterior(potential, "mine", batches, [])
    assert report.calibrated_on == "left-out"
    assert any("expect the error bars to be too small" in text for text in report.warnings)


def test_frames_without_energies_share_the_factor_of_the_forces(potential, unlabelled_batches):
    align_head(potential, "pbe", "mine", "CCSD", unlabelled_batches)
    report = fit_posterior(potential, "mine", unlabelled_batches, unlabelled_batches)
    assert report.energy.factor == report.forces.factor != 1.0
    assert report.to_dict()["energy"]["coverage_before"] is None
