"""Writes `2022-10-19-wbm-computed-structure-entries.jsonl.gz` in the raw format: invented crystals with EMT energies."""

import gzip
import json
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from unipot.data.readers.pymatgen_json import as_pymatgen
from unipot.structure import Structure


def frames() -> dict[str, Atoms]:
    """Material id -> crystal."""
    found = {}
    for number, (symbols, a) in enumerate((("CuAg", 3.1), ("PdAu", 3.15), ("NiPt", 3.0), ("AlCu", 3.0))):
        atoms = bulk("NiAl", "cesiumchloride", a=a)
        atoms.symbols = symbols
        atoms.calc = EMT()
        found[f"wbm-{number // 2 + 1}-{number + 1}"] = atoms
    return found


def document(name: str, atoms: Atoms) -> dict:
    entry = {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": atoms.get_potential_energy(),
        "composition": {symbol: 1.0 for symbol in atoms.symbols},
        "entry_id": name,
        "correction": 0.0,
        "energy_adjustments": [],
        "parameters": {"run_type": "GGA", "is_hubbard": False, "hubbards": None},
        "data": {},
        "structure": as_pymatgen(Structure.from_ase(atoms)),
    }
    return {"material_id": name, "formula_from_cse": atoms.get_chemical_formula(), "computed_structure_entry": entry}


if __name__ == "__main__":
    lines = [json.dumps(document(name, atoms)) for name, atoms in frames().items()]
    with gzip.GzipFile(Path(__file__).parent / "2022-10-19-wbm-computed-structure-entries.jsonl.gz", "wb", mtime=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
