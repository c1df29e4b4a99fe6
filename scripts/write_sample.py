"""Write the structures of a data recipe to an extended XYZ file, one at a time, continuing an interrupted file.

    python scripts/write_sample.py malonaldehyde_pbe train.extxyz n_frames=50 seed=0 split=train

Options after the file are those of the recipe's `structures`; energies in eV, forces in eV/Å, stresses in eV/Å³. A recipe
without the option `first` cannot be continued: its file is written anew.
"""

import importlib.util
import inspect
import json
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "data_recipes"


def main(recipe_name: str, path: str, *options: str) -> None:
    from ase.io import iread, write

    specification = importlib.util.spec_from_file_location("recipe", RECIPES / recipe_name / "recipe.py")
    recipe = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(recipe)
    chosen = {key: _value(text) for key, text in (option.split("=", 1) for option in options)}
    target = Path(path)
    if "first" in inspect.signature(recipe.structures).parameters and target.exists():
        chosen["first"] = sum(1 for _ in iread(target, index=":"))
    else:
        target.unlink(missing_ok=True)
    for structure in recipe.structures(**chosen):
        atoms = structure.to_ase()
        atoms.info = {"id": structure.id, "group": structure.group}
        write(target, atoms, append=True)
        print(structure.id, structure.n_atoms, *sorted(structure.labels), flush=True)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
