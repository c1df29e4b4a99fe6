"""Free atoms found in a store."""

import numpy as np

from unipot.data.isolated_atoms import isolated_atoms
from unipot.structure import Structure


def atom(z, energy, id, **fields):
    labels = {} if energy is None else {"energy": energy}
    return Structure(atomic_numbers=[z], positions=np.zeros((1, 3)), id=id, labels=labels, **fields)


def box(length):
    return {"cell": np.eye(3) * length, "pbc": np.ones(3, dtype=bool)}


def test_ground_state_of_the_neutral_atom_is_taken(make_store):
    found = isolated_atoms(
        make_store(
            structures=[
                atom(26, -10.0, "quintet"),
                atom(26, -9.0, "triplet"),
                atom(17, -5.0, "cl"),
                atom(17, -8.6, "anion", total_charge=-1.0),
                atom(8, None, "unlabelled"),
                atom(9, -3.0, "cation only", total_charge=1.0),
            ]
        )
    )
    assert {z: (a.energy, a.id, a.n_candidates) for z, a in found.items()} == {17: (-5.0, "cl", 2), 26: (-10.0, "quintet", 2)}


def test_atom_in_a_large_box_is_isolated_and_one_of_a_crystal_is_not(make_store):
    found = isolated_atoms(make_store(structures=[atom(29, -1.0, "in a box", **box(12.0)), atom(79, -3.0, "crystal", **box(3.0))]))
    assert list(found) == [29]


def test_molecules_are_no_free_atoms(make_store, make_structure):
    assert isolated_atoms(make_store(structures=[make_structure(0), make_structure(1)])) == {}
