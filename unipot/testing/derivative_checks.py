"""Contracts of differentiation: forces and stress are derivatives of the energy, and can be differentiated again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.testing.probes import moved, probe_elements, probe_structures, triclinic_crystal
from unipot.testing.response import batch_of, in_dtype, reference_energies
from unipot.testing.violation import SIGNAL_FLOOR, ContractViolation, relative_deviation, require_below, require_signal

#: relative to the largest component; the fourth-order stencil below leaves about 1e-9 on smooth potentials
DERIVATIVE_TOLERANCE = 1e-6
#: five-point stencil: f'(0) ≈ Σ weight · f(offset · step) / step
_STENCIL = ((-2.0, 1 / 12), (-1.0, -2 / 3), (1.0, 2 / 3), (2.0, -1 / 12))


def check_force_is_gradient(
    potential: Potential,
    structure: Structure | None = None,
    *,
    head: int = 0,
    step: float = 1e-3,
    max_components: int = 24,
    tolerance: float = DERIVATIVE_TOLERANCE,
) -> float:
    """Forces equal −∂E/∂R by central differences in float64 (neighbours searched anew for every displacement).

    Args:
        structure: a crystal with several images by default.
        step: Å.
        max_components: how many of the 3 n_atoms components to examine, chosen at random with a fixed seed.
    """
    potential = in_dtype(potential, torch.float64)
    structure = structure or triclinic_crystal(probe_elements(potential))
    forces = potential(batch_of(potential, [structure], [head]), create_graph=False)["forces"]
    require_signal("force = -dE/dR", [forces])
    components = np.random.Generator(np.random.PCG64(6)).permutation(3 * structure.n_atoms)[:max_components]
    displaced = []
    for component in components:
        for offset, _ in _STENCIL:
            positions = structure.positions.copy()
            positions.flat[component] += offset * step
            displaced.append(moved(structure, positions))
    gradient = _stencil_sum(_energies(potential, displaced, head)) / step
    measured = forces.detach().reshape(-1)[torch.from_numpy(components).to(forces.device)]
    return require_below("force = -dE/dR", relative_deviation(measured, -gradient), tolerance)


def check_stress_is_strain_derivative(
    potential: Potential,
    structure: Structure | None = None,
    *,
    head: int = 0,
    step: float = 1e-4,
    tolerance: float = DERIVATIVE_TOLERANCE,
) -> float:
    """Stress equals (1/V) ∂E/∂ε by central differences in float64, all six components, and is symmetric.

    Args:
        structure: periodic along all axes.
        step: strain.

    Raises:
        ValueError: the structure is not periodic along all axes.
    """
    potential = in_dtype(potential, torch.float64)
    structure = structure or triclinic_crystal(probe_elements(potential))
    if not structure.pbc.all():
        raise InputError(f"structure {structure.id!r} has pbc {structure.pbc.tolist()}; stress needs all three axes periodic")
    stress = potential(batch_of(potential, [structure], [head]), properties=("stress",), create_graph=False)["stress"][0]
    require_signal("stress = dE/d(strain)/V", [stress])
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    strained = []
    for a, b in pairs:
        for offset, _ in _STENCIL:
            strain = np.eye(3)
            strain[a, b] += 0.5 * offset * step
            strain[b, a] += 0.5 * offset * step
            strained.append(moved(structure, structure.positions @ strain, structure.cell @ strain))
    derivative = _stencil_sum(_energies(potential, strained, head)) / (step * structure.volume)
    rows, columns = (list(axis) for axis in zip(*pairs, strict=True))
    deviation = max(relative_deviation(stress[rows, columns], derivative), relative_deviation(stress[columns, rows], derivative))
    return require_below("stress = dE/d(strain)/V", deviation, tolerance)


def check_net_force(potential: Potential, structures: Sequence[Structure] | None = None, *, tolerance: float = 1e-10) -> float:
    """Forces on a structure sum to zero, in float64, relative to the largest force."""
    potential = in_dtype(potential, torch.float64)
    batch = batch_of(potential, structures or probe_structures(potential))
    forces = potential(batch, create_graph=False)["forces"].detach()
    require_signal("net force", [forces])
    return require_below("net force", float(batch.sum_over_atoms(forces).abs().max() / forces.abs().max()), tolerance)


def check_double_backward(potential: Potential, structures: Sequence[Structure] | None = None, *, tolerance: float = 1e-5) -> float:
    """A loss on energies, forces and stress gives every trainable parameter a finite gradient, and the right one.

    Parameters that serve vector features only are excused when no head reads vectors. The gradient is compared, along
    one random direction in parameter space, with central differences of the loss. The weights and the gradients of
    `potential` are restored.

    Raises:
        ContractViolation: a parameter gets no or a non-finite gradient, or the derivative is wrong.
    """
    potential = in_dtype(potential, torch.float64)
    structures = list(structures or probe_structures(potential))
    # at least one structure per head, else its parameters rightly get nothing
    batches = [batch_of(potential, structures, [h] * len(structures)) for h in range(len(potential.heads.names))]
    excused = set() if any(head.direct_forces for head in potential.heads.heads.values()) else _vectors_only(potential, batches[0])
    named = [(name, p) for name, p in potential.named_parameters() if p.requires_grad and name not in excused]
    kept = [(p.grad, p.detach().clone()) for _, p in named]
    try:
        gradients = _loss_gradients(potential, batches, named)
        generator = torch.Generator().manual_seed(7)
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for _, p in named]
        analytical = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        losses = [_shifted_loss(potential, batches, named, kept, direction, offset * 1e-4) for offset, _ in _STENCIL]
        numerical = float(_stencil_sum(torch.tensor(losses, dtype=torch.float64))[0]) / 1e-4
    finally:
        with torch.no_grad():
            for (_, p), (gradient, value) in zip(named, kept, strict=True):
                p.copy_(value)
                p.grad = gradient
    deviation = abs(analytical - numerical) / max(abs(numerical), SIGNAL_FLOOR)
    return require_below("double backward", deviation, tolerance)


def _loss(potential: Potential, batches: Sequence[AtomBatch]) -> Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        predictions = potential(batch, properties=("energy", "forces", "stress"), create_graph=True)
        interaction = predictions["energy"] - reference_energies(potential, batch)
        loss = loss + ((interaction - 1.0) ** 2).sum().cpu() + (predictions["forces"].double() ** 2).sum().cpu()
        loss = loss + (predictions["stress"].double() ** 2).sum().cpu()
    return loss


def _vectors_only(potential: Potential, batch: AtomBatch) -> set[str]:
    """Names of parameters that the vector features depend on and the scalar features do not."""
    potential = copy.deepcopy(potential)  # gradients are accumulated here
    named = dict(potential.named_parameters())
    features = potential.backbone(batch)
    if features.vectors is None:
        return set()
    features.vectors.square().sum().backward(retain_graph=True)
    reached = {name for name, p in named.items() if p.grad is not None}
    potential.zero_grad(set_to_none=True)
    features.scalars.square().sum().backward()
    return reached - {name for name, p in named.items() if p.grad is not None}


def _loss_gradients(potential: Potential, batches: Sequence[AtomBatch], named: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
    for _, parameter in named:
        parameter.grad = None
    _loss(potential, batches).backward()
    without = [name for name, p in named if p.grad is None]
    broken = [name for name, p in named if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    if without or broken:
        raise ContractViolation(f"double backward: no gradient for {without or 'none'}, non-finite gradient for {broken or 'none'}")
    gradients = [p.grad.clone() for _, p in named if p.grad is not None]
    require_signal("double backward", gradients)
    return gradients


def _shifted_loss(potential, batches, named, kept, direction, distance: float) -> float:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        for (_, p), (_, value), d in zip(named, kept, direction, strict=True):
            p.copy_(value + distance * d)
    return float(_loss(potential, batches).detach())


def _energies(potential: Potential, structures: Sequence[Structure], head: int) -> Tensor:
    """(n_structures,) eV, interaction energies: references would only cost digits."""
    batch = batch_of(potential, structures, [head] * len(structures))
    with torch.no_grad():
        return potential(batch, properties=("energy",))["energy"] - reference_energies(potential, batch)


def _stencil_sum(values: Tensor) -> Tensor:
    weights = torch.tensor([weight for _, weight in _STENCIL], dtype=values.dtype, device=values.device)
    return values.reshape(-1, len(_STENCIL)) @ weights
