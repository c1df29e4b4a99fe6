"""Writes an unpacked `omc_train_250802` in the raw format: an invented packing of molecules, EMT labels with stress."""

from pathlib import Path

from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.db import connect


def rows() -> list[tuple[Atoms, dict]]:
    """Two packings of water, two and four molecules in the cell, and one of methane, with their EMT calculators."""
    found = []
    for k, (name, repeat) in enumerate((("H2O", (2, 1, 1)), ("H2O", (2, 2, 1)), ("CH4", (1, 1, 1)))):
        atoms = molecule(name, cell=[3.4, 3.5, 3.6], pbc=True).repeat(repeat)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        found.append((atoms, {"sid": f"invented-{k}"}))
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
    write(Path(__file__).parent / "omc_train_250802" / "omc_train_250802" / "train" / "data0000.aselmdb")
