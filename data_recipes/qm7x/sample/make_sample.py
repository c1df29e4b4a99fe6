"""Writes `1000.xz` … `8000.xz` and `DupMols.dat` in the raw format: invented frames of small molecules with Morse labels.

The last conformer of each file is listed as a duplicate.
"""

import io
import lzma
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

#: name of the file -> molecule -> atoms
FILES = {
    "1000": {"1": molecule("CH4"), "2": molecule("C2H2")}, "2000": {"1001": molecule("H2CO")}, "3000": {"2001": molecule("NH3")},
    "4000": {"3001": molecule("HCN")}, "5000": {"4001": molecule("H2O")}, "6000": {"5001": molecule("SH2")},
    "7000": {"6001": molecule("HCl")}, "8000": {"7001": molecule("N2")},
}  # fmt: skip
CONFORMERS, DISPLACED = 2, 2
LEVELS = {"pbe0": 0.2, "pbe0_mbd": 0.21}  # depth of the Morse potential, eV


def conformer_names(molecule_name: str) -> list[str]:
    return [f"Geom-m{molecule_name}-i1-c{k + 1}" for k in range(CONFORMERS)]


def labelled(name: str, atoms: Atoms, depth: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Positions (n_atoms, 3) Å, energy eV and forces eV/Å of one structure."""
    seed = [ord(letter) for letter in name]
    positions = atoms.positions + np.random.default_rng(seed).normal(scale=0.05, size=(len(atoms), 3))
    frame = Atoms(atoms.numbers, positions, calculator=MorsePotential(r0=1.2, epsilon=depth))
    return positions, frame.get_potential_energy() - 40.0 * atoms.numbers.sum(), frame.get_forces()


def main(folder: Path) -> None:
    duplicates = []
    for file, molecules in FILES.items():
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver="latest") as opened:
            for molecule_name, atoms in molecules.items():
                for conformer in conformer_names(molecule_name):
                    for name in (f"{conformer}-opt", *(f"{conformer}-d{k + 1}" for k in range(DISPLACED))):
                        _write(opened.create_group(f"{molecule_name}/{name}"), name, atoms)
        duplicates.append(f"{conformer}-opt\n")
        (folder / f"{file}.xz").write_bytes(lzma.compress(buffer.getvalue()))
    (folder / "DupMols.dat").write_text("".join(duplicates))


def _write(group: h5py.Group, name: str, atoms: Atoms) -> None:
    group.create_dataset("atNUM", data=atoms.numbers)
    group.create_dataset("atXYZ", data=labelled(name, atoms, 0.2)[0])
    for level, energy, forces in (("pbe0", "ePBE0", "pbe0FOR"), ("pbe0_mbd", "ePBE0+MBD", "totFOR")):
        group.create_dataset(energy, data=[labelled(name, atoms, LEVELS[level])[1]])
        group.create_dataset(forces, data=labelled(name, atoms, LEVELS[level])[2])


if __name__ == "__main__":
    main(Path(__file__).parent)
