"""Writes `Transition1x.h5` in the raw format: invented "reactions" between two rattled copies of a molecule, Morse labels.

In the second reaction of each formula the transition state is also an image of the path.
"""

from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

#: split -> sum formula -> atoms
SPLITS = {"train": {"CH4O": molecule("CH3OH")}, "val": {"CH5N": molecule("H3CNH2")}, "test": {"CH2O": molecule("H2CO")}}
REACTIONS, IMAGES = 2, 4


def reaction(atoms: Atoms, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions Å of the path (IMAGES, n_atoms, 3), and of reactant, transition state, product (3, n_atoms, 3)."""
    rng = np.random.default_rng(seed)
    first, last = (atoms.positions + rng.normal(scale=0.05, size=(len(atoms), 3)) for _ in range(2))
    path = np.stack([first + (last - first) * k / (IMAGES + 1) for k in range(1, IMAGES + 1)])
    top = path[1] if seed % REACTIONS else (first + last) / 2
    return path, np.stack([first, top, last])


def labels(atoms: Atoms, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies eV and forces eV/Å of (n_frames, n_atoms, 3)."""
    frames = [Atoms(atoms.numbers, frame, calculator=MorsePotential(r0=1.2, epsilon=0.2)) for frame in positions]
    energies = [frame.get_potential_energy() - 40.0 * atoms.numbers.sum() for frame in frames]
    return np.array(energies), np.array([frame.get_forces() for frame in frames])


def main(folder: Path) -> None:
    with h5py.File(folder / "Transition1x.h5", "w", libver="latest") as file:
        for split, formulas in SPLITS.items():
            for formula, atoms in formulas.items():
                for seed in range(REACTIONS):
                    group = file.create_group(f"{split}/{formula}/rxn{seed:04d}")
                    path, points = reaction(atoms, seed)
                    _write(group, atoms, path)
                    for name, point in zip(("reactant", "transition_state", "product"), points, strict=True):
                        _write(group.create_group(name), atoms, point[None])
                    file[f"data/{formula}/rxn{seed:04d}"] = group  # the group "data" holds every reaction again


def _write(group: h5py.Group, atoms: Atoms, positions: np.ndarray) -> None:
    energies, forces = labels(atoms, positions)
    group.create_dataset("atomic_numbers", data=atoms.numbers, dtype=np.int32)
    group.create_dataset("positions", data=positions)
    group.create_dataset("wB97x_6-31G(d).energy", data=energies)
    group.create_dataset("wB97x_6-31G(d).forces", data=forces)


if __name__ == "__main__":
    main(Path(__file__).parent)
