"""Forces and stress: the only place where a model is differentiated with respect to the geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unipot.batch import AtomBatch


@dataclass(frozen=True, kw_only=True)
class DeformableBatch:
    """A batch whose positions (and cells) depend on leaf tensors that can be differentiated.

    Attributes:
        batch: what the backbone sees.
        positions: (n_atoms, 3) leaf.
        strain: (n_structures, 3, 3) leaf, zero; None when no stress is wanted.
    """

    batch: AtomBatch
    positions: Tensor
    strain: Tensor | None


def make_deformable(batch: AtomBatch, *, stress: bool) -> DeformableBatch:
    """Attach position and strain leaves. R' = R (1 + ε), cell' = cell (1 + ε), ε symmetrised."""
    positions = batch.positions.detach().requires_grad_(True)
    if not stress:
        return DeformableBatch(batch=replace(batch, positions=positions), positions=positions, strain=None)
    strain = torch.zeros_like(batch.cell, requires_grad=True)
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = positions + torch.einsum("na,nab->nb", positions, symmetric[batch.structure_index])
    cell = batch.cell + batch.cell @ symmetric
    return DeformableBatch(batch=replace(batch, positions=moved, cell=cell), positions=positions, strain=strain)


def forces_and_stress(energy: Tensor, geometry: DeformableBatch, *, create_graph: bool) -> tuple[Tensor, Tensor | None]:
    """−∂E/∂R (n_atoms, 3) and (1/V) ∂E/∂ε (n_structures, 3, 3), zero where a structure is not periodic along all axes.

    Args:
        energy: (n_structures,) eV, computed from `geometry.batch`.
        geometry: from `make_deformable`.
        create_graph: keep the graph, so that a loss on forces can be differentiated.
    """
    leaves = [geometry.positions] + ([geometry.strain] if geometry.strain is not None else [])
    # without edges the energy does not depend on the geometry at all: zeros, still connected to nothing
    gradients = torch.autograd.grad(energy.sum(), leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    forces = -gradients[0]
    if geometry.strain is None:
        return forces, None
    return forces, stress_of(gradients[1], geometry.batch)


def forces_and_virials(energy: Tensor, vectors: Tensor, centre: Tensor, neighbor: Tensor, batch: AtomBatch) -> tuple[Tensor, Tensor]:
    """Forces (n_atoms, 3) and ∂E/∂ε (n_structures, 3, 3), symmetric, by way of ∂E/∂r_ij; the graph is kept.

    An energy depends on the geometry through r_ij = R_j + S·cell − R_i alone, so that one derivative gives both:
    F_i = Σ_j (∂E/∂r_ij − ∂E/∂r_ji) and ∂E/∂ε = Σ_ij r_ij ⊗ ∂E/∂r_ij.

    Args:
        energy: (n_structures,) eV.
        vectors: (n_edges, 3) Å, the leaf.
        centre, neighbor: (n_edges,).
        batch: which structure an atom belongs to.
    """
    (gradient,) = torch.autograd.grad(energy.sum(), (vectors,), create_graph=True)
    zeros = vectors.new_zeros(batch.n_atoms, 3)
    forces = zeros.index_add(0, centre, gradient).index_add(0, neighbor, -gradient)
    outer = zeros.new_zeros(batch.n_atoms, 3, 3).index_add(0, centre, vectors[:, :, None] * gradient[:, None, :])
    virials = batch.sum_over_atoms(outer)
    return forces, 0.5 * (virials + virials.transpose(1, 2))


def stress_of(virials: Tensor, batch: AtomBatch) -> Tensor:
    """(n_structures, 3, 3) eV/Å³, (1/V) ∂E/∂ε; zero where a structure is not periodic along all axes."""
    volume = torch.linalg.det(batch.cell.detach()).abs()
    periodic = batch.pbc.all(dim=1)
    inverse = torch.where(periodic, 1 / torch.where(periodic, volume, 1.0), 0.0)
    return virials * inverse[:, None, None]


def feature_tangents(
    features: Tensor, geometry: DeformableBatch, directions: Iterable[tuple[Tensor, Tensor | None]]
) -> Iterator[Tensor]:
    """(n_atoms, n_channels) rate of change of features along each direction: forward-mode by two reverse passes.

    The pullback of zero-valued weights u is linear in u; its derivative with respect to u along a direction of the geometry
    is the Jacobian-vector product. Needs second derivatives, which training through forces needs as well.

    Args:
        features: (n_atoms, n_channels), computed from `geometry.batch`.
        geometry: from `make_deformable`.
        directions: displacement (n_atoms, 3) in Å, and strain (n_structures, 3, 3) or None without strain leaves.
    """
    if not features.requires_grad:  # isolated atoms through frozen weights
        yield from (torch.zeros_like(features) for _ in directions)
        return
    leaves = [geometry.positions] + ([geometry.strain] if geometry.strain is not None else [])
    weights = torch.zeros_like(features, requires_grad=True)
    pulled = torch.autograd.grad(features, leaves, weights, create_graph=True, allow_unused=True, materialize_grads=True)
    connected = [k for k, pullback in enumerate(pulled) if pullback.requires_grad]
    for direction in directions:
        if not connected:  # without edges the features do not depend on the geometry
            yield torch.zeros_like(features)
            continue
        outputs, along = [pulled[k] for k in connected], [direction[k] for k in connected]
        yield torch.autograd.grad(outputs, weights, along, retain_graph=True, materialize_grads=True)[0]


def feature_forces(features: Tensor, positions: Tensor) -> Iterator[Tensor]:
    """−∂(Σ_s f_sk)/∂R, (n_atoms, 3), for each column k of (n_structures, n_features): one reverse pass per feature.

    Args:
        features: of structures, computed from `positions`.
        positions: (n_atoms, 3) leaf.
    """
    if not features.requires_grad:  # isolated atoms through frozen weights
        yield from (torch.zeros_like(positions) for _ in features.T)
        return
    for column in features.T:
        (gradient,) = torch.autograd.grad(column.sum(), (positions,), retain_graph=True, allow_unused=True, materialize_grads=True)
        yield -gradient


def parameter_gradients(outputs: Sequence[Tensor], parameters: Sequence[Tensor], *, retain_graph: bool) -> list[Tensor]:
    """Gradients of one scalar that every entry of the outputs enters with a weight of its own; zero where unconnected."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = [torch.randn(output.shape, dtype=torch.float64).to(output) for output in outputs]
    loss = sum((output * weight).sum().double() for output, weight in zip(outputs, weights, strict=True))
    return list(torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True))
