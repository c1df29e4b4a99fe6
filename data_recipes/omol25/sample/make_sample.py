"""Writes an unpacked `train_4M.tar.gz` in the raw format: molecules and ions with charge and spin, EMT energies and forces."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.db import connect

#: molecule, charge, spin multiplicity
MOLECULES = (("H2O", 0, 1), ("OH", -1, 1), ("O2", 0, 3), ("CH3", 0, 2), ("NH3", 1, 2))


def rows() -> list[tuple[Atoms, dict]]:
    """Molecules with their EMT calculators and `data`; the published rows have a cell without meaning, so one row has one here."""
    found = []
    for k, (name, charge, spin) in enumerate(MOLECULES):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces()
        if k == 0:
            atoms.cell = np.eye(3)
            atoms.calc.atoms.cell = np.eye(3)  # or the database takes the results to be of other atoms
        data = {"source": f"invented/{name}", "data_id": "invented", "charge": charge, "spin": spin, "num_atoms": len(atoms)}
        found.append((atoms, data | {"num_electrons": int(sum(atoms.numbers)) - charge, "homo_lumo_gap": [1.0]}))
    return found


def write(file: Path) -> None:
    """With the database back end that wrote the published files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with connect(file, type="aselmdb") as database:
        for atoms, data in rows():
            database.write(atoms, data=data)
    Path(f"{file}-lock").unlink(missing_ok=True)


if __name__ == "__main__":
    write(Path(__file__).parent / "train_4M" / "train_4M" / "data0000.aselmdb")
