import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unipot.finetune.alignment.align import align_head, for_head
from unipot.finetune.uncertainty.calibrated_posterior import fit_posterior
from unipot.finetune.uncertainty.calibration import ErrorsAndWidths, OutOfFold, calibration_of, cautious, pooled
from unipot.finetune.uncertainty.out_of_fold import FoldFrames, out_of_fold
from unipot.models.last_layer import predict_uncertainty


def fold(ratios, structures=None, width=1.0):
    ratios = np.asarray(ratios, dtype=float)
    structures = np.arange(len(ratios)) if structures is None else np.asarray(structures)
    errors = ErrorsAndWidths(errors=ratios * width, widths=np.full(len(ratios), width), structures=structures)
    return {"energy": errors, "forces": errors}


def folds(*parts):
    return OutOfFold(folds=parts, n_frames=sum(len(p["energy"].errors) for p in parts))


def aligned(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    return potential


def test_structures_of_different_folds_stay_different():
    found = pooled([fold([1.0, 2.0, 3.0], [0, 0, 1])["forces"], fold([4.0], [0])["forces"], fold([], [])["forces"]])
    assert found.structures.tolist() == [0, 0, 1, 2]
    assert found.ratios.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_the_factor_is_the_conformal_quantile_of_all_folds_together():
    ratios = np.abs(np.random.default_rng(0).normal(size=30))
    found = folds(*(fold(ratios[k::3]) for k in range(3))).calibration("energy")
    assert found.factor == pytest.approx(calibration_of(ratios).factor)
    assert (found.n, found.n_effective) == (30, 30)


@given(scale=st.floats(0.01, 100.0), seed=st.integers(0, 100))
def test_error_bars_that_are_wider_by_a_factor_are_scaled_down_by_it(scale, seed):
    ratios = np.abs(np.random.default_rng(seed).normal(size=24))
    one = folds(fold(ratios[:12]), fold(ratios[12:])).calibration("energy")
    other = folds(fold(ratios[:12] / scale), fold(ratios[12:] / scale)).calibration("energy")
    assert other.factor * scale == pytest.approx(one.factor)


def test_a_start_that_has_seen_all_frames_takes_the_larger_factor():
    many = calibration_of(np.full(100, 1.0))
    larger = replace(many, factor=9.0)
    assert cautious(many, larger).factor == many.factor
    assert cautious(many, larger, enough=np.inf).factor == 9.0


def parts_of(potential, batches):
    return [FoldFrames(potential=potential, training=[batches[1 - k]], held_out=[batches[k]]) for k in range(2)]


def test_the_final_error_bars_have_the_factor_out_of_fold(potential, batches):
    aligned(potential, batches)
    report = fit_posterior(potential, "mine", batches, [], folds=parts_of(potential, batches))
    posterior = potential.heads["mine"].posterior
    factors = posterior.calibration.tolist()
    posterior.calibration.fill_(1.0)
    crossed = out_of_fold(potential, parts_of(potential, batches), "mine")
    assert factors[1] == pytest.approx(crossed.calibration("forces").factor)
    assert report.calibrated_in_words() == "calibrated out of fold on 8 frames of 2 folds"
    assert not any("too small" in text for text in report.warnings)


def test_held_out_frames_go_before_folds(potential, batches):
    aligned(potential, batches)
    report = fit_posterior(potential, "mine", batches[:1], batches[1:], folds=parts_of(potential, batches))
    assert (report.calibrated_on, report.calibration_frames, report.n_folds) == ("held-out", 3, 0)


def test_errors_are_of_the_fold_and_error_bars_of_the_final_model(potential, batches):
    aligned(potential, batches)
    fit_posterior(potential, "mine", batches, [])
    potential.heads["mine"].posterior.calibration.fill_(1.0)
    worse = copy.deepcopy(potential)
    with torch.no_grad():
        worse.heads["mine"].readout.output.weight.mul_(2.0)
    parts = [FoldFrames(potential=worse, training=[batches[1 - k]], held_out=[batches[k]]) for k in range(2)]
    found, index = out_of_fold(potential, parts, "mine"), potential.heads.index("mine")
    for batch, part in zip(batches, found.folds, strict=True):
        own = for_head(batch, index)
        error = (worse(own, properties=("forces",)).forces.detach().double() - batch.labels["forces"].double()).abs()
        assert part["forces"].errors == pytest.approx(error.flatten().numpy())
        assert part["forces"].widths == pytest.approx(predict_uncertainty(potential, own).forces.flatten().numpy())
    assert found.n_frames == 8


def test_an_energy_shift_learnt_from_held_out_frames_does_not_lower_their_errors(potential, batches):
    """Training frames lie 1 eV/atom off the shift, held-out ones on it: a shift fitted without these would miss by 1 eV/atom."""
    aligned(potential, batches)
    index = potential.heads.index("mine")
    exact = []
    for number, batch in enumerate(batches):
        own = replace(batch, head_index=torch.full_like(batch.head_index, index))
        energy = potential(own, properties=("energy",)).energy.detach() + (1 - number) * batch.n_atoms_per_structure
        exact.append(replace(batch, labels={**batch.labels, "energy": energy}))
    fit_posterior(potential, "mine", exact, [])
    found = out_of_fold(potential, [FoldFrames(potential=potential, training=exact[:1], held_out=exact[1:])], "mine")
    assert found.folds[0]["energy"].errors == pytest.approx(batches[1].n_atoms_per_structure.numpy(), rel=1e-2)
