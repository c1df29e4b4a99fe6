"""Predictions for many structures of any sizes, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from unipot.batch import Predictions, collate
from unipot.data.mixture.budget import Budget, pack_in_order
from unipot.errors import InputError
from unipot.models.boundary import require_room
from unipot.models.potential import Potential
from unipot.models.trained_elements import ElementGuard
from unipot.neighbors import batch_edge_counts
from unipot.structure import Structure, name_of

if TYPE_CHECKING:
    from ase import Atoms

#: atoms and edges of one batch, as `unipot evaluate` has them
DEFAULT_BUDGET = Budget(max_atoms=512, max_edges=40_000)
#: structures whose sizes are looked at together
_WINDOW = 1024


@dataclass(frozen=True, kw_only=True)
class StructurePrediction:
    """What a potential says about one structure; None where it was not asked for or does not exist.

    Attributes:
        energy: eV.
        forces: (n_atoms, 3) eV/Å, float64.
        stress: (3, 3) eV/Å³, positive under tension; None too where an axis is not periodic.
    """

    energy: float
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


def evaluate_structures(
    potential: Potential,
    structures: Iterable[Structure | Atoms],
    *,
    head: str | None = None,
    properties: Collection[str] = ("energy", "forces"),
    budget: Budget = DEFAULT_BUDGET,
    unknown_elements: str = "warn",
) -> Iterator[StructurePrediction]:
    """Predict each structure, in the order given, as they come.

    Args:
        potential: on the device and in the dtype to compute with.
        structures: of any sizes, as unipot's or ASE's; a generator is read as far as it is needed.
        head: which head predicts; may be left out if there is only one.
        properties: out of energy, forces and stress.
        budget: largest contents of a batch; a structure that is larger is predicted alone.
        unknown_elements: what is done about elements that no frame of the head held, see `unipot.models.trained_elements`.

    Raises:
        KeyError: the model has no such head, or a property is unknown.
        ValueError: there are several heads and none is named, a structure is not sound or has an element that the head does not
            know, or a prediction is not finite (with the structure).

    Example:
        >>> from unipot import load_potential
        >>> frames = read("trajectory.extxyz", ":")  # doctest: +SKIP
        >>> found = evaluate_structures(load_potential("model.safetensors"), frames, head="mine")  # doctest: +SKIP
        >>> energies = [one.energy for one in found]  # doctest: +SKIP
    """
    head_index = _head_index(potential, head)
    guard, source = ElementGuard(potential.heads[potential.head_names[head_index]], unknown_elements), enumerate(structures)
    while window := [_structure(item, number) for number, item in islice(source, _WINDOW)]:
        guard.check(z for structure in window for z in structure.atomic_numbers.tolist())
        require_room(window, potential)
        for batch in _batches(window, potential.cutoff, budget):
            collated = collate(batch, cutoff=potential.cutoff, head_index=[head_index] * len(batch), dtype=potential.dtype)
            predictions = potential(collated.to(potential.device), properties=properties, create_graph=False)
            yield from _split(predictions, batch)


def _head_index(potential: Potential, head: str | None) -> int:
    if head is None and len(potential.head_names) != 1:
        raise InputError(f"the model has {len(potential.head_names)} heads: {', '.join(potential.head_names)}; say which one with head=...")
    return 0 if head is None else potential.heads.index(head)


def _structure(item: Structure | Atoms, number: int) -> Structure:
    if isinstance(item, Structure):
        return item
    return Structure.from_ase(item, id=f"{name_of(item)} (number {number})")


def _batches(window: Sequence[Structure], cutoff: float, budget: Budget) -> Iterator[Sequence[Structure]]:
    """Runs of consecutive structures within the budget."""
    n_atoms = np.array([s.n_atoms for s in window])
    geometry = np.concatenate([s.positions for s in window]), np.stack([s.cell for s in window]), np.stack([s.pbc for s in window])
    n_edges = batch_edge_counts(*geometry, n_atoms, [cutoff], names=lambda k: f"structure {window[k].id!r}")[:, 0]
    bounds = pack_in_order(n_atoms, n_edges, budget)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield window[start:stop]


def _split(predictions: Predictions, structures: Sequence[Structure]) -> Iterator[StructurePrediction]:
    arrays = {
        name: getattr(predictions, name).detach().double().cpu().numpy()
        for name in ("energy", "forces", "stress")
        if getattr(predictions, name) is not None
    }
    stops = np.cumsum([s.n_atoms for s in structures])
    for k, (structure, stop) in enumerate(zip(structures, stops, strict=True)):
        forces = arrays["forces"][stop - structure.n_atoms : stop] if "forces" in arrays else None
        stress = arrays["stress"][k] if "stress" in arrays and structure.pbc.all() else None
        found = [arrays["energy"][k], *(part for part in (forces, stress) if part is not None)]
        if not all(np.isfinite(part).all() for part in found):
            raise InputError(f"the prediction for structure {structure.id!r} is not finite; check its geometry and the model")
        yield StructurePrediction(energy=float(arrays["energy"][k]), forces=forces, stress=stress)
