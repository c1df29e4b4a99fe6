"""Contracts of locality: nothing jumps when an atom crosses the cutoff, and an atom alone has its reference energy."""

from __future__ import annotations

import numpy as np
import torch

from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster, lone_atom, probe_elements
from unipot.testing.response import Model, Response, backbone_of, batch_of, in_dtype, reference_energies, respond, respond_to_batch
from unipot.testing.violation import ContractViolation, require_below, require_signal

#: distance to the cutoff, in units of it, at which continuity is examined
APPROACH = 1e-4
#: allowed jump at `APPROACH` relative to the effect deep inside. An envelope with two vanishing derivatives leaves
#: about APPROACH**3 of an energy and APPROACH**2 of a force; a hard cutoff leaves about 1.
CONTINUITY_TOLERANCE = 1e-5


def check_smooth_cutoff(model: Model, *, tolerance: float = CONTINUITY_TOLERANCE) -> float:
    """Energy, forces and features are continuous where an atom enters the cutoff of another, and the effect inside is real.

    An atom approaches a dimer from beyond the cutoff of its nearer atom; the other one hears of it by messages only.
    The jump across the cutoff is compared with the change between beyond and 0.6 cutoffs (the control).

    Raises:
        ContractViolation: there is a jump, or no effect inside the cutoff.
    """
    model, elements = in_dtype(model, torch.float64), probe_elements(model)
    cutoff = backbone_of(model).cutoff
    beyond, outside, inside, deep = (
        respond(model, [_approached(elements, cutoff * x)]) for x in (1.2, 1 + APPROACH, 1 - APPROACH, 0.6)
    )
    effects = [a - b for a, b in zip(deep.tensors(), beyond.tensors(), strict=True)]
    for effect in effects[:3]:  # a molecule has no stress
        if effect.numel():
            require_signal("smooth at the cutoff", [effect])
    deviation = 0.0
    for kind, effect in zip(zip(beyond.tensors(), outside.tensors(), inside.tensors(), strict=True), effects, strict=True):
        if effect.numel() and float(effect.abs().max()) > 0:
            jump = max(float((kind[2] - kind[1]).abs().max()), float((kind[1] - kind[0]).abs().max()))
            deviation = max(deviation, jump / float(effect.abs().max()))
    return require_below("smooth at the cutoff", deviation, tolerance)


def check_isolated_atom(model: Model, *, tolerance: float = 1e-12) -> float:
    """A neutral atom of unstated spin has zero features without neighbours, and the reference energy of its element in every head.

    Returns:
        Largest feature, or largest energy difference in eV.
    """
    elements = probe_elements(model)
    deviation = 0.0
    for head in range(len(model.heads.names) if isinstance(model, Potential) else 1):
        batch = batch_of(model, [lone_atom(z) for z in elements], [head] * len(elements))
        response = respond_to_batch(model, batch)
        deviation = max(deviation, *(float(t.abs().max()) for t in response.tensors() if t.numel()))
        if isinstance(model, Potential) and not bool(torch.isfinite(reference_energies(model, batch)).all()):
            raise ContractViolation(f"isolated atom: head {model.heads.names[head]!r} has a non-finite reference energy")
    return require_below("isolated atom", deviation, tolerance)


def check_separated_fragments(model: Model, *, tolerance: float | None = None) -> float:
    """Two fragments further apart than the cutoff answer as if the other were not there."""
    fragment, reach = chiral_cluster(probe_elements(model)), 3 * backbone_of(model).cutoff + 10.0
    alone = respond(model, [fragment], [0])
    require_signal("separated fragments", alone.tensors())
    both = Structure(
        atomic_numbers=np.tile(fragment.atomic_numbers, 2),
        positions=np.concatenate([fragment.positions, fragment.positions + [reach, 0.0, 0.0]]),
    )
    expected = Response(
        structure_scalars=2 * alone.structure_scalars,
        atom_scalars=alone.atom_scalars.repeat(2, 1),
        atom_vectors=alone.atom_vectors.repeat(2, 1, 1),
        structure_tensors=alone.structure_tensors,
    )
    allowed = tolerance or backbone_of(model).equivariance_tolerance[alone.atom_vectors.dtype]
    return require_below("separated fragments", respond(model, [both], [0]).deviation(expected), allowed)


def _approached(elements: tuple[int, ...], distance: float) -> Structure:
    """A bent dimer with a third atom `distance` Å from its first atom, on the side away from its second."""
    numbers = np.resize(np.asarray(elements), 3)
    return Structure(atomic_numbers=numbers, positions=[[0, 0, 0], [-1.1, 0.35, 0.2], [distance, 0, 0]], id="approach")
