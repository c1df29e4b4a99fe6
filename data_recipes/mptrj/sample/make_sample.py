"""Writes `MPtrj_2022.9_full.json` in the raw format: two invented crystals, EMT energies, forces and stresses in kbar with VASP's sign."""

import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from unipot.data.readers.pymatgen_json import as_pymatgen
from unipot.structure import Structure

#: what MP2020 would add, eV per atom; invented
CORRECTION = -0.25


def frames() -> dict[str, dict[str, Atoms]]:
    """mp-id -> frame-id -> crystal."""
    crystals = {"mp-900001": bulk("Cu", "fcc", a=3.7, cubic=True), "mp-900002": bulk("Ni", "fcc", a=3.4, cubic=True)}
    crystals["mp-900001"].symbols[:2] = "Au"
    found = {}
    for number, (material, crystal) in enumerate(crystals.items()):
        for step in range(3):
            atoms, rng = crystal.copy(), np.random.default_rng((number, step))
            atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
            atoms.positions += 0.05 * rng.normal(size=(4, 3))
            atoms.calc = EMT()
            found.setdefault(material, {})[f"{material}-{step % 2}-{step}"] = atoms
    return found


def document(material: str, atoms: Atoms) -> dict:
    energy, n_atoms = atoms.get_potential_energy(), len(atoms)
    return {
        "structure": as_pymatgen(Structure.from_ase(atoms)),
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy + CORRECTION * n_atoms,
        "energy_per_atom": energy / n_atoms + CORRECTION,
        "ef_per_atom": -0.1,
        "e_per_atom_relaxed": energy / n_atoms + CORRECTION,
        "ef_per_atom_relaxed": -0.1,
        "force": atoms.get_forces().tolist(),
        "stress": (-atoms.get_stress(voigt=False) / (0.1 * units.GPa)).tolist(),
        "magmom": None,
        "bandgap": 0.0,
        "mp_id": material,
    }


if __name__ == "__main__":
    documents = {material: {name: document(material, atoms) for name, atoms in group.items()} for material, group in frames().items()}
    documents["mp-900002"]["mp-900002-0-2"]["stress"] = None
    (Path(__file__).parent / "MPtrj_2022.9_full.json").write_text(json.dumps(documents))
