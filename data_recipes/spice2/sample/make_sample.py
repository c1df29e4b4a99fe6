"""Writes `SPICE-2.0.1.hdf5` in the raw format: invented ions, an ion pair and molecules with Morse energies and gradients."""

from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.morse import MorsePotential

from unipot.units import BOHR, HARTREE

METHANE = molecule("CH4").positions
FORMATE = [[0.0, 0.0, 0.0], [0.0, 1.1, 0.6], [0.0, -1.1, 0.6], [0.0, 0.0, -1.1]]
CLUSTER = [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.76, -0.6], [0.0, -0.76, -0.6]]
#: name of the group -> SMILES, charge, subset, atoms; atoms in the order of the map numbers
MOLECULES = {
    "100000001": ("[C:1]([O:2][H:4])([H:3])([H:5])[H:6]", 0, "PubChem Set 1 Single Points Dataset v1.3", molecule("CH3OH")),
    "ala-gly": ("[C@@:1]([H:2])([F:3])([Cl:4])[Br:5]", 0, "Dipeptides Single Points Dataset v1.3", Atoms("CHFClBr", METHANE * 1.3)),
    "c(=o)[o-]": ("[C:1](=[O:2])([O-:3])[H:4]", -1, "DES Monomers Single Points Dataset v1.1", Atoms("CO2H", FORMATE)),
    "[nh4+]": ("[N+:1]([H:2])([H:3])([H:4])[H:5]", 1, "DES Monomers Single Points Dataset v1.1", Atoms("NH4", METHANE)),
    "[cl-].[na+]": ("[Cl-:1].[Na+:2]", 0, "Ion Pairs Single Points Dataset v1.2", Atoms("ClNa", [[0, 0, 0], [0, 0, 2.4]])),
    "[mg+2].o": ("[Mg+2:1].[O:2]([H:3])[H:4]", 2, "DES370K Single Points Dataset v1.0", Atoms("MgOH2", CLUSTER)),
}
FRAMES = 3
WITHOUT_FRAMES = "100000002"  # all calculations of this one failed


def labelled(atoms: Atoms, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (FRAMES, n_atoms, 3) Å in float32 as stored, energies eV, forces eV/Å."""
    shifts = np.random.default_rng(seed).normal(scale=0.05, size=(FRAMES, len(atoms), 3))
    positions = ((atoms.positions + shifts) / BOHR).astype(np.float32).astype(np.float64) * BOHR
    energies, forces = [], []
    for frame in positions:
        atoms = Atoms(atoms.numbers, frame, calculator=MorsePotential(r0=1.3, epsilon=0.2))
        energies.append(atoms.get_potential_energy() - 40.0 * atoms.numbers.sum())
        forces.append(atoms.get_forces())
    return positions, np.array(energies), np.array(forces)


def main(folder: Path) -> None:
    with h5py.File(folder / "SPICE-2.0.1.hdf5", "w", libver="latest") as file:
        for seed, (name, (smiles, _, subset, atoms)) in enumerate(MOLECULES.items()):
            _write(file.create_group(name), smiles, subset, atoms, labelled(atoms, seed))
        smiles, _, subset, atoms = MOLECULES["100000001"]
        nothing = tuple(array[:0] for array in labelled(atoms, 0))
        _write(file.create_group(WITHOUT_FRAMES), smiles, subset, atoms, nothing)


def _write(group: h5py.Group, smiles: str, subset: str, atoms: Atoms, frames: tuple[np.ndarray, ...]) -> None:
    positions, energies, forces = frames
    group.create_dataset("subset", data=[f"SPICE {subset}"], dtype=h5py.string_dtype())
    group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
    group.create_dataset("atomic_numbers", data=atoms.numbers, dtype=np.int16)
    for name, array, dtype, unit in (
        ("conformations", positions / BOHR, np.float32, "bohr"),
        ("dft_total_energy", energies / HARTREE, np.float64, "hartree"),
        ("dft_total_gradient", -forces / HARTREE * BOHR, np.float32, "hartree/bohr"),
    ):
        group.create_dataset(name, data=array, dtype=dtype).attrs["units"] = unit


if __name__ == "__main__":
    main(Path(__file__).parent)
