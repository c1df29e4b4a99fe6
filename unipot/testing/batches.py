"""Contracts of batching: what is computed for a structure depends on that structure alone, and a batch is only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster, lone_atom, moved, one_atom_crystal, probe_elements, probe_structures
from unipot.testing.response import (
    Model,
    Response,
    batch_of,
    dtype_of,
    head_indices,
    in_dtype,
    respond,
    respond_to_batch,
    tolerance_of,
)
from unipot.testing.violation import ContractViolation, relative_deviation, require_below, require_signal


def check_batch_equals_single(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """A structure gets the same answer alone as in company of others (of another head, too)."""
    structures = structures or probe_structures(model)
    index = head_indices(model, len(structures))
    together = respond(model, structures, index)
    require_signal("batch = single", together.tensors())
    singles = [respond(model, [s], [i]) for s, i in zip(structures, index, strict=True)]
    return require_below("batch = single", together.deviation(_concatenated(singles)), tolerance or tolerance_of(model))


def check_no_caching(model: Model, *, tolerance: float | None = None) -> float:
    """Two geometries sent through the same batch object one after the other: the second answer is that of a fresh batch."""
    elements = probe_elements(model)
    # equal atom counts, so that a remembered index would fit and go unnoticed
    first = [chiral_cluster(elements, 6), chiral_cluster(elements, 4)]
    second = [moved(s, 1.25 * s.positions[::-1]) for s in (chiral_cluster(elements, 4), chiral_cluster(elements, 6))]
    reused, fresh = batch_of(model, first), batch_of(model, second)
    before, expected = respond_to_batch(model, reused), respond_to_batch(model, fresh)
    require_signal("no caching", [a - b for a, b in zip(before.tensors(), expected.tensors(), strict=True)])
    for field in fields(AtomBatch):
        object.__setattr__(reused, field.name, getattr(batch_of(model, second), field.name))
    return require_below("no caching", respond_to_batch(model, reused).deviation(expected), tolerance or tolerance_of(model))


def check_batch_unchanged(model: Model, structures: Sequence[Structure] | None = None) -> float:
    """The model writes nothing into the batch: no value, no attribute, no gradient flag.

    Returns:
        0.0; the comparison is exact.
    """
    batch = batch_of(model, structures or probe_structures(model))
    before = {name: _frozen(value) for name, value in vars(batch).items()}
    respond_to_batch(model, batch)
    after = vars(batch)
    if extra := set(after) - set(before):
        raise ContractViolation(f"batch unchanged: the model added attribute(s) {', '.join(sorted(extra))}")
    changed = [name for name in before if not _identical(before[name], after[name])]
    if changed:
        raise ContractViolation(f"batch unchanged: the model changed {', '.join(changed)}")
    return 0.0


def check_no_crosstalk(model: Model, *, tolerance: float | None = None) -> float:
    """Moving the atoms of one structure does nothing to another, though both lie at the same place in space.

    The control: the moved structure itself does change.
    """
    still = chiral_cluster(probe_elements(model))
    generator = np.random.Generator(np.random.PCG64(5))
    neighbor = moved(still, still.positions + 0.3 * generator.normal(size=still.positions.shape))
    jolted = moved(still, still.positions + 0.3 * generator.normal(size=still.positions.shape))
    before, after = respond(model, [still, neighbor], [0, 0]), respond(model, [still, jolted], [0, 0])
    n = still.n_atoms
    require_signal("no crosstalk", [a[n:] - b[n:] for a, b in zip(before.tensors()[1:3], after.tensors()[1:3], strict=True)])
    deviation = max(
        relative_deviation(after.structure_scalars[:1], before.structure_scalars[:1]),
        relative_deviation(after.atom_scalars[:n], before.atom_scalars[:n]),
        relative_deviation(after.atom_vectors[:n], before.atom_vectors[:n]),
    )
    return require_below("no crosstalk", deviation, tolerance or tolerance_of(model))


def check_one_atom(model: Model, *, tolerance: float | None = None) -> float:
    """A batch of a single atom keeps its singleton dimensions and has finite answers, and no force acts on the atom."""
    element = probe_elements(model)[0]
    residual = 0.0
    for structure in (lone_atom(element), one_atom_crystal(element)):
        response = respond(model, [structure])  # shapes are checked there
        for tensor in response.tensors():
            relative_deviation(tensor, tensor)  # finite
        if isinstance(model, Potential):
            residual = max(residual, float(response.atom_vectors.abs().max()))
    return require_below("one atom (residual force in eV/Å)", residual, tolerance or tolerance_of(model))


def check_shapes(model: Model) -> float:
    """Answers have the documented shapes for 1 and for 3 structures, and energies are float64.

    Returns:
        0.0; there is nothing to measure.
    """
    structures = probe_structures(model)
    for chosen in ([structures[0]], structures):
        respond(model, chosen)  # shapes are checked there
    if isinstance(model, Potential):
        batch = batch_of(model, structures)
        for properties in (("energy",), ("forces",), ("stress",)):
            predictions = model(batch, properties=properties, create_graph=False)
            if predictions.energy.dtype != torch.float64:
                raise ContractViolation(f"shapes: energy has dtype {predictions.energy.dtype}, expected torch.float64")
            if predictions.energy.shape != (batch.n_structures,):
                raise ContractViolation(f"shapes: energy has shape {tuple(predictions.energy.shape)}, expected {(batch.n_structures,)}")
    return 0.0


def check_precision(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """The float32 and the float64 version of the model agree (to ten times the float32 tolerance of the backbone)."""
    structures = structures or probe_structures(model)
    single = respond(in_dtype(model, torch.float32), structures)
    double = respond(in_dtype(model, torch.float64), structures)
    require_signal("float32 = float64", double.tensors())
    if dtype_of(in_dtype(model, torch.float32)) != torch.float32:
        raise ContractViolation("float32 = float64: the model does not follow .to(torch.float32)")
    return require_below("float32 = float64", single.deviation(double), tolerance or 10 * tolerance_of(model, torch.float32))


def check_repeatable(model: Model, structures: Sequence[Structure] | None = None) -> float:
    """The same batch twice gives the same answer to the last bit (on CPU) and `respond` leaves no trace in the weights.

    Returns:
        0.0; the comparison is exact.
    """
    batch = batch_of(model, structures or probe_structures(model))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = respond_to_batch(model, batch), respond_to_batch(model, batch)
    if batch.positions.device.type == "cpu" and not all(map(torch.equal, first.tensors(), second.tensors())):
        raise ContractViolation(f"repeatable: the second answer deviates by {second.deviation(first):.1e}")
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, weights[name])]
    if changed:
        raise ContractViolation(f"repeatable: a prediction changed the state of the model: {', '.join(changed)}")
    return 0.0


def _concatenated(responses: Sequence[Response]) -> Response:
    first = responses[0]
    names = [f.name for f in fields(first)]
    return replace(first, **{name: torch.cat([getattr(r, name) for r in responses]) for name in names})


def _frozen(value):  # type: ignore[no-untyped-def]
    if isinstance(value, Tensor):
        return value.clone()
    return {key: tensor.clone() for key, tensor in value.items()} if isinstance(value, dict) else value


def _identical(before, after) -> bool:  # type: ignore[no-untyped-def]
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after) and not after.requires_grad
    if isinstance(before, dict):
        return isinstance(after, dict) and before.keys() == after.keys() and all(_identical(before[k], after[k]) for k in before)
    return before == after
