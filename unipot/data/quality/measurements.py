"""`measure`: what a batch of structures is like in numbers, for columns, thresholds, duplicates and the census."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS
from unipot.data.quality.fingerprint import CUTOFF, SIZE, fingerprints
from unipot.neighbors import batch_neighbor_list
from unipot.structure import Structure

#: column name -> one row per structure, see `measure`
Measurements = dict[str, np.ndarray]

#: column -> dtype and shape per structure
DTYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "edge_counts": ("int32", (len(STORED_CUTOFFS),)),
    "max_force": ("float32", ()),
    "force_squares": ("float64", ()),
    "net_force": ("float32", ()),
    "net_torque": ("float32", ()),
    "max_stress": ("float32", ()),
    "pressure": ("float32", ()),
    "volume_per_atom": ("float32", ()),
    "closest": ("float32", ()),
    "fingerprint": ("float32", (SIZE,)),
}
#: atoms whose neighbour list is held at a time; one structure is never divided
_ATOMS_AT_A_TIME = 20_000


def measure(structures: Sequence[Structure]) -> Measurements:
    """Numbers of each structure, in the order given, from one neighbour list at 6 Å for many structures at a time.

    Args:
        structures: any number, also none.

    Returns:
        Arrays with one row per structure (NaN: does not apply or no label):
        `edge_counts` (n, 3) int32 edges in both directions within 4, 5 and 6 Å; `max_force` eV/Å largest norm on an atom;
        `force_squares` (eV/Å)² Σ|F|²; `net_force` eV/Å |ΣF|; `net_torque` eV |Σ (r−r̄)×F| without periodic axes only;
        `max_stress` eV/Å³ largest |component|; `pressure` eV/Å³, −tr σ/3; `volume_per_atom` Å³ with three periodic axes only;
        `closest` smallest distance ÷ sum of covalent radii among pairs within 6 Å (inf: no pair); `fingerprint` (n, 16).

    Example:
        >>> h2 = Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]], labels={"forces": [[0, 0, 3], [0, 0, -1]]})
        >>> numbers = measure([h2])
        >>> numbers["edge_counts"].tolist(), float(numbers["max_force"][0]), float(numbers["net_force"][0])
        ([[2, 2, 2]], 3.0, 2.0)
    """
    found = {name: np.full((len(structures), *shape), 0 if dtype == "int32" else np.nan, dtype) for name, (dtype, shape) in DTYPES.items()}
    for part in _parts(structures):
        _measure_geometry(structures[part], {name: column[part] for name, column in found.items()})
    _measure_forces(structures, found)
    _measure_stress(structures, found)
    return found


def _parts(structures: Sequence[Structure]) -> list[slice]:
    """Consecutive runs of structures with a bounded number of atoms together."""
    ends: list[int] = []
    atoms = 0
    for number, structure in enumerate(structures):
        if atoms and atoms + structure.n_atoms > _ATOMS_AT_A_TIME:
            ends.append(number)
            atoms = 0
        atoms += structure.n_atoms
    edges = [0, *ends, len(structures)]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False) if stop > start]


def _measure_geometry(structures: Sequence[Structure], found: Measurements) -> None:
    """Fill the columns that need neighbours, in place."""
    numbers, n_atoms, edge_index, vectors = neighbor_vectors(structures, CUTOFF)
    of_edge = np.repeat(np.arange(len(structures)), n_atoms)[edge_index[0]]
    squared = np.einsum("ec,ec->e", vectors, vectors)
    for column, cutoff in enumerate(STORED_CUTOFFS):
        chosen = of_edge if cutoff == CUTOFF else of_edge[squared < cutoff**2]
        found["edge_counts"][:, column] = np.bincount(chosen, minlength=len(structures))
    found["closest"][:] = _closest(numbers, edge_index, squared, of_edge, len(structures))
    found["fingerprint"][:] = fingerprints(numbers, n_atoms, edge_index, vectors)
    volumes = np.abs(np.linalg.det(np.stack([structure.cell for structure in structures]))) / n_atoms
    found["volume_per_atom"][:] = np.where([structure.pbc.all() for structure in structures], volumes, np.nan)


def neighbor_vectors(structures: Sequence[Structure], cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of atoms within `cutoff` (Å) of several structures, one after the other.

    Args:
        structures: at least one.
        cutoff: Å.

    Returns:
        (n_atoms,) atomic numbers; (n_structures,) atoms of each; (2, n_edges) centre and neighbour, sorted by centre; (n_edges, 3) Å.
    """
    n_atoms = np.array([structure.n_atoms for structure in structures], dtype=np.int64)
    numbers = np.concatenate([structure.atomic_numbers for structure in structures])
    positions = np.concatenate([structure.positions for structure in structures])
    cells = np.stack([structure.cell for structure in structures])
    pbc = np.stack([structure.pbc for structure in structures])
    edge_index, shifts = batch_neighbor_list(positions, cells, pbc, n_atoms, cutoff, names=lambda k: f"structure {structures[k].id!r}")
    of_edge = np.repeat(np.arange(len(structures)), n_atoms)[edge_index[0]]
    vectors = positions.take(edge_index[1], axis=0) - positions.take(edge_index[0], axis=0)
    stops = np.searchsorted(of_edge, np.arange(len(structures)), side="right").tolist()
    for k in np.flatnonzero(pbc.any(axis=1)).tolist():
        edges = slice(stops[k - 1] if k else 0, stops[k])
        vectors[edges] += shifts[edges] @ cells[k]
    return numbers, n_atoms, edge_index, vectors


