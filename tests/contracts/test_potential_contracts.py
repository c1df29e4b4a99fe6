"""The physics contracts of `unipot.testing` on energies, forces and stress of every backbone with two heads."""

import pytest

from unipot import testing


def test_energy_forces_and_stress_turn_with_the_structure(potential):
    testing.check_rotation(potential)


def test_energy_forces_and_stress_follow_a_reflection(potential):
    if not potential.backbone.parity:
        pytest.skip(f"backbone {potential.backbone.name!r} is SO(3), not O(3), equivariant")
    testing.check_reflection(potential)


def test_translation_changes_nothing(potential):
    testing.check_translation(potential)


def test_order_of_atoms_has_no_meaning(potential):
    testing.check_permutation(potential)


def test_choice_of_periodic_image_has_no_meaning(potential):
    testing.check_periodic_images(potential)


def test_supercell_energy_is_extensive(potential):
    testing.check_supercell(potential)


def test_batch_equals_single(potential):
    testing.check_batch_equals_single(potential)


def test_second_geometry_through_one_batch_object_is_seen(potential):
    testing.check_no_caching(potential)


def test_batch_is_only_read(potential):
    testing.check_batch_unchanged(potential)


def test_forces_do_not_cross_structures(potential):
    testing.check_no_crosstalk(potential)


def test_one_atom_has_no_force(potential):
    testing.check_one_atom(potential)


def test_predictions_have_the_stated_shapes(potential):
    testing.check_shapes(potential)


def test_float32_agrees_with_float64(potential):
    testing.check_precision(potential)


def test_predictions_are_repeatable_to_the_last_bit(potential):
    testing.check_repeatable(potential)


def test_energy_and_forces_are_smooth_at_the_cutoff_and_change_inside(potential):
    testing.check_smooth_cutoff(potential)


def test_isolated_atom_has_its_reference_energy(potential):
    testing.check_isolated_atom(potential)


def test_separated_fragments_add_up(potential):
    testing.check_separated_fragments(potential)


@pytest.mark.parametrize("head", [0, 1])
def test_forces_are_the_gradient_of_the_energy(potential, head):
    testing.check_force_is_gradient(potential, head=head)


@pytest.mark.parametrize("head", [0, 1])
def test_stress_is_the_strain_derivative_of_the_energy(potential, head):
    testing.check_stress_is_strain_derivative(potential, head=head)


def test_forces_sum_to_zero(potential):
    testing.check_net_force(potential)


def test_a_loss_on_forces_reaches_every_parameter(potential):
    testing.check_double_backward(potential)


def test_unknown_element_is_refused_by_name(potential):
    testing.check_unknown_element(potential)


def test_charge_and_spin_reach_the_energy_exactly_if_the_backbone_says_so(potential):
    testing.check_conditions(potential)


def test_all_contracts_in_one_call_report_a_deviation_each(potential):
    assert len(testing.check_potential(potential, skip=["double backward"])) >= 20


def test_predictions_are_the_same_on_another_device(potential):
    testing.check_other_device(potential)
