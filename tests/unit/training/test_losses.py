from dataclasses import replace

import pytest
import torch

from unipot.batch import Predictions
from unipot.training.losses import SMALLEST_FORCES, PropertyTerm, StepLoss, dataset_factors

TERMS = (
    PropertyTerm(property="energy", kind="huber", delta=0.1, weight=2.0),
    PropertyTerm(property="forces", kind="norm"),
    PropertyTerm(property="stress", kind="norm", weight=0.3, per_volume=False),
)


def test_energy_residual_is_per_atom(batch, predictions):
    total, count = PropertyTerm(property="energy", kind="mae")(predictions, batch)
    expected = ((predictions.energy - batch.labels["energy"]) / batch.n_atoms_per_structure).abs().sum()
    assert count.item() == 6
    torch.testing.assert_close(total, expected)


def test_forces_norm_counts_labelled_atoms_that_were_free(batch, predictions):
    total, count = PropertyTerm(property="forces", kind="norm")(predictions, batch)
    free = batch.label_mask["forces"][batch.structure_index] & ~batch.fixed
    assert count.item() == int(free.sum()) == 9
    torch.testing.assert_close(total, torch.linalg.vector_norm((predictions.forces - batch.labels["forces"])[free], dim=1).sum())


def test_fixed_atoms_count_when_they_are_included(batch, predictions):
    total, count = PropertyTerm(property="forces", kind="norm", frozen_atoms="include")(predictions, batch)
    labelled = batch.label_mask["forces"][batch.structure_index]
    assert bool((labelled & batch.fixed).any())
    assert count.item() == int(labelled.sum()) == 10
    torch.testing.assert_close(total, torch.linalg.vector_norm((predictions.forces - batch.labels["forces"])[labelled], dim=1).sum())


def test_what_to_do_with_fixed_atoms_is_one_of_two():
    with pytest.raises(ValueError, match="loss.frozen_atoms is 'some'; use one of: exclude, include"):
        PropertyTerm(property="forces", kind="norm", frozen_atoms="some")


def test_stress_times_volume_per_atom(batch, predictions):
    total, count = PropertyTerm(property="stress", kind="norm", per_volume=False)(predictions, batch)
    own = batch.label_mask["stress"]
    volume = 216.0 / batch.n_atoms_per_structure[own]
    difference = (predictions.stress - batch.labels["stress"])[own].flatten(1) * volume[:, None]
    assert count.item() == 2
    torch.testing.assert_close(total, torch.linalg.vector_norm(difference, dim=1).sum())


def test_huber_is_quadratic_inside_and_absolute_outside(batch, predictions):
    term = PropertyTerm(property="energy", kind="huber", delta=0.5)
    for error, expected in ((0.1, 0.1**2 / (2 * 0.5)), (2.0, 2.0 - 0.25)):
        exact = batch.labels["energy"] + error * batch.n_atoms_per_structure
        total, count = term(replace(predictions, energy=exact), batch)
        torch.testing.assert_close(total / count, torch.tensor(expected, dtype=torch.float64))


def test_missing_labels_do_not_enter_the_loss(batch, predictions):
    masked = ~batch.label_mask["forces"][batch.structure_index]
    assert bool(masked.any())
    wild = torch.where(masked[:, None], torch.full_like(predictions.forces, 1e9), predictions.forces)
    term = PropertyTerm(property="forces", kind="mse")
    assert term(predictions, batch)[0].item() == term(replace(predictions, forces=wild), batch)[0].item()


def test_term_without_labels_is_exactly_zero_with_a_graph(make_batch):
    batch = make_batch([2, 5])  # energies only
    forces = torch.randn(batch.n_atoms, 3, dtype=torch.float64, requires_grad=True)
    total, count = PropertyTerm(property="forces", kind="norm")(Predictions(energy=torch.zeros(2), forces=forces), batch)
    assert total.item() == 0.0 and count.item() == 0.0
    total.backward()
    assert torch.equal(forces.grad, torch.zeros_like(forces))


def test_force_norm_has_a_finite_gradient_at_zero_error(batch):
    forces = batch.labels["forces"].clone().requires_grad_(True)
    PropertyTerm(property="forces", kind="norm")(Predictions(energy=torch.zeros(6), forces=forces), batch)[0].backward()
    assert bool(torch.isfinite(forces.grad).all())