def _closest(numbers: np.ndarray, edge_index: np.ndarray, squared: np.ndarray, of_edge: np.ndarray, n_structures: int) -> np.ndarray:
    closest = np.full(n_structures, np.inf)
    if len(squared):
        radii = covalent_radii()[numbers]
        ratios = squared / np.square(radii[edge_index[0]] + radii[edge_index[1]])
        starts = np.flatnonzero(np.diff(of_edge, prepend=-1))  # edges are sorted by centre, so by structure
        closest[of_edge[starts]] = np.sqrt(np.minimum.reduceat(ratios, starts))
    return closest


def _measure_forces(structures: Sequence[Structure], found: Measurements) -> None:
    labelled = [k for k, structure in enumerate(structures) if "forces" in structure.labels]
    if not labelled:
        return
    chosen = [structures[k] for k in labelled]
    n_atoms = np.array([structure.n_atoms for structure in chosen])
    starts = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    forces = np.concatenate([structure.labels["forces"] for structure in chosen])
    positions = np.concatenate([structure.positions for structure in chosen])
    squares = np.einsum("ac,ac->a", forces, forces)
    found["max_force"][labelled] = np.sqrt(np.maximum.reduceat(squares, starts))
    found["force_squares"][labelled] = np.add.reduceat(squares, starts)
    found["net_force"][labelled] = np.linalg.norm(np.add.reduceat(forces, starts, axis=0), axis=1)
    centres = np.add.reduceat(positions, starts, axis=0) / n_atoms[:, None]
    torques = np.cross(positions - np.repeat(centres, n_atoms, axis=0), forces)
    free = np.array([not structure.pbc.any() for structure in chosen])  # a torque has no meaning under periodic images
    found["net_torque"][labelled] = np.where(free, np.linalg.norm(np.add.reduceat(torques, starts, axis=0), axis=1), np.nan)


def _measure_stress(structures: Sequence[Structure], found: Measurements) -> None:
    labelled = [k for k, structure in enumerate(structures) if "stress" in structure.labels]
    if labelled:
        stress = np.stack([structures[k].labels["stress"] for k in labelled])
        found["max_stress"][labelled] = np.abs(stress).max(axis=(1, 2))
        found["pressure"][labelled] = -np.trace(stress, axis1=1, axis2=2) / 3


@cache
def covalent_radii() -> np.ndarray:
    """(119,) Å, of each element (Cordero et al., Dalton Trans. 2008, 2832, as ASE lists them; 0.2 where there is none)."""
    from ase.data import covalent_radii as radii

    return np.array(radii[:119], dtype=np.float64)
