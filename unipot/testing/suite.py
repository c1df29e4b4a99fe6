"""All contracts in one call, for users with a backbone or a model of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unipot.errors import InputError
from unipot.models.backbone import Backbone
from unipot.models.potential import Potential
from unipot.testing import batches, conditions, declarations, derivative_checks, locality, second_device, symmetry
from unipot.testing.response import Model, backbone_of
from unipot.testing.violation import ContractViolation

_Check = Callable[[Any], float]

_SHARED: dict[str, _Check] = {
    "rotation": symmetry.check_rotation,
    "translation": symmetry.check_translation,
    "permutation": symmetry.check_permutation,
    "periodic images": symmetry.check_periodic_images,
    "supercell": symmetry.check_supercell,
    "batch = single": batches.check_batch_equals_single,
    "no caching": batches.check_no_caching,
    "batch unchanged": batches.check_batch_unchanged,
    "no crosstalk": batches.check_no_crosstalk,
    "one atom": batches.check_one_atom,
    "shapes": batches.check_shapes,
    "float32 = float64": batches.check_precision,
    "repeatable": batches.check_repeatable,
    "smooth at the cutoff": locality.check_smooth_cutoff,
    "isolated atom": locality.check_isolated_atom,
    "separated fragments": locality.check_separated_fragments,
    "charge and spin": conditions.check_conditions,
    "other device": second_device.check_other_device,
}
_BACKBONE: dict[str, _Check] = {
    "declarations": declarations.check_declarations,
    "layer groups": declarations.check_layer_groups,
    "rebuild": declarations.check_rebuild,
}
_POTENTIAL: dict[str, _Check] = {
    "force = -dE/dR": derivative_checks.check_force_is_gradient,
    "stress = dE/d(strain)/V": derivative_checks.check_stress_is_strain_derivative,
    "net force": derivative_checks.check_net_force,
    "double backward": derivative_checks.check_double_backward,
    "unknown element": declarations.check_unknown_element,
}


def check_backbone(backbone: Backbone, *, skip: Sequence[str] = ()) -> dict[str, float]:
    """Run every contract of a backbone.

    Args:
        backbone: in float64, so that the tolerances mean something.
        skip: claims (keys of the result) to leave out, for instance `rebuild` for a backbone that is not registered.

    Returns:
        Claim -> measured deviation, in the order they ran.

    Raises:
        ContractViolation: at least one claim does not hold; the message lists all that do not.
        ValueError: `skip` names a claim that does not exist.
    """
    return _run_checks({**_BACKBONE, **_SHARED}, backbone, skip)


def check_potential(potential: Potential, *, skip: Sequence[str] = ()) -> dict[str, float]:
    """Run every contract of a potential; heads with direct forces cannot pass those of derivatives, see `skip`.

    Returns, raises: as `check_backbone`.
    """
    return _run_checks({**_SHARED, **_POTENTIAL}, potential, skip)


def _run_checks(checks: dict[str, _Check], model: Model, skip: Sequence[str]) -> dict[str, float]:
    if backbone_of(model).parity:
        checks = {**checks, "reflection": symmetry.check_reflection}
    for name in skip:
        if name not in checks:
            raise InputError(f"there is no contract {name!r} to skip; there are: {', '.join(checks)}")
    deviations: dict[str, float] = {}
    violations: list[str] = []
    for name, check in checks.items():
        if name in skip:
            continue
        try:
            with conditions.any_state(model):
                deviations[name] = check(model)
        except ContractViolation as violation:
            violations.append(str(violation))
    if violations:
        raise ContractViolation(f"{len(violations)} of {len(checks) - len(skip)} contracts do not hold:\n  " + "\n  ".join(violations))
    return deviations
