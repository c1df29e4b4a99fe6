"""Writes an unpacked `train/rattled-300-subsampled.tar.gz` in the raw format: rattled invented alloys, EMT labels with stress."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.db import connect


def rows() -> list[tuple[Atoms, dict]]:
    """Crystals with their EMT calculators, and `data`; the third row has no parent."""
    found = []
    for k, (symbols, a, parent) in enumerate((("CuAu", 2.9, "agm001"), ("CuAu", 3.2, "agm001"), ("AlNi", 2.7, None))):
        atoms = bulk("NiAl", "cesiumchloride", a=a)
        atoms.symbols = symbols
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        energy, _, _ = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        data = {"calc_id": f"calc-{k}", "sid": f"sid-{k}", "task_type": "Static", "elements": sorted(set(atoms.get_chemical_symbols()))}
        # another energy beside the label, as in the published files
        data |= {"energy_corrected_mp2020": energy - 0.7, "energy_adjustments_mp2020": [-0.7]}
        found.append((atoms, data | ({"parent_id": parent} if parent else {})))
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
    folder = Path(__file__).parent / "train" / "rattled-300-subsampled" / "rattled-300-subsampled"
    write(folder / "data.aselmdb")
    np.savez(folder / "metadata.npz", natoms=[len(atoms) for atoms, _ in rows()])
