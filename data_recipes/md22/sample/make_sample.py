"""Writes the seven `md22_*.npz` in the raw format: frames of invented, smaller molecules, Morse labels.

One file stores its energies as a column and words as Python objects, which nothing may unpickle.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

from unipot.units import KCAL_PER_MOL

#: name of the file -> atoms
MOLECULES = {
    "Ac-Ala3-NHMe": molecule("CH3CONH2"), "DHA": molecule("CH3COOH"), "stachyose": molecule("CH3CH2OH"), "AT-AT": molecule("HCN"),
    "AT-AT-CG-CG": molecule("H3CNH2"), "buckyball-catcher": molecule("C6H6"), "double-walled_nanotube": molecule("C2H4"),
}  # fmt: skip
FRAMES = 4
PICKLED = "AT-AT"


def labelled(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (FRAMES, n_atoms, 3) Å, energies eV, forces eV/Å."""
    atoms, seed = MOLECULES[name], [ord(letter) for letter in name]
    positions = atoms.positions + np.random.default_rng(seed).normal(scale=0.05, size=(FRAMES, len(atoms), 3))
    frames = [Atoms(atoms.numbers, frame, calculator=MorsePotential(r0=1.2, epsilon=0.2)) for frame in positions]
    energies = [frame.get_potential_energy() - 40.0 * atoms.numbers.sum() for frame in frames]
    return positions, np.array(energies), np.array([frame.get_forces() for frame in frames])


def main(folder: Path) -> None:
    for name, atoms in MOLECULES.items():
        positions, energies, forces = labelled(name)
        odd = name == PICKLED
        np.savez_compressed(
            folder / f"md22_{name}.npz",
            type="d",
            name=np.array(name, dtype=object) if odd else name,
            theory="unknown",
            z=atoms.numbers.astype(np.uint8),
            R=positions,
            E=(energies / KCAL_PER_MOL).reshape((-1, 1) if odd else -1),
            F=forces / KCAL_PER_MOL,
            r_unit="Ang",
            e_unit="kcal/mol",
        )


if __name__ == "__main__":
    main(Path(__file__).parent)
