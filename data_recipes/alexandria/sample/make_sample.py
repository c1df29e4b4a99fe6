"""Writes `pbe/` and `entries/` in the raw formats: invented crystals, EMT energies, forces and stresses in kbar with VASP's sign."""

import bz2
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from unipot.data.readers.pymatgen_json import as_pymatgen
from unipot.structure import Structure


def paths() -> dict[str, list[list[Atoms]]]:
    """Material -> calculations -> steps: one crystal on its way to a smaller strain."""
    found = {}
    for number, (symbols, a) in enumerate((("CuAu", 3.2), ("PdAl", 3.1), ("AgPt", 3.25))):
        rng = np.random.default_rng(number)
        strain, shift = 0.03 * rng.normal(size=(3, 3)), 0.1 * rng.normal(size=(2, 3))
        steps = []
        for share in (1.0, 0.6, 0.3, 0.1):
            atoms = bulk("NiAl", "cesiumchloride", a=a)
            atoms.symbols = symbols
            atoms.set_cell(atoms.cell @ (np.eye(3) + share * strain), scale_atoms=True)
            atoms.positions += share * shift
            atoms.calc = EMT()
            steps.append(atoms)
        found[f"agm90000000{number}"] = [steps[:3], steps[2:]]
    return found


def labels(atoms: Atoms) -> dict:
    stress = -atoms.get_stress(voigt=False) / (0.1 * units.GPa)
    stress[0, 1] += 5e-8  # the code's own rounding: mirrored components differ in the last digits
    return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().tolist(), "stress": stress.tolist()}


def calculation(steps: list[Atoms]) -> dict:
    documents = [{"structure": as_pymatgen(Structure.from_ase(atoms)), **labels(atoms)} for atoms in steps]
    return {"kpoints": [7, 7, 7], "PREC": "high", "ENMAX": 520.0, "ENAUG": 900.0, "steps": documents}


def entry(name: str, atoms: Atoms) -> dict:
    values, structure = labels(atoms), as_pymatgen(Structure.from_ase(atoms))
    for site, force in zip(structure["sites"], values["forces"], strict=True):
        site["properties"] = {"magmom": 0.0, "charge": 0.0, "forces": force}
    data = {"mat_id": name, "energy_total": values["energy"], "stress": values["stress"], "e_form": -0.1, "nsites": len(atoms)}
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": values["energy"],
        "entry_id": name,
        "correction": 0.0,
        "data": data,
        "structure": structure,
    }


def write(file: Path, document: dict) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(bz2.compress(json.dumps(document).encode()))


if __name__ == "__main__":
    found, folder = paths(), Path(__file__).parent
    write(folder / "pbe" / "pbe_0000.json.bz2", {name: [calculation(steps) for steps in runs] for name, runs in found.items()})
    write(folder / "entries" / "alexandria_00000.json.bz2", {"entries": [entry(name, runs[-1][-1]) for name, runs in found.items()]})
