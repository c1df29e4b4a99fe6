"""MD22: dynamics of seven molecules and complexes of 42 to 370 atoms, PBE+MBD.

One npz file per molecule in the format of sGDML: `z`, `R` (Å), `E` (kcal/mol), `F` (kcal/mol/Å), and words about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.npz import read_npz
from unipot.structure import Structure
from unipot.units import ENERGY_UNITS, FORCE_UNITS

MOLECULES = ("Ac-Ala3-NHMe", "DHA", "stachyose", "AT-AT", "AT-AT-CG-CG", "buckyball-catcher", "double-walled_nanotube")
UNITS = {"r_unit": "Ang", "e_unit": "kcal/mol"}  # optional words in a file of this format


def parts(raw: Path, molecule: str = "all") -> list[str]:
    """One file per molecule.

    Raises:
        ValueError: the molecule is not known.
    """
    if molecule not in ("all", *MOLECULES):
        raise ValueError(f"molecule {molecule!r} of recipe 'md22' is not known; use all, {', '.join(MOLECULES)}")
    return [f"md22_{name}.npz" for name in MOLECULES if molecule in ("all", name)]


def structures(raw: Path, part: str) -> Iterator[Structure | SkippedItem]:
    """The frames of one molecule, in order of time.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged or in other units.
    """
    arrays = read_npz(raw / part, ("z", "R", "E", "F"), optional=tuple(UNITS))
    for name, expected in UNITS.items():
        stated = arrays.get(name)
        if stated is not None and _word(stated.reshape(-1)[0]) != expected:
            raise ValueError(f"{raw / part}: {name} is {_word(stated.reshape(-1)[0])!r}, expected {expected!r}; it is another file")
    molecule = Path(part).stem.removeprefix("md22_")
    yield from conformers(
        atomic_numbers=arrays["z"],
        positions=arrays["R"],
        energy=arrays["E"] * ENERGY_UNITS["kcal/mol"],
        forces=arrays["F"] * FORCE_UNITS["kcal/mol/A"],
        ids=[f"{molecule}-{k:06d}" for k in range(len(arrays["R"]))],
        group=molecule,
    )


def _word(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
