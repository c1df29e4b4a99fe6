"""Writes `train/data0000.aselmdb` in the raw format: an invented copper slab under water, EMT energies and forces."""

from pathlib import Path

from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.db import connect


def rows() -> list[tuple[Atoms, dict]]:
    """Three frames of two calculations with their EMT calculators; the lowest layer is held fixed, its forces are not zero."""
    found = []
    for k, (source, frame) in enumerate((("calculation_a", 0), ("calculation_a", 5), ("calculation_b", 0))):
        atoms = fcc111("Cu", size=(2, 2, 2), vacuum=7.0, periodic=True)
        atoms.set_tags([0] * 4 + [1] * 4)
        for guest, height, site in ((molecule("CO", tags=[2, 2]), 2.0, "ontop"), (molecule("H2O", tags=[3, 3, 3]), 5.5, "bridge")):
            add_adsorbate(atoms, guest, height, site, mol_index=int(guest.positions[:, 2].argmin()))
        atoms.rattle(0.05, seed=k)
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces()
        found.append((atoms, {"source": source, "fid": frame, "total_drift": 0.01 * k}))
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
    write(Path(__file__).parent / "train" / "data0000.aselmdb")
