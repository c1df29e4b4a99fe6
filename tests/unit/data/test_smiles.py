"""Charges from SMILES: every notation of a charge, and no charge from the SMILES of another molecule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.data.readers.smiles import total_charge
from unipot.structure import SYMBOLS

Z = {symbol: number for number, symbol in enumerate(SYMBOLS)}


@pytest.mark.parametrize(
    ("smiles", "atoms", "charge"),
    [
        ("[H:2][O:1][H:3]", "O H H", 0),
        ("[H:2][O-:1]", "O H", -1),
        ("[Cl-:1].[Na+:2]", "Cl Na", 0),
        ("[Mg+2:1]", "Mg", 2),
        ("[Ca++:1]", "Ca", 2),
        ("[S--:1]", "S", -2),
        ("[O-2]", "O", -2),
        ("[N+1:1]([H:2])([H:3])([H:4])[H:5]", "N H H H H", 1),
        ("[C@@:1]([H:2])([F:3])([Cl:4])[Br:5]", "C H F Cl Br", 0),
        ("[nH+:1]1[cH:2][cH:3][cH:4][cH:5]1", "N H C H C H C H C H", 1),
        ("[NH4+]", "N H H H H", 1),
        ("[13CH3:1]/[C:2](=[O:3])[O-:4]", "C H H H C O O", -1),
        ("[c:1]1-[n:2]%10#[C:3]", "C N C", 0),
    ],
)
def test_charge_is_the_sum_of_the_formal_charges(smiles, atoms, charge):
    assert total_charge(smiles, np.array([Z[symbol] for symbol in atoms.split()])) == charge


@given(st.lists(st.tuples(st.sampled_from("H Li C N O F Na Mg Si P S Cl K Ca Br I".split()), st.integers(-3, 3)), min_size=1, max_size=30))
def test_charges_add_up_whatever_the_atoms(atoms):
    smiles = ".".join(f"[{symbol}{f'{charge:+d}' if charge else ''}:{k + 1}]" for k, (symbol, charge) in enumerate(atoms))
    assert total_charge(smiles, np.array([Z[symbol] for symbol, _ in atoms])) == sum(charge for _, charge in atoms)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CO", "'C' is not an atom in brackets"),
        ("[C:1][OH", r"'\[' is not an atom in brackets"),
        ("[Q:1]", "has the atoms Q1 but the structure has C1O1"),
        ("[C:1]=[O:2].[H:3]", "has the atoms C1H1O1 but the structure has C1O1"),
        ("", "has the atoms none but the structure has C1O1"),
    ],
)
def test_another_or_unclear_molecule_is_refused(smiles, message):
    with pytest.raises(ValueError, match=message):
        total_charge(smiles, np.array([6, 8]))
