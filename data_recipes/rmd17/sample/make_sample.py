"""Writes what `rmd17.tar.bz2` unpacks to: npz files of invented, smaller molecules under the ten names, Morse labels.

`old_*` are other numbers on purpose: nothing may read them. The lists name four frames each instead of 1000.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

from unipot.units import KCAL_PER_MOL

#: name of the file -> atoms
MOLECULES = {
    "aspirin": molecule("HCOOH"), "azobenzene": molecule("N2H4"), "benzene": molecule("C2H2"), "ethanol": molecule("CH3OH"),
    "malonaldehyde": molecule("H2CO"), "naphthalene": molecule("C2H4"), "paracetamol": molecule("H3CNH2"),
    "salicylic": molecule("HCOOH"), "toluene": molecule("CH4"), "uracil": molecule("HCN"),
}  # fmt: skip
FRAMES, LISTED = 10, 4


def labelled(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (FRAMES, n_atoms, 3) Å, energies eV, forces eV/Å."""
    atoms, seed = MOLECULES[name], [ord(letter) for letter in name]
    positions = atoms.positions + np.random.default_rng(seed).normal(scale=0.05, size=(FRAMES, len(atoms), 3))
    frames = [Atoms(atoms.numbers, frame, calculator=MorsePotential(r0=1.2, epsilon=0.2)) for frame in positions]
    energies = [frame.get_potential_energy() - 40.0 * atoms.numbers.sum() for frame in frames]
    return positions, np.array(energies), np.array([frame.get_forces() for frame in frames])


def listed(split: str, fold: int) -> np.ndarray:
    """Frame numbers of one list, in the order of the file."""
    order = np.random.default_rng(fold).permutation(FRAMES)
    return order[:LISTED] if split == "train" else order[LISTED : 2 * LISTED]


def main(folder: Path) -> None:
    top = folder / "rmd17" / "rmd17"
    (top / "npz_data").mkdir(parents=True, exist_ok=True)
    (top / "splits").mkdir(exist_ok=True)
    for name, atoms in MOLECULES.items():
        positions, energies, forces = labelled(name)
        np.savez_compressed(
            top / "npz_data" / f"rmd17_{name}.npz",
            nuclear_charges=atoms.numbers.astype(np.uint8),
            coords=positions,
            energies=energies / KCAL_PER_MOL,
            forces=forces / KCAL_PER_MOL,
            old_indices=np.arange(FRAMES),
            old_energies=np.full(FRAMES, 7.0),
            old_forces=np.full(positions.shape, 7.0),
        )
    for fold in range(1, 6):
        for split in ("train", "test"):
            np.savetxt(top / "splits" / f"index_{split}_0{fold}.csv", listed(split, fold), fmt="%d")


if __name__ == "__main__":
    main(Path(__file__).parent)
