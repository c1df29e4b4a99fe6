"""SPICE 2.0.1: drug-like molecules, peptides, ion pairs and clusters at wB97M-D3(BJ)/def2-TZVPPD.

One HDF5 file with a group per molecule or cluster: `atomic_numbers`, `conformations` (bohr), `dft_total_energy` (hartree),
`dft_total_gradient` (hartree/bohr, the negative of the forces), `smiles`, `subset`. The total charge is in the SMILES alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.hdf5 import group_parts, read_array, read_groups, read_text
from unipot.data.readers.smiles import total_charge
from unipot.structure import Structure
from unipot.units import BOHR, FORCE_UNITS, HARTREE

FILE = "SPICE-2.0.1.hdf5"
GROUPS_PER_PART = 1000  # about 18,000 conformations

#: value of the option -> how the names of its collections begin
SUBSETS = {
    "all": "",
    "dipeptides": "SPICE Dipeptides",
    "solvated-amino-acids": "SPICE Solvated Amino Acids",
    "des-dimers": "SPICE DES370K",
    "des-monomers": "SPICE DES Monomers",
    "pubchem": "SPICE PubChem",
    "solvated-pubchem": "SPICE Solvated PubChem",
    "amino-acid-ligand": "SPICE Amino Acid Ligand",
    "ion-pairs": "SPICE Ion Pairs",
    "water-clusters": "SPICE Water Clusters",
}


def parts(raw: Path, groups_per_part: int = GROUPS_PER_PART) -> list[str]:
    """Ranges of the molecules."""
    return group_parts(raw, FILE, groups_per_part=groups_per_part)


def structures(raw: Path, part: str, subset: str = "all") -> Iterator[Structure | SkippedItem]:
    """The conformations of one part.

    Args:
        raw: folder with the HDF5 file.
        part: one of `parts`.
        subset: one of `SUBSETS`.

    Raises:
        ValueError: the subset is not known, or the file is damaged or of another release.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset {subset!r} of recipe 'spice2' is not known; use one of: {', '.join(SUBSETS)}")
    for name, group in read_groups(raw, part):
        if read_text(group, "subset").startswith(SUBSETS[subset]):
            yield from _molecule(name, group)


def _molecule(name: str, group: Any) -> Iterator[Structure | SkippedItem]:
    atomic_numbers = read_array(group, "atomic_numbers")
    positions = read_array(group, "conformations", unit="bohr").astype(np.float64) * BOHR
    if len(positions) == 0:  # molecules of which every calculation failed are still listed
        yield SkippedItem(where=name, reason="the molecule has no conformations", invalid=False)
        return
    try:
        charge = total_charge(read_text(group, "smiles"), atomic_numbers)
    except ValueError as error:
        yield SkippedItem(where=name, reason=f"total charge not known: {error}")
        return
    yield from conformers(
        atomic_numbers=atomic_numbers,
        positions=positions,
        energy=read_array(group, "dft_total_energy", unit="hartree") * HARTREE,
        forces=read_array(group, "dft_total_gradient", unit="hartree/bohr").astype(np.float64) * -FORCE_UNITS["hartree/bohr"],
        ids=[f"{name}#{k}" for k in range(len(positions))],
        group=name,
        total_charge=charge,
    )
