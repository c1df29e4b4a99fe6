"""`Structure`: everything is validated once, with the name of the structure in the message."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixedPlane
from ase.data import chemical_symbols

from unipot.structure import SYMBOLS, Structure, symbols_of

WATER = {"atomic_numbers": [8, 1, 1], "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]}


def test_symbols_are_those_of_the_periodic_table():
    assert SYMBOLS == chemical_symbols


def test_symbols_are_listed_once_in_order_of_number():
    assert symbols_of([8, 1, 1, 29]) == "H, O, Cu"


def test_lists_become_arrays_of_the_documented_dtypes():
    s = Structure(**WATER, cell=np.eye(3, dtype=np.float32), pbc=True)
    assert (s.atomic_numbers.dtype, s.positions.dtype, s.cell.dtype, s.pbc.dtype, s.fixed.dtype) == (
        np.int64, np.float64, np.float64, np.bool_, np.bool_
    )  # fmt: skip


def test_defaults_are_an_unlabelled_neutral_molecule():
    s = Structure(**WATER)
    assert not s.pbc.any() and not s.cell.any() and not s.fixed.any() and s.labels == {} and s.total_charge == 0
    assert s.spin_multiplicity is None and s.volume == 0


def test_structure_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Structure(**WATER).total_charge = 1.0


def test_labels_are_replaced_not_merged():
    s = Structure(**WATER, labels={"energy": -1.0}).with_labels(forces=np.zeros((3, 3)))
    assert list(s.labels) == ["forces"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0, 0, 0]]}, r"structure 'w': positions has shape \(1, 3\), expected \(3, 3\)"),
        ({"positions": np.full((3, 3), np.nan)}, "structure 'w': positions contain 9 non-finite"),
        ({"positions": "abc"}, "structure 'w': positions cannot be read as float64"),
        ({"cell": np.full((3, 3), np.inf)}, "cell contain 9 non-finite"),
        ({"atomic_numbers": [0, 1, 1]}, r"atomic number 0 is outside 1\.\.118"),
        ({"atomic_numbers": [8, 1, 119]}, r"atomic number 119 is outside 1\.\.118"),
        ({"atomic_numbers": [], "positions": np.zeros((0, 3))}, "there are no atoms"),
        ({"pbc": [True, False, True]}, r"lattice vector\(s\) \[0, 2\] of the cell are missing"),
        ({"pbc": True, "cell": np.ones((3, 3))}, "linearly dependent"),
        ({"labels": {"energi": 0.0}}, "label 'energi' is not known; known are: energy, forces, stress"),
        ({"labels": {"forces": np.zeros((2, 3))}}, r"forces has shape \(2, 3\), expected \(3, 3\)"),
        ({"labels": {"energy": np.nan}}, "energy contain 1 non-finite"),
        ({"labels": {"energy": [1.0]}}, r"energy has shape \(1,\), expected \(\)"),
        ({"labels": {"stress": np.zeros(6)}}, r"stress has shape \(6,\), expected \(3, 3\)"),
        ({"fixed": [True]}, r"fixed has shape \(1,\)"),
        ({"pbc": [True, False]}, r"pbc has shape \(2,\)"),
        ({"total_charge": np.nan}, "total_charge is nan"),
        ({"spin_multiplicity": 0}, "spin_multiplicity is 0"),
    ],
)
def test_malformed_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Structure(**{**WATER, "id": "w", **change})


def test_input_arrays_are_not_shared():
    positions = np.array(WATER["positions"], dtype=np.float64)
    s = Structure(atomic_numbers=[8, 1, 1], positions=positions)
    positions[0, 0] = 99.0
    assert s.positions[0, 0] == 0.0


def test_geometry_survives_a_trip_through_ase():
    atoms = fcc111("Cu", size=(2, 2, 2), vacuum=5.0)
    s = Structure.from_ase(atoms)
    back = s.to_ase()
    assert np.array_equal(back.positions, atoms.positions) and np.array_equal(back.cell, atoms.cell) and np.array_equal(back.pbc, atoms.pbc)


def test_labels_reach_ase_with_its_stress_order():
    stress = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    s = Structure(**WATER, cell=9 * np.eye(3), pbc=True, labels={"energy": -3.0, "forces": np.ones((3, 3)), "stress": stress})
    atoms = s.to_ase()
    assert atoms.get_potential_energy() == -3.0 and atoms.get_stress().tolist() == [1, 2, 3, 4, 5, 6]
    assert atoms.get_forces().tolist() == np.ones((3, 3)).tolist()


def test_fixed_atoms_come_from_constraints_and_arrays():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint([FixAtoms([1]), FixedPlane(2, (0, 0, 1))])
    atoms.arrays["fixed"] = np.array([True, False, False, False])
    assert Structure.from_ase(atoms).fixed.tolist() == [True, True, False, False]


def test_forces_of_fixed_atoms_survive_ase():
    s = Structure(**WATER, fixed=[True, False, False], labels={"forces": np.ones((3, 3))})
    assert s.to_ase().get_forces(apply_constraint=False).tolist() == np.ones((3, 3)).tolist()


@pytest.mark.parametrize(
    ("info", "charge", "spin"),
    [
        ({}, 0.0, None),
        ({"charge": -1, "spin": 2}, -1.0, 2),
        ({"multiplicity": 3.0, "spin": 1}, 0.0, 3),
        ({"total_charge": 1, "spin_multiplicity": 3, "charge": 7, "spin": 7}, 1.0, 3),
        ({"charge": None, "spin": 0}, 0.0, None),
    ],
)
def test_charge_and_spin_come_from_info(info, charge, spin):
    atoms = molecule("OH")
    atoms.info.update(info)
    s = Structure.from_ase(atoms)
    assert (s.total_charge, s.spin_multiplicity) == (charge, spin)


def test_charge_and_spin_survive_a_trip_through_ase():
    s = Structure(**WATER, total_charge=-1.0, spin_multiplicity=2)
    back = Structure.from_ase(s.to_ase())
    assert (back.total_charge, back.spin_multiplicity) == (-1.0, 2)


def test_calculator_results_are_not_taken_as_labels():
    s = Structure(**WATER, labels={"energy": 1.0})
    assert Structure.from_ase(s.to_ase()).labels == {}


def test_dummy_atoms_are_refused():
    with pytest.raises(ValueError, match="atomic number 0 is outside"):
        Structure.from_ase(Atoms("XH", positions=[[0, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"positions": [[0, 0, 0], [1e200, 0, 0]]}, r"positions: 1e\+200 is beyond what is possible \(at most 1e\+10\)"),
        ({"cell": np.diag([1e200, 9, 9])}, r"cell: 1e\+200 is beyond"),
        ({"labels": {"energy": -1e200}}, r"energy: -1e\+200 is beyond what is possible \(at most 1e\+15\)"),
        ({"labels": {"forces": [[0, 0, 0], [0, 1e200, 0]]}}, r"forces: 1e\+200 is beyond"),
        ({"total_charge": 1e200}, r"total_charge is 1e\+200"),
        ({"spin_multiplicity": 70_000}, "spin_multiplicity is 70000.*at most 65535"),
    ],
)
def test_numbers_beyond_what_is_possible_are_refused_with_the_structure(fields, sentence):
    given = {"atomic_numbers": [1, 1], "positions": [[0, 0, 0], [0.7, 0, 0]], "id": "h2", **fields}
    with pytest.raises(ValueError, match="structure 'h2': " + sentence):
        Structure(**given)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"spin": 2.5}, "spin_multiplicity is 2.5; give 2S.1, a whole number"),
        ({"spin": "doublet"}, "spin_multiplicity is 'doublet'; give 2S.1"),
        ({"multiplicity": -1}, "spin_multiplicity is -1; give 2S.1"),
        ({"spin": True}, "spin_multiplicity is True; give 2S.1"),
        ({"charge": "plus"}, "total_charge is 'plus'; give a number"),
        ({"charge": True}, "total_charge is True; give a number"),
        ({"charge": float("inf")}, "total_charge is inf; give a number"),
    ],
)
def test_charges_and_spins_that_are_none_are_refused(info, said):
    atoms = molecule("OH")
    atoms.info.update(info)
    with pytest.raises(ValueError, match=f"structure 'a': {said}"):
        Structure.from_ase(atoms, id="a")


def test_charge_spin_and_fixed_atoms_are_found_under_stated_names():
    atoms = molecule("OH")
    atoms.info.update(q=-1, total_spin=3.0, spin=7)
    atoms.arrays["frozen"] = np.array([True, False])
    s = Structure.from_ase(atoms, columns={"total_charge": "q", "spin_multiplicity": "total_spin", "fixed": "frozen"})
    assert (s.total_charge, s.spin_multiplicity, s.fixed.tolist()) == (-1.0, 3, [True, False])
