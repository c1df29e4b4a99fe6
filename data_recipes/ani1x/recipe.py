"""ANI-1x: organic molecules (H, C, N, O) far from equilibrium, chosen by active learning, at wB97x/6-31G(d).

One HDF5 file with a group per sum formula: `atomic_numbers`, `coordinates` (Å), and per method energies (hartree) and forces
(hartree/Å, not hartree/bohr). NaN marks what a method did not compute, so that most frames lack the dearer ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.hdf5 import group_parts, read_array, read_groups
from unipot.structure import Structure
from unipot.units import FORCE_UNITS, HARTREE

FILE = "ani1x-release.h5"
GROUPS_PER_PART = 20

#: value of the option -> its datasets of energies and of forces
LEVELS = {
    "wb97x_dz": ("wb97x_dz.energy", "wb97x_dz.forces"),
    "wb97x_tz": ("wb97x_tz.energy", "wb97x_tz.forces"),
    "ccsd_t_cbs": ("ccsd(t)_cbs.energy", None),
}


def parts(raw: Path, groups_per_part: int = GROUPS_PER_PART) -> list[str]:
    """Ranges of the sum formulas."""
    return group_parts(raw, FILE, groups_per_part=groups_per_part)


def structures(raw: Path, part: str, level: str = "wb97x_dz") -> Iterator[Structure | SkippedItem]:
    """The frames of one part; those without an energy at `level` are skipped and counted.

    Args:
        raw: folder with the HDF5 file.
        part: one of `parts`.
        level: one of `LEVELS`; the level of theory of the store follows it.

    Raises:
        ValueError: the level is not known, or the file is damaged.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r} of recipe 'ani1x' is not known; use one of: {', '.join(LEVELS)}")
    energy, forces = LEVELS[level]
    for name, group in read_groups(raw, part):
        positions = read_array(group, "coordinates").astype(np.float64)
        yield from conformers(
            atomic_numbers=read_array(group, "atomic_numbers"),
            positions=positions,
            energy=read_array(group, energy).astype(np.float64) * HARTREE,
            forces=read_array(group, forces).astype(np.float64) * FORCE_UNITS["hartree/A"] if forces else None,
            ids=[f"{name}#{k}" for k in range(len(positions))],
            group=name,
        )
