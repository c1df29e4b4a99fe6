"""Total charge of a molecule from its SMILES, without a chemistry toolkit."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from unipot.errors import InputError
from unipot.structure import SYMBOLS

# OpenSMILES, "Atoms": isotope, symbol (aromatic ones in lower case), chirality, hydrogens, charge, atom map
_BRACKET = re.compile(
    r"\[(?:\d+)?(?P<symbol>[A-Z][a-z]?|se|as|[bcnops])(?:@(?:@|TH[12]|AL[12]|SP[1-3]|TB\d{1,2}|OH\d{1,2})?)?"
    r"(?P<hydrogens>H\d?)?(?P<charge>[+-]\d+|\++|-+)?(?::\d+)?\]"
)


def total_charge(smiles: str, atomic_numbers: np.ndarray) -> int:
    """Sum of the formal charges of a SMILES in which every atom, hydrogens too, stands in brackets.

    The atoms of the SMILES are counted and must be those of `atomic_numbers`, so that a charge is never taken from the
    SMILES of another molecule.

    Args:
        smiles: for example `[Cl-:1].[Na+:2]`; `.` separates the molecules of a cluster.
        atomic_numbers: (n_atoms,) of the structure, in any order.

    Returns:
        The charge in |e|.

    Raises:
        ValueError: an atom is not in brackets or not understood, or the atoms differ.

    Example:
        >>> total_charge("[H:2][O-:1]", np.array([8, 1]))
        -1
    """
    atoms: Counter[str] = Counter()
    charge = 0
    for match in _BRACKET.finditer(smiles):
        atoms[match["symbol"].capitalize()] += 1
        hydrogens = match["hydrogens"]
        atoms["H"] += int(hydrogens[1:] or 1) if hydrogens else 0
        charge += _number(match["charge"] or "")
    left = re.search(r"[A-Za-z\[\]]", _BRACKET.sub("", smiles))
    if left:
        raise InputError(f"SMILES {smiles!r}: {left[0]!r} is not an atom in brackets; the charge needs every atom in brackets")
    expected = Counter(SYMBOLS[int(z)] for z in atomic_numbers)
    if +atoms != expected:
        raise InputError(f"SMILES {smiles!r} has the atoms {_formula(+atoms)} but the structure has {_formula(expected)}")
    return charge


def _number(charge: str) -> int:
    """`+2`, `++`, `-`, or nothing."""
    if not charge:
        return 0
    return int(charge) if charge[-1].isdigit() else charge.count("+") - charge.count("-")


def _formula(atoms: Counter[str]) -> str:
    return "".join(f"{symbol}{n}" for symbol, n in sorted(atoms.items())) or "none"
