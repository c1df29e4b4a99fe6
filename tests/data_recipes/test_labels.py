"""Labels of the recipes against numerical derivatives of the calculator's energy: sign and unit of forces and stress."""

import numpy as np
import pytest

from unipot.data.catalog.recipes import load_recipe
from unipot.resources import data_recipes_dir

# recipe -> step of the central difference (Å), tolerance (eV/Å); xTB energies are converged to about 1e-7 eV
CASES = {"emt_slabs": (1e-4, 1e-5), "xtb_crystals": (2e-3, 2e-3), "xtb_molecules": (2e-3, 1e-3), "xtb_organics": (2e-3, 1e-3)}


def _calculator(name):
    if name == "emt_slabs":
        from ase.calculators.emt import EMT

        return EMT()
    TBLite = pytest.importorskip("tblite.ase", reason="tblite computes this recipe").TBLite
    return TBLite(method="GFN1-xTB" if name == "xtb_crystals" else "GFN2-xTB", verbosity=0, accuracy=0.1)


def _frame(name, n_frames):
    if name != "emt_slabs":
        pytest.importorskip("tblite", reason="tblite computes this recipe")
    if name == "xtb_organics":
        pytest.importorskip("rdkit", reason="RDKit assembles these molecules")
    return [f for f in load_recipe(data_recipes_dir(), name).structures(n_frames=n_frames) if "forces" in f.labels][-1]


def _energy(frame, name, positions=None, strain=None):
    atoms = frame.to_ase()
    if positions is not None:
        atoms.set_positions(positions, apply_constraint=False)
    if strain is not None:
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.calc = _calculator(name)
    return atoms.get_potential_energy()


@pytest.mark.parametrize("name", CASES)
def test_forces_are_minus_the_gradient_of_the_energy(name):
    step, tolerance = CASES[name]
    frame = _frame(name, 1)
    forces = frame.labels["forces"]
    atom, axis = np.unravel_index(np.abs(forces).argmax(), forces.shape)
    shift = np.zeros_like(forces)
    shift[atom, axis] = step
    slope = (_energy(frame, name, frame.positions + shift) - _energy(frame, name, frame.positions - shift)) / (2 * step)
    assert abs(forces[atom, axis]) > 0.1
    assert forces[atom, axis] == pytest.approx(-slope, abs=tolerance)


@pytest.mark.parametrize("axes", [(0, 0), (1, 2)])
def test_stress_is_positive_under_tension(axes):
    frame = _frame("xtb_crystals", 1)
    strain = np.zeros((3, 3))
    strain[axes] += 5e-4
    strain[axes[::-1]] += 5e-4
    energies = [_energy(frame, "xtb_crystals", strain=sign * strain) for sign in (1, -1)]
    slope = (energies[0] - energies[1]) / 2 / frame.volume
    assert slope == pytest.approx((frame.labels["stress"] * strain).sum(), abs=2e-3 * 1e-3)
    assert abs(slope) > 1e-6
