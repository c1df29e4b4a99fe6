"""Units: factors against independent sources, and Voigt order."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from unipot import units


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.HARTREE, ase.units.Hartree),
        (units.RYDBERG, ase.units.Rydberg),
        (units.BOHR, ase.units.Bohr),
        (units.KCAL_PER_MOL, ase.units.kcal / ase.units.mol),
        (units.KJ_PER_MOL, ase.units.kJ / ase.units.mol),
        (units.GPA, ase.units.GPa),
        (units.KBAR, 1e8 * ase.units.Pascal),
    ],
)
def test_constants_agree_with_ase(ours, theirs):
    # ASE uses CODATA 2014, which differs from 2018 in the eighth digit
    assert ours == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize("table", [units.ENERGY_UNITS, units.FORCE_UNITS, units.STRESS_UNITS])
def test_every_table_has_its_canonical_unit_first(table):
    assert next(iter(table.values())) == 1.0


def test_force_unit_is_energy_unit_over_length():
    assert units.unit_factor("hartree/bohr", units.FORCE_UNITS, "forces") == pytest.approx(51.42206747, rel=1e-8)


def test_unknown_unit_lists_the_allowed_ones():
    with pytest.raises(ValueError, match="unit 'ev' of energy is not known; use one of: eV, meV, hartree"):
        units.unit_factor("ev", units.ENERGY_UNITS, "energy")


def test_voigt_order_is_that_of_ase():
    matrix = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    assert units.matrix_to_voigt(matrix).tolist() == [1, 2, 3, 4, 5, 6] == full_3x3_to_voigt_6_stress(matrix).tolist()
    assert np.array_equal(units.voigt_to_matrix([1.0, 2, 3, 4, 5, 6]), voigt_6_to_full_3x3_stress([1, 2, 3, 4, 5, 6]))


def test_voigt_of_many_matrices_and_back():
    vectors = np.random.default_rng(0).normal(size=(2, 5, 6))
    assert units.voigt_to_matrix(vectors).shape == (2, 5, 3, 3)
    assert np.allclose(units.matrix_to_voigt(units.voigt_to_matrix(vectors)), vectors)


def test_asymmetric_matrix_is_symmetrised():
    assert units.matrix_to_voigt(np.array([[0, 2.0, 0], [4.0, 0, 0], [0, 0, 0]]))[5] == 3
