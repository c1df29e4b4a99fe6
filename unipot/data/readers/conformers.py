"""Conformers: arrays over many frames of one molecule, as HDF5 and npz collections hold them, to structures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.structure import Structure


def conformers(
    *,
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    energy: np.ndarray,
    forces: np.ndarray | None,
    ids: Sequence[str],
    group: str,
    total_charge: float = 0.0,
) -> Iterator[Structure | SkippedItem]:
    """One structure per frame of a molecule in vacuum.

    NaN marks a label that the source does not have: a frame whose energy is NaN is skipped, forces that are NaN
    throughout are left out. Forces that are NaN in part, and any other non-finite number, make a frame invalid.

    Args:
        atomic_numbers: (n_atoms,), the same in every frame.
        positions: (n_frames, n_atoms, 3) Å.
        energy: (n_frames,) or (n_frames, 1) eV.
        forces: (n_frames, n_atoms, 3) eV/Å, −dE/dR; None when the source has none.
        ids: n_frames of them.
        group: of all frames.
        total_charge: of all frames, |e|.

    Yields:
        Structures, and a `SkippedItem` for each frame that cannot be used; one alone when the arrays do not fit together.
    """
    energy = np.asarray(energy, dtype=np.float64)
    energy = energy.reshape(len(ids)) if energy.size == len(ids) else energy
    shape = (len(ids), np.size(atomic_numbers), 3)
    for name, array, expected in (("positions", positions, shape), ("forces", forces, shape), ("energies", energy, shape[:1])):
        if array is not None and np.shape(array) != expected:
            yield SkippedItem(where=group, reason=f"{name} of the molecule have shape {np.shape(array)}, expected {expected}")
            return
    for k, id in enumerate(ids):
        yield _conformer(atomic_numbers, positions[k], energy[k], None if forces is None else forces[k], id, group, total_charge)


def _conformer(
    atomic_numbers: np.ndarray, positions: np.ndarray, energy: Any, forces: np.ndarray | None, id: str, group: str, total_charge: float
) -> Structure | SkippedItem:
    if np.isnan(energy):
        return SkippedItem(where=id, reason="has no energy", invalid=False)
    labels = {"energy": energy}
    missing = np.zeros(1, dtype=bool) if forces is None else np.isnan(forces)
    if forces is not None and not missing.all():
        if missing.any():
            return SkippedItem(where=id, reason="forces are missing for part of the atoms")
        labels["forces"] = forces
    try:
        return Structure(atomic_numbers=atomic_numbers, positions=positions, total_charge=total_charge, labels=labels, id=id, group=group)
    except ValueError as error:
        return SkippedItem(where=id, reason=re.sub(r"^structure ('.*?'|without id): ", "", str(error)))
