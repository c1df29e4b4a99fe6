"""Probe structures of the contracts: small, low in symmetry, and of every periodicity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.testing.response import Model, backbone_of

#: tried first, so that probes look like matter: O H C N Cu Si Al Na Cl
_PREFERRED = (8, 1, 6, 7, 29, 14, 13, 11, 17)


def probe_structures(model: Model) -> list[Structure]:
    """A chiral cluster, a triclinic crystal with a cell shorter than most cutoffs, and a slab.

    Raises:
        ValueError: the heads of a potential have no element in common.
    """
    elements = probe_elements(model)
    return [chiral_cluster(elements), triclinic_crystal(elements), thin_slab(elements)]


def probe_elements(model: Model, n_elements: int = 4) -> tuple[int, ...]:
    """At most `n_elements` atomic numbers that the backbone and all heads know.

    Raises:
        ValueError: there is none.
    """
    known = set(backbone_of(model).elements)
    if isinstance(model, Potential):
        for name in model.heads.names:
            known &= {z for z, is_known in enumerate(model.heads[name].reference.known.tolist()) if is_known}
    if not known:
        raise InputError("the heads of this potential have no element in common; give the probe structures yourself")
    ordered = [z for z in _PREFERRED if z in known] + sorted(known - set(_PREFERRED))
    return tuple(ordered[:n_elements])


def chiral_cluster(elements: Sequence[int], n_atoms: int = 7) -> Structure:
    """A molecule-like cluster without any symmetry, nearest distances about 1.1 Å."""
    positions = _spread(n_atoms, np.diag([4.2, 4.2, 4.2]), np.zeros(3, dtype=bool), distance=1.1, seed=11)
    return Structure(atomic_numbers=_cycle(elements, n_atoms), positions=positions, id="chiral-cluster")


def triclinic_crystal(elements: Sequence[int], n_atoms: int = 4) -> Structure:
    """Atoms in general positions of a skewed cell of about 4 Å, so that an atom sees several images of another."""
    cell = np.array([[4.1, 0.2, -0.3], [0.7, 3.9, 0.4], [-0.5, 0.9, 4.4]])
    positions = _spread(n_atoms, cell, np.ones(3, dtype=bool), distance=1.6, seed=12)
    return Structure(atomic_numbers=_cycle(elements, n_atoms), positions=positions, cell=cell, pbc=np.ones(3), id="triclinic-crystal")


def thin_slab(elements: Sequence[int], n_atoms: int = 5) -> Structure:
    """Periodic along two axes only, with a cell vector of no meaning along the third."""
    cell, pbc = np.array([[4.6, 0.0, 0.0], [1.1, 4.3, 0.0], [0.0, 0.0, 3.0]]), np.array([True, True, False])
    positions = _spread(n_atoms, cell, pbc, distance=1.5, seed=13)
    return Structure(atomic_numbers=_cycle(elements, n_atoms), positions=positions, cell=cell, pbc=pbc, id="thin-slab")


def lone_atom(element: int) -> Structure:
    """One atom in empty space."""
    return Structure(atomic_numbers=[element], positions=[[0.3, -0.2, 0.1]], id="lone-atom")


def one_atom_crystal(element: int) -> Structure:
    """One atom that is its own neighbour through the cell."""
    cell = np.array([[2.6, 0.0, 0.1], [0.9, 2.5, 0.0], [0.4, -0.3, 2.8]])
    return Structure(atomic_numbers=[element], positions=[[0.3, -0.2, 0.1]], cell=cell, pbc=np.ones(3), id="one-atom-crystal")


def moved(structure: Structure, positions: np.ndarray, cell: np.ndarray | None = None) -> Structure:
    """`structure` with other positions (Å) and, if given, another cell (Å); its labels no longer hold and are dropped."""
    return replace(structure, positions=positions, cell=structure.cell if cell is None else cell, labels={})


def repeated(structure: Structure, repeats: Sequence[int]) -> Structure:
    """The supercell with `repeats` cells along each axis; the atoms of the first cell come first."""
    images = np.stack(np.meshgrid(*[np.arange(n) for n in repeats], indexing="ij"), -1).reshape(-1, 3)
    positions = np.concatenate([structure.positions + image @ structure.cell for image in images])
    return Structure(
        atomic_numbers=np.tile(structure.atomic_numbers, len(images)),
        positions=positions,
        cell=structure.cell * np.asarray(repeats)[:, None],
        pbc=structure.pbc,
        total_charge=structure.total_charge * len(images),
        spin_multiplicity=_high_spin(structure.spin_multiplicity, len(images)),
        id=f"{structure.id}-{'x'.join(map(str, repeats))}",
    )


def _high_spin(multiplicity: int | None, n_cells: int) -> int | None:
    """2S+1 of cells whose unpaired electrons are all parallel."""
    return None if multiplicity is None else (multiplicity - 1) * n_cells + 1


def _cycle(elements: Sequence[int], n_atoms: int) -> np.ndarray:
    return np.resize(np.asarray(elements, dtype=np.int64), n_atoms)


def _spread(n_atoms: int, cell: np.ndarray, pbc: np.ndarray, *, distance: float, seed: int) -> np.ndarray:
    """Random positions (n_atoms, 3) Å in the cell, no two (images) closer than `distance`; the same on every machine."""
    generator = np.random.Generator(np.random.PCG64(seed))
    images = np.stack(np.meshgrid(*[(-1, 0, 1) if p else (0,) for p in pbc], indexing="ij"), -1).reshape(-1, 3) @ cell
    placed: list[np.ndarray] = []
    while len(placed) < n_atoms:
        trial = generator.random(3) @ cell
        if all(np.linalg.norm(trial - other + images, axis=1).min() > distance for other in placed):
            placed.append(trial)
    return np.array(placed)
