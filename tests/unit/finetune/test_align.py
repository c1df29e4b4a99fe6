import json

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.finetune.alignment.align import align_head, energy_labels, for_head, predicted_energies, restart_readout
from unipot.structure import Structure


def predict(potential, batch, head):
    return potential(for_head(batch, potential.heads.index(head)), properties=("energy", "forces"))


def state_of(head):
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}


def test_forces_are_bitwise_the_parents(potential, batches):
    before = [predict(potential, batch, "pbe").forces for batch in batches]
    align_head(potential, "pbe", "mine", "CCSD", batches)
    for batch, forces in zip(batches, before, strict=True):
        assert forces.abs().max() > 1e-3  # the control: there is something to compare
        assert torch.equal(predict(potential, batch, "mine").forces, forces)


def test_energies_are_the_parents_plus_the_stated_shift(potential, batches):
    report = align_head(potential, "pbe", "mine", "CCSD", batches)
    for batch in batches:
        difference = predict(potential, batch, "mine").energy - predict(potential, batch, "pbe").energy
        numbers = batch.atomic_numbers.split(batch.n_atoms_per_structure.tolist())
        stated = torch.tensor([report.shift_of(z) for z in numbers], dtype=torch.float64)
        assert stated.abs().min() > 1.0
        torch.testing.assert_close(difference, stated, rtol=0, atol=1e-9)


def test_other_heads_and_backbone_are_bitwise_unchanged(potential, batches):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    energies = [predict(potential, batch, "pbe").energy for batch in batches]
    align_head(potential, "pbe", "mine", "CCSD", batches)
    after = potential.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(torch.equal(predict(potential, b, "pbe").energy, e) for b, e in zip(batches, energies, strict=True))


def test_new_head_shares_no_storage_with_its_parent(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    before = state_of(potential.heads["pbe"])
    with torch.no_grad():
        for tensor in [*potential.heads["mine"].parameters(), potential.heads["mine"].reference.values]:
            tensor.add_(1.0)
    assert all(torch.equal(tensor, potential.heads["pbe"].state_dict()[name]) for name, tensor in before.items())


def test_aligned_energies_are_as_near_as_the_compositions_allow(potential, batches):
    report = align_head(potential, "pbe", "mine", "CCSD", batches)
    counts, labels = energy_labels(batches, (1, 6, 8))
    errors = (predicted_energies(potential, "mine", batches) - labels) / counts.sum(axis=1)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(report.fit.rmse_after, rel=1e-6)
    assert report.fit.rmse_after < 0.01 * report.fit.rmse_before


def test_reference_stays_float64(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    assert potential.heads["mine"].reference.values.dtype == torch.float64


def test_rank_deficiency_is_a_warning(potential, batches):
    report = align_head(potential, "pbe", "mine", "CCSD", batches)
    assert report.fit.rank == 2
    assert any("determine 2 of 3 element shifts" in text for text in report.warnings)


def test_element_without_parent_reference_gets_one_from_the_fit(potential, batches):
    report = align_head(potential, "rpbe", "mine", "CCSD", batches)
    assert report.new_elements == (6,)
    assert bool(potential.heads["mine"].reference.known[6])
    assert any("has no reference for C" in text for text in report.warnings)
    assert report.fit.rmse_after < 1.0
    with pytest.raises(KeyError, match="no reference for C"):
        report.shift_of([6])


def test_parent_keeps_its_unknown_elements_unknown(potential, batches):
    before = state_of(potential.heads["rpbe"])
    align_head(potential, "rpbe", "mine", "CCSD", batches)
    assert all(torch.equal(tensor, potential.heads["rpbe"].state_dict()[name]) for name, tensor in before.items())


def test_elements_absent_from_the_frames_move_with_the_common_shift(potential, batches):
    report = align_head(potential, "pbe", "mine", "CCSD", batches)
    assert report.carried_over == (14,)
    difference = potential.heads["mine"].reference.values[14] - potential.heads["pbe"].reference.values[14]
    assert float(difference) == pytest.approx(report.fit.common, abs=1e-9)
    assert report.shift_of([14]) == pytest.approx(report.fit.common)


def test_frames_without_energies_keep_the_parents_reference_and_say_so(potential, unlabelled_batches):
    report = align_head(potential, "pbe", "mine", "CCSD", unlabelled_batches)
    assert torch.equal(potential.heads["mine"].reference.values, potential.heads["pbe"].reference.values)
    assert report.fit is None
    assert any("no frame carries an energy" in text for text in report.warnings)


def test_new_element_without_energies_is_refused(potential):
    silane = Structure(atomic_numbers=[14, 1], positions=[[0, 0, 0], [1.5, 0, 0]], labels={"forces": np.zeros((2, 3))}, id="s")
    with pytest.raises(ValueError, match="no reference energy for Si and the frames carry no energies"):
        align_head(potential, "rpbe", "mine", "CCSD", [collate([silane], cutoff=potential.cutoff, dtype=potential.dtype)])


def test_unknown_parent_lists_the_heads(potential, batches):
    with pytest.raises(KeyError, match="pbe, rpbe"):
        align_head(potential, "pbbe", "mine", "CCSD", batches)


def test_taken_name_is_refused(potential, batches):
    with pytest.raises(ValueError, match="head 'rpbe' exists already"):
        align_head(potential, "pbe", "rpbe", "CCSD", batches)


def test_no_frames_is_refused(potential):
    with pytest.raises(ValueError, match="no frames to align"):
        align_head(potential, "pbe", "mine", "CCSD", [])


def test_training_mode_is_restored(potential, batches):
    potential.train()
    align_head(potential, "pbe", "mine", "CCSD", batches)
    assert potential.training


def test_report_is_json(potential, batches):
    report = align_head(potential, "rpbe", "mine", "CCSD", batches)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (content["parent"], content["head"], content["new_elements"]) == ("rpbe", "mine", ["C"])
    assert set(content["fit"]["shift_per_element_eV"]) == {"H", "C", "O"}


def test_a_restarted_readout_is_random_but_its_energies_are_aligned(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    before = state_of(potential.heads["mine"])
    restart_readout(potential, "mine", batches, scale=0.3, seed=0)
    head = potential.heads["mine"]
    assert float(head.scale) == pytest.approx(0.3)
    assert not any(torch.equal(value, before[f"readout.{name}"]) for name, value in head.readout.state_dict().items())
    counts, labels = energy_labels(batches, (1, 6, 8))
    left = labels - predicted_energies(potential, "mine", batches)
    slope = np.linalg.lstsq(counts, left, rcond=None)[0]
    assert np.abs(counts @ slope).max() < 0.1 * np.abs(left).max()  # compositions explain next to nothing of what is left


def test_restarting_a_readout_repeats_with_its_seed_and_leaves_the_generator_alone(potential, batches):
    align_head(potential, "pbe", "mine", "CCSD", batches)
    state = torch.random.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        restart_readout(potential, "mine", batches, scale=1.0, seed=seed)
        weights.append(potential.heads["mine"].readout.output.weight.clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)
