"""Forces and stress: the only place where a model is differentiated with respect to the geometry."""

from __future__ import annotations

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
    volume = torch.linalg.det(geometry.batch.cell.detach()).abs()
    periodic = geometry.batch.pbc.all(dim=1)
    inverse = torch.where(periodic, 1 / torch.where(periodic, volume, 1.0), 0.0)
    return forces, gradients[1] * inverse[:, None, None]
