"""Writes `train.tar.gz` and `val.tar.gz` in the raw format: ASE rows in LMDB, invented crystals, EMT energies, forces and stresses."""

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

import ase_db_backends  # noqa: F401  (registers the format with ase.db)
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

FILES = {"train": ("alex_go_aaa_001.aselmdb", 0), "val": ("alex_go_aao_001.aselmdb", 10)}


def frames(split: str) -> dict[str, Atoms]:
    """sid -> crystal; two steps of two materials."""
    found = {}
    for number in range(4):
        rng = np.random.default_rng(FILES[split][1] + number)
        atoms = bulk("NiAl", "cesiumchloride", a=3.1)
        atoms.symbols = ("CuAu", "PdAl")[number // 2]
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=(2, 3))
        atoms.calc = EMT()
        found[f"agm90000{FILES[split][1]:02d}0{number // 2}_0_{number % 2}"] = atoms
    return found


def write(archive: Path, split: str) -> None:
    name = FILES[split][0]
    with tempfile.TemporaryDirectory() as folder:
        database = connect(f"{folder}/{name}", type="aselmdb")
        for sid, atoms in frames(split).items():
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
            atoms.calc = SinglePointCalculator(atoms, **results)
            database.write(atoms, data={"sid": sid, "prototype_label": "AB_cP2_221_b_a"})
        database.close()
        content = Path(folder, name).read_bytes()
    with gzip.GzipFile(archive, "wb", mtime=0) as compressed, tarfile.open(fileobj=compressed, mode="w") as tar:
        member = tarfile.TarInfo(f"{split}/{name}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    for split in FILES:
        write(Path(__file__).parent / f"{split}.tar.gz", split)
