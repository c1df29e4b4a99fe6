"""Writes `data/<element>/{training,test}.json` in the raw format: invented cells, Lennard-Jones energies, forces and stresses in kbar."""

import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones

from unipot.data.readers.pymatgen_json import as_pymatgen
from unipot.structure import Structure

#: element, kind of structure, description, the order of the last three stress components in the file
FRAMES = (
    ("Li", "Vacancy", "Snapshot 1 of 20 of Vacancy AIMD NVT simulation at 300 K", "xy yz xz"),
    ("Li", "AIMD-NVT", "Snapshot 75300 of 100000 of AIMD NVT simulation for shrunken structure at 680 K", "xy yz xz"),
    ("Si", "Elastic", "Si 2x2x2 cell, mode 4, strain 0.1", "xy yz xz"),
    ("Si", "AIMD-NVT", "Snapshot 48000 of 100000 of AIMD NVT simulation for normal structure at 300 K", "xy xz yz"),
    ("Cu", "Elastic", "Cu 3x3x3 cell, mode 1, strain 0.0700", "xy xz yz"),
    ("Cu", "Vacancy", "Snapshot 14 of 20 of Vacancy AIMD NVT simulation at 3000 K", "xy xz yz"),
)
AXES = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}


def frames(split: str) -> dict[str, list[Atoms]]:
    """Element -> cells, in the order of `FRAMES`."""
    found: dict[str, list[Atoms]] = {}
    for number, (element, *_) in enumerate(FRAMES):
        rng = np.random.default_rng((number, split == "test"))
        atoms = bulk(element, "fcc", a=4.0, cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=(4, 3))
        atoms.calc = LennardJones(sigma=2.5, epsilon=0.1, rc=6.0)
        found.setdefault(element, []).append(atoms)
    return found


def document(atoms: Atoms, kind: str, description: str, order: str, tag: str) -> dict:
    stress = -atoms.get_stress(voigt=False) / (0.1 * units.GPa)
    structure = as_pymatgen(Structure.from_ase(atoms))
    return {
        "structure": {**structure, "charge": None, "lattice": {k: v for k, v in structure["lattice"].items() if k != "pbc"}},
        "num_atoms": len(atoms),
        "outputs": {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
            "virial_stress": [stress[AXES[name]] for name in ("xx", "yy", "zz", *order.split())],
        },
        "element": str(atoms.symbols[0]),
        "description": description,
        "group": kind,
        "tag": tag,
    }


if __name__ == "__main__":
    for tag, name in (("train", "training.json"), ("test", "test.json")):
        for element, cells in frames(tag).items():
            rows = [row for row in FRAMES if row[0] == element]
            documents = [document(atoms, *row[1:], tag) for atoms, row in zip(cells, rows, strict=True)]
            folder = Path(__file__).parent / "data" / element
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(documents))
