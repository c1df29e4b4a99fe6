"""Versions of the artifact format, and the way from an older one to the present one.

Changing the format means, in one commit: raise `FORMAT_VERSION`, register the step from the version before with
`@upgrades_from(n)`, and keep a small artifact of the version before under `tests/golden`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from unipot.errors import InputError

if TYPE_CHECKING:  # cards are read without torch
    from torch import Tensor

    #: a card and its tensors, one version on
    Upgrade = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]

#: of the artifacts that this version of unipot writes
FORMAT_VERSION = 3

#: version -> step to the next version
UPGRADES: dict[int, Upgrade] = {}


def upgrades_from(version: int) -> Callable[[Upgrade], Upgrade]:
    """Register the decorated function as the step from `version` to `version + 1`.

    Raises:
        ValueError: there is such a step already.
    """

    def register(function: Upgrade) -> Upgrade:
        if version in UPGRADES:
            raise InputError(f"there is an upgrade from artifact format {version} already: {UPGRADES[version].__name__}")
        UPGRADES[version] = function
        return function

    return register


def require_readable(card: Mapping[str, Any], *, target: int = FORMAT_VERSION, steps: Mapping[int, Upgrade] = UPGRADES) -> None:
    """There is a way from the format of `card` to format `target`.

    Raises:
        ValueError: the format is newer than `target`, or a step is missing.
    """
    version = version_of(card)
    if version is None:
        stated = repr(card.get("format_version"))[:60]
        raise InputError(f"format_version is {stated}, expected a whole number; the card is damaged, download the model again")
    if version > target:
        raise InputError(f"the model has format {version}, this unipot reads formats up to {target}; upgrade unipot to use it")
    missing = next((step for step in range(version, target) if step not in steps), None)
    if missing is not None:
        raise InputError(
            f"the model has format {version}, and there is no upgrade from format {missing}; save it again with the unipot it came from"
        )


def version_of(card: Mapping[str, Any]) -> int | None:
    """Of the format of a card; None where it does not state one."""
    version = card.get("format_version")
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def upgraded(
    card: dict[str, Any],
    tensors: dict[str, Tensor],
    *,
    target: int = FORMAT_VERSION,
    steps: Mapping[int, Upgrade] = UPGRADES,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`card` and `tensors` in format `target`; the arguments themselves stay as they are.

    Raises:
        ValueError: see `require_readable`.
    """
    require_readable(card, target=target, steps=steps)
    version = int(card["format_version"])
    card, tensors = copy.deepcopy(card), dict(tensors)
    for step in range(version, target):
        card, tensors = steps[step](card, tensors)
        card["format_version"] = step + 1
    return card, tensors


@upgrades_from(1)
def _heads_state_their_kind_of_energy(card: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Format 2: every head has an `energy_kind`; in format 1 all energies were total energies.

    A version of its own although the key has a default: a unipot of format 1 must refuse a head of adsorption energies
    instead of presenting them as total ones.
    """
    for heads in (card["potential"]["heads"], card.get("heads", {})):
        for head in heads.values():
            head["energy_kind"] = "total"
    return card, tensors


@upgrades_from(2)
def _potentials_state_their_core_repulsion(card: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Format 3: a potential says whether it has a core repulsion; in format 2 none had.

    A version of its own: a unipot of format 2 would leave the repulsion out, and golden structures are seldom so dense
    that it would notice.
    """
    card["potential"]["core_repulsion"] = None
    return card, tensors
