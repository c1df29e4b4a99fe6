"""Physics contracts as public functions: run them on your own backbone or on a trained model.

Every `check_…` function states one claim, returns the measured deviation and raises `ContractViolation` with the
figures when the claim does not hold. `check_backbone` and `check_potential` run all that apply.

Example:
    >>> from unipot.models import build_backbone
    >>> from unipot.testing import check_rotation
    >>> backbone = build_backbone("native", {"n_channels": 8, "n_layers": 1})
    >>> check_rotation(backbone.double()) < 1e-9
    True
"""

from unipot.testing.batches import (
    check_batch_equals_single,
    check_batch_unchanged,
    check_no_caching,
    check_no_crosstalk,
    check_one_atom,
    check_precision,
    check_repeatable,
    check_shapes,
)
from unipot.testing.conditions import check_conditions
from unipot.testing.declarations import check_declarations, check_layer_groups, check_rebuild, check_unknown_element
from unipot.testing.derivative_checks import (
    check_double_backward,
    check_force_is_gradient,
    check_net_force,
    check_stress_is_strain_derivative,
)
from unipot.testing.locality import check_isolated_atom, check_separated_fragments, check_smooth_cutoff
from unipot.testing.products import rounded_products
from unipot.testing.second_device import check_other_device, other_device
from unipot.testing.suite import check_backbone, check_potential
from unipot.testing.symmetry import (
    check_periodic_images,
    check_permutation,
    check_reflection,
    check_rotation,
    check_supercell,
    check_translation,
)
from unipot.testing.violation import ContractViolation

__all__ = [
    "ContractViolation",
    "check_backbone",
    "check_batch_equals_single",
    "check_batch_unchanged",
    "check_conditions",
    "check_declarations",
    "check_double_backward",
    "check_force_is_gradient",
    "check_isolated_atom",
    "check_layer_groups",
    "check_net_force",
    "check_no_caching",
    "check_no_crosstalk",
    "check_one_atom",
    "check_other_device",
    "check_periodic_images",
    "check_permutation",
    "check_potential",
    "check_precision",
    "check_rebuild",
    "check_reflection",
    "check_repeatable",
    "check_rotation",
    "check_separated_fragments",
    "check_shapes",
    "check_smooth_cutoff",
    "check_stress_is_strain_derivative",
    "check_supercell",
    "check_translation",
    "check_unknown_element",
    "other_device",
    "rounded_products",
]
