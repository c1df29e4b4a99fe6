"""Contract of charge and spin: they reach the prediction exactly if the backbone says that it reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from unipot.testing.probes import chiral_cluster, probe_elements
from unipot.testing.response import Model, backbone_of, respond
from unipot.testing.violation import ContractViolation, require_signal

#: field of a structure -> probed values
STATES: dict[str, tuple[int, ...]] = {"total_charge": (1, -1), "spin_multiplicity": (2, 3)}


def check_conditions(model: Model) -> float:
    """Charge and spin change the answer if they are among the backbone's `conditions`, and else leave it alone to the last bit.

    Returns:
        0.0; the comparison is exact.
    """
    conditions, structure = backbone_of(model).conditions, chiral_cluster(probe_elements(model))
    if strangers := set(conditions) - set(STATES):
        raise ContractViolation(f"conditions: {', '.join(sorted(strangers))} cannot be read; there are: {', '.join(STATES)}")
    with any_state(model):
        plain = respond(model, [structure])
        for field, values in STATES.items():
            for value in values:
                answer = respond(model, [replace(structure, **{field: value})])
                changes = [a - b for a, b in zip(answer.tensors(), plain.tensors(), strict=True)]
                if field in conditions:
                    require_signal(f"conditions: {field} {value} is read", changes)
                elif any(bool(torch.any(change != 0)) for change in changes):
                    raise ContractViolation(f"conditions: {field} {value} changes the answer, but the backbone says that it is not read")
    return 0.0


@contextmanager
def any_state(model: Model) -> Iterator[None]:
    """Lift the limits of charges and spins to what was trained: contracts are about the function, whatever it was trained on."""
    backbone = backbone_of(model)
    limits = getattr(backbone, "trained_states", None)
    if limits is not None:
        backbone.trained_states = type(limits)()
    try:
        yield
    finally:
        if limits is not None:
            backbone.trained_states = limits
