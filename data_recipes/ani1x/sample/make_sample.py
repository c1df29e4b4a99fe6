"""Writes `ani1x-release.h5` in the raw format: invented frames of small molecules, Morse labels of three invented levels.

Every third frame has no label of the higher levels, one has an energy without forces, and one has no label at all (NaN).
"""

from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

from unipot.units import HARTREE

#: sum formula, the name of the group -> atoms
MOLECULES = {"C1H4": molecule("CH4"), "C1H2O1": molecule("H2CO"), "H2O1": molecule("H2O"), "H3N1": molecule("NH3")}
FRAMES = 6
LEVELS = {"wb97x_dz": 0.2, "wb97x_tz": 0.21, "ccsd(t)_cbs": 0.22}  # depth of the Morse potential, eV


def labelled(atoms: Atoms, seed: int, depth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (FRAMES, n_atoms, 3) Å in float32 as stored, energies eV, forces eV/Å."""
    shifts = np.random.default_rng(seed).normal(scale=0.05, size=(FRAMES, len(atoms), 3))
    positions = (atoms.positions + shifts).astype(np.float32).astype(np.float64)
    energies, forces = [], []
    for frame in positions:
        atoms = Atoms(atoms.numbers, frame, calculator=MorsePotential(r0=1.2, epsilon=depth))
        energies.append(atoms.get_potential_energy() - 40.0 * atoms.numbers.sum())
        forces.append(atoms.get_forces())
    return positions, np.array(energies), np.array(forces)


def missing(level: str) -> tuple[np.ndarray, np.ndarray]:
    """(FRAMES,) bool each: frames without energy, frames without forces."""
    frames = np.arange(FRAMES)
    no_energy = (frames == 5) | ((frames % 3 == 1) & (level != "wb97x_dz"))
    return no_energy, no_energy | (frames == 3)


def main(folder: Path) -> None:
    with h5py.File(folder / "ani1x-release.h5", "w", libver="latest") as file:
        for seed, (name, atoms) in enumerate(MOLECULES.items()):
            group = file.create_group(name)
            group.create_dataset("atomic_numbers", data=atoms.numbers, dtype=np.uint8)
            group.create_dataset("coordinates", data=labelled(atoms, seed, 0.2)[0], dtype=np.float32)
            for level, depth in LEVELS.items():
                _, energies, forces = labelled(atoms, seed, depth)
                no_energy, no_forces = missing(level)
                energies[no_energy], forces[no_forces] = np.nan, np.nan
                group.create_dataset(f"{level}.energy", data=energies / HARTREE, dtype=np.float64)
                if level != "ccsd(t)_cbs":
                    group.create_dataset(f"{level}.forces", data=forces / HARTREE, dtype=np.float32)


if __name__ == "__main__":
    main(Path(__file__).parent)
