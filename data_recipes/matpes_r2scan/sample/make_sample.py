"""Writes `MatPES-R2SCAN-2025.1.json.gz` in the raw format: invented crystals, EMT labels, stresses in kbar with VASP's sign."""

import gzip
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.stress import full_3x3_to_voigt_6_stress

from unipot.data.readers.pymatgen_json import as_pymatgen
from unipot.structure import Structure

FUNCTIONAL, SEED = "r2SCAN", 1


def frames() -> list[Atoms]:
    """Alloys of two atoms and metals of four, strained and rattled."""
    found = []
    for number, (symbols, a) in enumerate((("Cu3Au", 3.75), ("Pd4", 3.9), ("NiAl", 2.9), ("Ag4", 4.1))):
        atoms = bulk("Cu", "fcc", a=a, cubic=True) if symbols != "NiAl" else bulk("NiAl", "cesiumchloride", a=a)
        atoms.symbols = symbols
        rng = np.random.default_rng((SEED, number))
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=(len(atoms), 3))
        atoms.calc = EMT()
        found.append(atoms)
    return found


def document(number: int, atoms: Atoms) -> dict:
    stress = -full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False)) / (0.1 * units.GPa)
    provenance = {"original_mp_id": f"mp-{900001 + number // 2}", "md_ensemble": "NpT", "md_temperature": 300.0, "md_step": number}
    return {
        "builder_meta": {"emmet_version": None},
        "nsites": len(atoms),
        "elements": sorted(set(atoms.symbols)),
        "chemsys": "-".join(sorted(set(atoms.symbols))),
        "volume": atoms.get_volume(),
        "structure": as_pymatgen(Structure.from_ase(atoms)),
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces().tolist(),
        "stress": stress.tolist(),
        "matpes_id": f"matpes-20240214_{900001 + number // 2}_{number}",
        "bandgap": 0.0,
        "functional": FUNCTIONAL,
        "formation_energy_per_atom": None,
        "abs_forces": np.linalg.norm(atoms.get_forces(), axis=1).tolist(),
        "bader_charges": None,
        "provenance": provenance,
    }


if __name__ == "__main__":
    documents = [document(number, atoms) for number, atoms in enumerate(frames())]
    with gzip.GzipFile(Path(__file__).parent / f"MatPES-{FUNCTIONAL.upper()}-2025.1.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(documents).encode())
