import numpy as np
import pytest
import torch
from scipy import stats

from unipot.batch import collate
from unipot.finetune import readout_choice
from unipot.finetune.align import align_head
from unipot.finetune.calibrated_posterior import fit_posterior
from unipot.finetune.calibration import calibration_of
from unipot.finetune.evidence import NothingToFit
from unipot.models.last_layer import NORMAL_90, is_stale, predict_uncertainty
from unipot.structure import Structure


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
    assert report.energy.n == 8 and report.forces.n == sum(3 * batch.n_atoms for batch in batches)
    assert report.energy.rms_factor > 0 and 8 <= report.forces.n_effective <= report.forces.n


def test_frames_without_energies_share_the_factor_of_the_forces(potential, unlabelled_batches):
    align_head(potential, "pbe", "mine", "CCSD", unlabelled_batches)
    report = fit_posterior(potential, "mine", unlabelled_batches, unlabelled_batches)
    assert report.energy.factor == report.forces.factor != 1.0
    assert report.to_dict()["energy"]["coverage_before"] is None


def test_ensemble_is_stored_and_used_as_the_posterior_is(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    report = fit_posterior(potential, "mine", batches[:1], batches[1:], method="ensemble")
    posterior = potential.heads["mine"].posterior
    assert report.to_dict()["method"] == "ensemble"
    assert posterior.columns.shape == (potential.heads["mine"].n_hidden, 8)
    index = torch.full_like(batches[1].head_index, potential.heads.index("mine"))
    own = type(batches[1])(**{**batches[1].__dict__, "head_index": index})
    found = predict_uncertainty(potential, own)
    assert found.forces.min() > 0 and found.energy.min() > 0


def test_energies_that_shifts_explain_alone_leave_no_error_bars(potential):
    """As many compositions as frames: whatever the energies are, shifts per element describe them."""
    numbers = ([8, 1, 1], [6, 1, 1, 1, 1])
    frames = [
        Structure(atomic_numbers=z, positions=np.random.default_rng(k).normal(size=(len(z), 3)) * 2, labels={"energy": -1.0 - k}, id=f"{k}")
        for k, z in enumerate(numbers)
    ]
    batches = [collate(frames, cutoff=potential.cutoff, dtype=potential.dtype)]
    align_head(potential, "pbe", "mine", "CCSD", batches)
    with pytest.raises(NothingToFit, match="composition shift"):
        fit_posterior(potential, "mine", batches, [])
    assert potential.heads["mine"].posterior is None


def test_layers_are_solved_for_with_evenly_chosen_batches_of_many_frames(batches, monkeypatch):
    monkeypatch.setattr(readout_choice, "MOST_FRAMES", 10)
    chosen, groups, sentences = readout_choice._limited(batches * 3, list(range(24)))
    assert [batch.n_structures for batch in chosen] == [5, 3] and groups == [0, 1, 2, 3, 4, 21, 22, 23]
    assert sentences == ("layers of the readout were solved for with 8 of 24 frames, evenly chosen; the shift with all of them",)
    assert readout_choice._limited(batches, None) == (batches, None, ())
