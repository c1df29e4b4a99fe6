"""Contracts of symmetry: rotation, reflection, translation, permutation, periodic images, supercells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from unipot.errors import InputError
from unipot.structure import Structure
from unipot.testing.probes import moved, probe_elements, probe_structures, repeated, triclinic_crystal
from unipot.testing.response import Model, Response, backbone_of, head_indices, respond, tolerance_of
from unipot.testing.violation import require_below, require_signal


def check_rotation(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """Turning atoms and cell leaves scalars alone and turns vectors and tensors along.

    Returns:
        The relative deviation; likewise for all contracts below.

    Raises:
        ContractViolation: the deviation exceeds `tolerance` (default: what the backbone promises for its dtype).
    """
    return _check_orthogonal(model, structures, _orthogonal_matrix(seed=1, determinant=1), "rotation", tolerance)


def check_reflection(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """Mirror images have the same scalars and mirrored vectors and tensors: O(3), not only SO(3).

    Raises:
        ValueError: the backbone does not claim parity.
        ContractViolation: the deviation exceeds `tolerance`.
    """
    if not backbone_of(model).parity:
        raise InputError(f"backbone {backbone_of(model).name!r} states parity=False: it does not claim reflection symmetry")
    return _check_orthogonal(model, structures, _orthogonal_matrix(seed=2, determinant=-1), "reflection", tolerance)


def check_translation(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """A rigid shift changes nothing, even when atoms leave the cell through one side and are put back at the other."""
    structures = structures or probe_structures(model)
    expected = respond(model, structures)
    require_signal("translation", expected.tensors())
    shift = np.array([1.37, -2.91, 0.83])
    shifted = [moved(s, s.positions + shift) for s in structures]
    wrapped = [moved(s, _wrapped(s)) for s in shifted]
    deviation = max(respond(model, variant).deviation(expected) for variant in (shifted, wrapped))
    return require_below("translation", deviation, tolerance or tolerance_of(model))


def check_permutation(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """The order of the atoms has no meaning."""
    structures = structures or probe_structures(model)
    expected = respond(model, structures)
    require_signal("permutation", expected.tensors())
    generator = np.random.Generator(np.random.PCG64(3))
    orders = [generator.permutation(s.n_atoms) for s in structures]
    permuted = [
        replace(s, atomic_numbers=s.atomic_numbers[o], positions=s.positions[o], fixed=s.fixed[o], labels={})
        for s, o in zip(structures, orders, strict=True)
    ]
    starts = np.cumsum([0, *(s.n_atoms for s in structures)])
    back = torch.from_numpy(np.concatenate([start + np.argsort(o) for start, o in zip(starts, orders, strict=False)]))
    measured = respond(model, permuted)
    restored = replace(measured, atom_scalars=measured.atom_scalars[back], atom_vectors=measured.atom_vectors[back])
    return require_below("permutation", restored.deviation(expected), tolerance or tolerance_of(model))


def check_periodic_images(model: Model, structures: Sequence[Structure] | None = None, *, tolerance: float | None = None) -> float:
    """Each atom may be replaced by any of its periodic images, far outside the cell too."""
    structures = [s for s in structures or probe_structures(model) if s.pbc.any()]
    expected = respond(model, structures)
    require_signal("periodic images", expected.tensors())
    generator = np.random.Generator(np.random.PCG64(4))
    scattered = [moved(s, s.positions + (generator.integers(-3, 4, (s.n_atoms, 3)) * s.pbc) @ s.cell) for s in structures]
    return require_below("periodic images", respond(model, scattered).deviation(expected), tolerance or tolerance_of(model))


def check_supercell(model: Model, structure: Structure | None = None, *, tolerance: float | None = None) -> float:
    """A supercell has the energy of its cells together, and every copy of an atom the same forces and features."""
    structure = structure or triclinic_crystal(probe_elements(model))
    single, repeats = respond(model, [structure]), (2, 1, 2)
    require_signal("supercell", single.tensors())
    measured, n_cells = respond(model, [repeated(structure, repeats)]), int(np.prod(repeats))
    expected = Response(
        structure_scalars=single.structure_scalars * n_cells,
        atom_scalars=single.atom_scalars.repeat(n_cells, 1),
        atom_vectors=single.atom_vectors.repeat(n_cells, 1, 1),
        structure_tensors=single.structure_tensors,
    )
    return require_below("supercell", measured.deviation(expected), tolerance or tolerance_of(model))


def _check_orthogonal(
    model: Model, structures: Sequence[Structure] | None, matrix: np.ndarray, claim: str, tolerance: float | None
) -> float:
    structures = structures or probe_structures(model)
    index = head_indices(model, len(structures))
    original = respond(model, structures, index)
    require_signal(claim, original.tensors())
    turned = respond(model, [moved(s, s.positions @ matrix.T, s.cell @ matrix.T) for s in structures], index)
    turn = torch.from_numpy(matrix).to(original.atom_vectors)
    expected = replace(
        original,
        atom_vectors=torch.einsum("ab,nbk->nak", turn, original.atom_vectors),
        structure_tensors=turn @ original.structure_tensors @ turn.T if original.structure_tensors.numel() else original.structure_tensors,
    )
    return require_below(claim, turned.deviation(expected), tolerance or tolerance_of(model))


def _orthogonal_matrix(seed: int, determinant: int) -> np.ndarray:
    matrix = np.linalg.qr(np.random.Generator(np.random.PCG64(seed)).normal(size=(3, 3)))[0]
    return matrix * np.sign(np.linalg.det(matrix)) * determinant


def _wrapped(structure: Structure) -> np.ndarray:
    """(n_atoms, 3) Å, atoms brought back into the cell along its periodic axes."""
    if not structure.pbc.any():
        return structure.positions
    fractional = structure.positions @ np.linalg.pinv(structure.cell)
    return structure.positions - (np.floor(fractional) * structure.pbc) @ structure.cell
