"""The physics contracts of `unipot.testing` on the features of every backbone."""

import pytest

from unipot import testing


def test_declarations_are_sensible(backbone):
    testing.check_declarations(backbone)


def test_layer_groups_cover_every_parameter_once(backbone):
    testing.check_layer_groups(backbone)


def test_hyperparameters_rebuild_the_backbone(backbone):
    testing.check_rebuild(backbone)


def test_features_turn_with_the_structure(backbone):
    testing.check_rotation(backbone)


def test_features_follow_a_reflection(backbone):
    if not backbone.parity:
        pytest.skip(f"backbone {backbone.name!r} is SO(3), not O(3), equivariant")
    testing.check_reflection(backbone)


def test_features_ignore_translation(backbone):
    testing.check_translation(backbone)


def test_features_follow_a_permutation(backbone):
    testing.check_permutation(backbone)


def test_features_ignore_the_choice_of_periodic_image(backbone):
    testing.check_periodic_images(backbone)


def test_features_are_the_same_in_a_supercell(backbone):
    testing.check_supercell(backbone)


def test_features_in_a_batch_equal_features_alone(backbone):
    testing.check_batch_equals_single(backbone)


def test_second_geometry_through_one_batch_object_is_seen(backbone):
    testing.check_no_caching(backbone)


def test_batch_is_only_read(backbone):
    testing.check_batch_unchanged(backbone)


def test_features_do_not_cross_structures(backbone):
    testing.check_no_crosstalk(backbone)


def test_one_atom_keeps_its_dimensions(backbone):
    testing.check_one_atom(backbone)


def test_features_have_the_stated_shapes(backbone):
    testing.check_shapes(backbone)


def test_float32_features_agree_with_float64(backbone):
    testing.check_precision(backbone)


def test_features_are_repeatable_to_the_last_bit(backbone):
    testing.check_repeatable(backbone)


def test_features_are_smooth_at_the_cutoff_and_change_inside(backbone):
    testing.check_smooth_cutoff(backbone)


def test_features_of_an_isolated_atom_are_zero(backbone):
    testing.check_isolated_atom(backbone)


def test_features_of_separated_fragments_are_independent(backbone):
    testing.check_separated_fragments(backbone)


def test_features_see_charge_and_spin_exactly_if_the_backbone_says_so(backbone):
    testing.check_conditions(backbone)


def test_features_are_the_same_on_another_device(backbone):
    testing.check_other_device(backbone)
