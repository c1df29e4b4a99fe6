"""Writes an unpacked `odac25_filtered_train` in the raw format: invented frameworks, Lennard-Jones energies and forces."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.db import connect

PARTITIONS = {"mof_plus_adsorbate": ("CO2", "H2O"), "mof": (None,), "gcmc": ("N2",)}


def rows(partition: str) -> list[tuple[Atoms, dict]]:
    """Frameworks with their calculators and `data`, which holds other energies than the label."""
    found = []
    for k, adsorbate in enumerate(PARTITIONS[partition]):
        atoms = Atoms("ZnOCHOC", [(0, 0, 0), (2, 0, 0), (3.2, 0, 0), (3.2, 1.1, 0), (0, 2, 0), (0, 3.2, 0)], cell=[8.0, 8.0, 8.0], pbc=True)
        if adsorbate:
            guest = molecule(adsorbate)
            guest.translate(np.array([5.0, 5.0, 5.0]) - guest.get_center_of_mass())
            atoms += guest
        atoms.rattle(0.05, seed=k)
        atoms.calc = LennardJones(sigma=0.8, epsilon=0.1, rc=4.0)
        energy, _ = atoms.get_potential_energy(), atoms.get_forces()
        data = {"name": f"{partition}-{k}", "mof_name": "INVENTED01", "mof_type": "pristine", "sid": k, "fid": 0, "energy": energy}
        data |= {"nads": int(adsorbate is not None), "energy_old": energy - 0.01, "energy_mof": energy + 0.5}
        found.append((atoms, data | {"energy_ads": -0.5, "energy_ads_corrected": None if partition == "gcmc" else -0.51}))
    return found


def write(file: Path, partition: str) -> None:
    """With the database back end that wrote the published files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with connect(file, type="aselmdb") as database:
        for atoms, data in rows(partition):
            database.write(atoms, data=data)
    Path(f"{file}-lock").unlink(missing_ok=True)


if __name__ == "__main__":
    folder = Path(__file__).parent / "odac25_filtered_train"
    for partition in PARTITIONS:
        write(folder / "train" / partition / "part_00000.aselmdb", partition)
