from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy import stats

from unipot.batch import collate
from unipot.finetune.alignment import readout_choice
from unipot.finetune.alignment.align import align_head
from unipot.finetune.linear.evidence import NothingToFit
from unipot.finetune.linear.readout_rows import readout_rows
from unipot.finetune.uncertainty.calibrated_posterior import fit_posterior
from unipot.finetune.uncertainty.calibration import calibration_of, errors_and_widths
from unipot.finetune.uncertainty.difference_errors import difference_errors
from unipot.finetune.uncertainty.energy_zero import energy_zero
from unipot.models.last_layer import is_stale, predict_uncertainty
from unipot.models.posterior import NORMAL_90
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


def frames_of_another_truth(potential, name, n, seed):
    """Waters and methanes of head `name` whose labels are those of the same features with other last-layer weights, and other zeros."""
    rng, frames = np.random.default_rng(seed), []
    head, index = potential.heads[name], potential.heads.index(name)
    weight = head.readout.output.weight
    kept, other = weight.detach().clone(), torch.from_numpy(np.random.default_rng(99).normal(size=tuple(weight.shape))).to(weight)
    shapes = ((molecule("H2O"), 3.0), (molecule("CH4"), -7.0))
    for k in range(n):
        atoms, zero = shapes[k % 2]
        moved = atoms.positions + 0.05 * rng.normal(size=atoms.positions.shape)
        bare = Structure(atomic_numbers=atoms.numbers, positions=moved, id=f"{seed}-{k}")
        with torch.no_grad():
            weight.copy_(kept + other)
        found = potential(collate([bare], cutoff=potential.cutoff, head_index=[index], dtype=potential.dtype), create_graph=False)
        with torch.no_grad():
            weight.copy_(kept)
        labels = {"energy": float(found.energy[0]) + zero, "forces": found.forces.detach().numpy()}
        frames.append(replace(bare, labels=labels))
    return [collate(frames, cutoff=potential.cutoff, head_index=[index] * n, dtype=potential.dtype)]


def test_error_bars_of_energy_differences_cover_the_errors_of_differences(potential):
    """The zero is fitted, the rest is wrong by as much as it is: an energy and a difference of energies alike."""
    training = frames_of_another_truth(potential, "pbe", 30, 0)
    align_head(potential, "pbe", "mine", "CCSD", training)
    held_out, test = (frames_of_another_truth(potential, "pbe", 40, seed) for seed in (1, 2))
    fit_posterior(potential, "mine", training, held_out)
    own = [replace(batch, head_index=torch.full_like(batch.head_index, potential.heads.index("mine"))) for batch in test]
    energies, differences = errors_and_widths(potential, own)["energy"], difference_errors(potential, own)
    assert len(differences.errors) == 38 and differences.errors.mean() > 0.5 * energies.errors.mean()
    for found in (energies, differences):
        assert np.mean(found.ratios <= NORMAL_90) > 0.75
        assert 0.3 < np.sqrt(np.mean(found.widths**2) / np.mean(found.errors**2)) < 3


def test_zero_of_one_composition_is_as_uncertain_as_a_mean(potential):
    batches = frames_of_another_truth(potential, "pbe", 20, 0)
    rows = readout_rows(potential, "pbe", batches, (1, 6, 8), ["last-layer"])["last-layer"]
    waters = rows.of_frames(np.arange(20) % 2 == 0)
    factor = np.eye(waters.n_weights)
    zero = energy_zero(waters, factor)
    spread = waters.blocks["energy"].design - waters.blocks["energy"].design.mean(axis=0)
    expected = np.sqrt(np.sum(spread**2) / 9 / 10)  # ten waters
    np.testing.assert_allclose(np.linalg.norm(waters.fractions @ zero.factor, axis=1), expected, rtol=1e-6)
    mean = waters.blocks["energy"].design.mean(axis=0)
    np.testing.assert_allclose(waters.fractions @ zero.average_features, np.tile(mean, (10, 1)), rtol=1e-6)


def test_frames_that_differ_in_composition_alone_say_nothing_of_the_zero(potential):
    rows = readout_rows(potential, "pbe", frames_of_another_truth(potential, "pbe", 2, 0), (1, 6, 8), ["last-layer"])["last-layer"]
    assert energy_zero(rows, np.eye(rows.n_weights)) is None


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
