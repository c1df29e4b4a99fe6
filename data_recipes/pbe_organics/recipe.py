"""Molecules of a store of `xtb_organics` at PBE/def2-SVP (PySCF): one frame of each trajectory, few trajectories of one molecule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from unipot.data.catalog.pbe import pbe_def2_svp
from unipot.data.labels import SkippedItem
from unipot.data.store import Store
from unipot.structure import Structure

FRAMES_PER_TRAJECTORY = 4  # of xtb_organics; trajectory k gives its frame k mod 4, so that all times after the start occur


def structures(
    of: str = "xtb_organics.unipot", n_frames: int = 1000, max_atoms: int = 12, per_molecule: int = 3, grid_level: int = 1
) -> Iterator[Structure | SkippedItem]:
    """The first `n_frames` that are chosen, in the order of the store.

    Args:
        of: store of recipe `xtb_organics`.
        n_frames: at most; a longer run starts with those of a shorter one.
        max_atoms: larger molecules are left out.
        per_molecule: trajectories of one molecule that are taken.
        grid_level: of PySCF's integration grid; 1 is off by 1 meV/Å (mean) where 2 is off by 0.1, and twice as fast.

    Raises:
        FileNotFoundError: there is no store `of`.
        ValueError: its structures are not named as those of `xtb_organics`.
    """
    for structure in islice(_chosen(Store(of), max_atoms, per_molecule), n_frames):
        try:
            energy, forces = pbe_def2_svp(structure.to_ase(), grid_level)
        except RuntimeError as error:
            yield SkippedItem(structure.id, str(error))
            continue
        yield replace(structure, labels={"energy": np.array(energy), "forces": forces})


def _chosen(store: Store, max_atoms: int, per_molecule: int) -> Iterator[Structure]:
    taken: Counter[str] = Counter()
    for index in np.flatnonzero(np.asarray(store.n_atoms) <= max_atoms):
        molecule, trajectory, frame = _place(str(store.ids[index]), store)
        if frame == trajectory % FRAMES_PER_TRAJECTORY and taken[molecule] < per_molecule:
            taken[molecule] += 1
            yield store[int(index)]


def _place(name: str, store: Store) -> tuple[str, int, int]:
    """Molecule, trajectory and frame of a structure called `<SMILES>-<seed>-<trajectory>-<frame>`."""
    parts = name.rsplit("-", 3)
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        raise ValueError(f"{store.path}: structure {name!r} is not of recipe xtb_organics; prepare that and give its store as options.of")
    return parts[0], int(parts[2]), int(parts[3])