def test_dataset_weight_multiplies_its_residuals_only(batch, predictions):
    plain = PropertyTerm(property="energy", kind="mae")(predictions, batch)[0]
    errors = ((predictions.energy - batch.labels["energy"]) / batch.n_atoms_per_structure).abs()
    weighted = PropertyTerm(property="energy", kind="mae", dataset_weights=torch.tensor([1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(weighted(predictions, batch)[0], plain + 2 * errors[batch.dataset_index == 1].sum())


def test_scale_divides_the_residual(batch, predictions):
    scaled = PropertyTerm(property="forces", kind="norm", scales=torch.tensor([2.0, 2.0], dtype=torch.float64))
    plain = PropertyTerm(property="forces", kind="norm")
    torch.testing.assert_close(scaled(predictions, batch)[0] * 2, plain(predictions, batch)[0])


@pytest.mark.parametrize("parts", [[range(6)], [range(3), range(3, 6)], [[0], [1, 4], [2], [3, 5]]])
def test_loss_of_a_step_does_not_depend_on_micro_batches(make_batch, make_potential, parts):
    potential = make_potential(heads=("a", "b")).train()
    loss = StepLoss(terms=TERMS)
    batches = [make_batch(list(part)) for part in parts]
    counts = loss.counts(batches)
    total = 0.0
    for part in batches:
        share = loss(potential(part, properties=("energy", "forces", "stress")), part, counts)[0]
        share.backward()
        total += share.item()
    gradient = torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None])
    reference = make_potential(heads=("a", "b")).train()
    whole = make_batch(range(6))
    expected = loss(reference(whole, properties=("energy", "forces", "stress")), whole, loss.counts([whole]))[0]
    expected.backward()
    expected_gradient = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None])
    assert total == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_counts_need_no_predictions(batch):
    assert StepLoss(terms=TERMS).counts([batch, batch]).tolist() == [12.0, 18.0, 4.0]


def test_unknown_kind_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="loss.energy.kind is 'norm'; use one of: mse, mae, huber"):
        PropertyTerm(property="energy", kind="norm")


def test_all_weights_zero_is_refused():
    with pytest.raises(ValueError, match="every loss weight is zero"):
        StepLoss(terms=(PropertyTerm(property="energy", weight=0.0),))


def test_weight_for_an_unknown_dataset_is_refused():
    with pytest.raises(ValueError, match="'watter', which is not a dataset of this run; datasets are: water"):
        dataset_factors(["water"], {"watter": 2.0}, "loss.dataset_weights")


def test_weights_of_structures_and_atoms_multiply_residuals_and_leave_counts(batch, predictions):
    own = torch.tensor([0.0, 2.0, 0.5, 3.0, 1.5, 0.25], dtype=torch.float64)
    stated = torch.tensor([True, True, True, True, True, False])  # the last structure has no weight: it counts once
    atoms = torch.linspace(0.0, 2.0, batch.n_atoms, dtype=torch.float64)
    labels = {**batch.labels, "weight": own, "atom_weights": atoms}
    weighed = replace(batch, labels=labels, label_mask={**batch.label_mask, "weight": stated, "atom_weights": torch.ones_like(stated)})
    factor = torch.where(stated, own, torch.ones_like(own))
    total, count = PropertyTerm(property="energy", kind="mae")(predictions, weighed)
    difference = ((predictions.energy - batch.labels["energy"]) / batch.n_atoms_per_structure).abs()
    assert count.item() == 6
    torch.testing.assert_close(total, (factor * difference).sum())
    total, count = PropertyTerm(property="forces", kind="norm")(predictions, weighed)
    free = batch.label_mask["forces"][batch.structure_index] & ~batch.fixed
    norms = torch.linalg.vector_norm(predictions.forces - batch.labels["forces"], dim=1)
    assert count.item() == int(free.sum())
    torch.testing.assert_close(total, (norms * atoms * factor[batch.structure_index])[free].sum())


def test_relative_forces_divide_by_a_power_of_the_magnitude_of_their_structure(batch, predictions):
    chosen = batch.label_mask["forces"][batch.structure_index] & ~batch.fixed
    norms = torch.linalg.vector_norm((predictions.forces - batch.labels["forces"]).to(torch.float64), dim=1)
    expected = 0.0
    for k in range(batch.n_structures):
        own = chosen & (batch.structure_index == k)
        if bool(own.any()):
            magnitude = float(batch.labels["forces"][own].square().mean().sqrt()) + SMALLEST_FORCES
            expected += float(norms[own].sum().detach()) / magnitude**0.5
    total, count = PropertyTerm(property="forces", kind="norm", relative=0.5)(predictions, batch)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-6)
    assert int(count) == int(chosen.sum())


def test_relative_forces_are_between_off_and_fully_relative():
    with pytest.raises(ValueError, match="loss.forces.relative is 2.0; it must be between 0"):
        PropertyTerm(property="forces", kind="norm", relative=2.0)
