"""`Response`: what a backbone or a potential answers, sorted by how it transforms, so that one contract serves both."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unipot.batch import AtomBatch, collate
from unipot.models.backbone import Backbone
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.testing.violation import ContractViolation, relative_deviation

#: The physics contracts hold for either.
Model = Backbone | Potential


@dataclass(frozen=True, kw_only=True)
class Response:
    """Detached answers of a model to one batch; what a model does not answer has zero columns.

    Attributes:
        structure_scalars: (n_structures, k) invariant and extensive; eV, interaction energy (references removed).
        atom_scalars: (n_atoms, k) invariant; scalar features.
        atom_vectors: (n_atoms, 3, k) covariant; forces in eV/Å, or vector features.
        structure_tensors: (n_structures, 3, 3 * k) covariant rank 2, intensive; stress in eV/Å³.
    """

    structure_scalars: Tensor
    atom_scalars: Tensor
    atom_vectors: Tensor
    structure_tensors: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All four, in order of declaration."""
        return self.structure_scalars, self.atom_scalars, self.atom_vectors, self.structure_tensors

    def deviation(self, expected: Response) -> float:
        """Largest relative deviation from `expected` over the four kinds of answer."""
        return max(relative_deviation(a, b) for a, b in zip(self.tensors(), expected.tensors(), strict=True))


def head_indices(model: Model, n_structures: int) -> list[int]:
    """Heads dealt out in turn, so that every head of a potential takes part."""
    n_heads = len(model.heads.names) if isinstance(model, Potential) else 1
    return [i % n_heads for i in range(n_structures)]


def batch_of(model: Model, structures: Sequence[Structure], head_index: Sequence[int] | None = None) -> AtomBatch:
    """The structures collated with the cutoff, dtype and device of `model`."""
    index = head_indices(model, len(structures)) if head_index is None else head_index
    return collate(structures, cutoff=model.cutoff, head_index=index, dtype=dtype_of(model)).to(device_of(model))


def respond(model: Model, structures: Sequence[Structure], head_index: Sequence[int] | None = None) -> Response:
    """Answer of `model` to `structures` in one batch."""
    return respond_to_batch(model, batch_of(model, structures, head_index))


def respond_to_batch(model: Model, batch: AtomBatch) -> Response:
    """Answer of `model` to `batch`.

    Raises:
        ContractViolation: a shape or a value is not what the contract says.
    """
    n_atoms, n_structures = batch.n_atoms, batch.n_structures
    nothing = batch.positions.new_zeros
    if isinstance(model, Potential):
        predictions = model(batch, properties=("energy", "forces", "stress"), create_graph=False)
        energy, forces, stress = predictions["energy"], predictions["forces"], predictions["stress"]
        _require_shapes(energy=(energy, (n_structures,)), forces=(forces, (n_atoms, 3)), stress=(stress, (n_structures, 3, 3)))
        interaction = energy.detach() - reference_energies(model, batch)
        return Response(
            structure_scalars=interaction[:, None],
            atom_scalars=nothing((n_atoms, 0)),
            atom_vectors=forces.detach()[:, :, None],
            structure_tensors=stress.detach(),
        )
    with torch.no_grad():
        features = model(batch)
    vectors = nothing((n_atoms, 3, 0)) if features.vectors is None else features.vectors
    _require_shapes(
        scalars=(features.scalars, (n_atoms, model.n_channels)),
        vectors=(vectors, (n_atoms, 3, 0 if features.vectors is None else model.n_vector_channels)),
    )
    return Response(
        structure_scalars=nothing((n_structures, 0)),
        atom_scalars=features.scalars,
        atom_vectors=vectors,
        structure_tensors=nothing((n_structures, 3, 0)),
    )


def reference_energies(potential: Potential, batch: AtomBatch) -> Tensor:
    """(n_structures,) eV float64, the sum of the composition references of each structure's own head."""
    values = torch.stack([potential.heads[name].reference.values for name in potential.heads.names]).double()
    return batch.sum_over_atoms(values[batch.head_index[batch.structure_index], batch.atomic_numbers])


def dtype_of(model: Model) -> torch.dtype:
    """The floating dtype of the weights (of the backbone, for a potential)."""
    module = model.backbone if isinstance(model, Potential) else model
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def device_of(model: Model) -> torch.device:
    """The device of the weights."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def in_dtype(model: Model, dtype: torch.dtype) -> Model:
    """`model` itself if it has that dtype, else a converted copy."""
    return model if dtype_of(model) == dtype else copy.deepcopy(model).to(dtype)


def backbone_of(model: Model) -> Backbone:
    """The backbone of a potential, or the model itself."""
    return model.backbone if isinstance(model, Potential) else model


def tolerance_of(model: Model, dtype: torch.dtype | None = None) -> float:
    """What the backbone promises for its symmetries in `dtype` (its own by default)."""
    return backbone_of(model).equivariance_tolerance[dtype or dtype_of(model)]


def _require_shapes(**shapes: tuple[Tensor, tuple[int, ...]]) -> None:
    for name, (tensor, expected) in shapes.items():
        if tuple(tensor.shape) != expected:
            raise ContractViolation(f"{name} has shape {tuple(tensor.shape)}, expected {expected}")
