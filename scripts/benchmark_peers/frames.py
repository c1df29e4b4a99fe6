"""Structures with their neighbour lists as flat numpy arrays: what the driver hands to every worker.

A file holds, for `n` structures with `N` atoms and `E` edges in all: `n_atoms (n,)`, `n_edges (n,)`, `atomic_numbers (N,)`,
`positions (N, 3)` Å, `cell (n, 3, 3)` Å, `pbc (n, 3)`, `edge_index (2, E)` with indices local to each structure (row 0 centre i,
row 1 neighbour j), `cell_shifts (E, 3)` with r_ij = R_j + S·cell − R_i, `energy (n,)` eV and `forces (N, 3)` eV/Å. So every peer
sees the same atoms and the same edges, and no peer's time contains a neighbour search. Only numpy is needed to read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

Arrays = dict[str, np.ndarray]

PER_STRUCTURE = ("cell", "pbc", "energy")
PER_ATOM = ("atomic_numbers", "positions", "forces")


def save(path: Path, frames: Sequence[Arrays]) -> Arrays:
    """Write single-structure arrays (see `take` for the fields) as one file and return what was written."""
    arrays = {
        "n_atoms": np.array([len(f["atomic_numbers"]) for f in frames]),
        "n_edges": np.array([f["edge_index"].shape[1] for f in frames]),
        "edge_index": np.concatenate([f["edge_index"] for f in frames], axis=1),
        "cell_shifts": np.concatenate([f["cell_shifts"] for f in frames]),
    }
    arrays |= {name: np.stack([f[name] for f in frames]) for name in PER_STRUCTURE}
    arrays |= {name: np.concatenate([f[name] for f in frames]) for name in PER_ATOM}
    np.savez(path, **arrays)
    return arrays


def load(path: str | Path) -> Arrays:
    """The arrays of one file."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def take(arrays: Arrays, indices: Sequence[int] | np.ndarray | None = None) -> Arrays:
    """One batch of the chosen structures (all by default), with edges that index the batch's atoms.

    Adds `structure_index (N,)`. Structures keep the order of `indices`.
    """
    chosen = np.arange(len(arrays["n_atoms"])) if indices is None else np.asarray(indices)
    n_atoms, n_edges = arrays["n_atoms"][chosen], arrays["n_edges"][chosen]
    atoms = _ranges(arrays["n_atoms"], chosen)
    edges = _ranges(arrays["n_edges"], chosen)
    offsets = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    batch = {name: arrays[name][chosen] for name in PER_STRUCTURE} | {name: arrays[name][atoms] for name in PER_ATOM}
    return batch | {
        "n_atoms": n_atoms,
        "n_edges": n_edges,
        "structure_index": np.repeat(np.arange(len(chosen)), n_atoms),
        # choosing columns leaves them with other strides, and some packages need rows in one piece
        "edge_index": np.ascontiguousarray(arrays["edge_index"][:, edges] + np.repeat(offsets, n_edges)),
        "cell_shifts": arrays["cell_shifts"][edges],
    }


def edge_vectors(batch: Arrays) -> np.ndarray:
    """(n_edges, 3) Å, r_ij = R_j + S·cell − R_i of a batch from `take`."""
    centre, neighbor = batch["edge_index"]
    shifts = np.einsum("ei,eij->ej", batch["cell_shifts"], batch["cell"][batch["structure_index"][centre]])
    return batch["positions"][neighbor] + shifts - batch["positions"][centre]


def to_atoms(batch: Arrays) -> Atoms:
    """A file's only structure for ASE."""
    from ase import Atoms

    periodic = batch["pbc"].any()
    cell = {"cell": batch["cell"][0], "pbc": batch["pbc"][0]} if periodic else {}
    return Atoms(numbers=batch["atomic_numbers"], positions=batch["positions"], **cell)


def _ranges(lengths: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices of all elements of the chosen segments, for segments of the given lengths laid end to end."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in chosen])
