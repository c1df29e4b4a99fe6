"""Scans say whether a curve is smooth, repulsive, and the integral of its forces; tried on curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from unipot.calculator import UnipotCalculator
from unipot.models.core_repulsion import CoreRepulsion
from unipot.simulate import dimer_scan, volume_scan


class Curve(Calculator):
    """Energy of two atoms as a function of their distance, with the derivative it claims."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, energy, slope):
        super().__init__()
        self.energy, self.slope = energy, slope

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        d = self.atoms.get_distance(0, 1)
        slope = self.slope(d)
        self.results = {"energy": self.energy(d), "forces": np.array([[0, 0, slope], [0, 0, -slope]])}


SMOOTH = Curve(lambda d: np.exp(-2 * d), lambda d: -2 * np.exp(-2 * d))


def test_halving_the_spacing_tells_smooth_from_kink_from_step():
    kink = Curve(lambda d: np.exp(-2 * d) + 0.01 * abs(d - 2.0037), lambda d: 0.0)
    step = Curve(lambda d: np.exp(-2 * d) + 0.01 * (d > 2.0037), lambda d: 0.0)
    orders = [dimer_scan(curve, ("H", "H"), longest=4.0, n_points=401).smoothness(start=1.0) for curve in (SMOOTH, kink, step)]
    assert orders[0] == pytest.approx(3, abs=0.1) and 0.5 < orders[1] < 2.1 and orders[2] == pytest.approx(0, abs=0.2)


def test_slopes_are_checked_against_the_energies():
    wrong = Curve(lambda d: np.exp(-2 * d), lambda d: -2.2 * np.exp(-2 * d))
    good, bad = (dimer_scan(curve, ("H", "H"), longest=4.0, n_points=401).slope_error() for curve in (SMOOTH, wrong))
    assert good < 1e-6 and bad == pytest.approx(0.2 / 2.2, rel=0.05)


def test_a_hole_at_short_distance_is_found():
    hole = Curve(lambda d: np.exp(-2 * d) - 2 * np.exp(-(((d - 0.25) / 0.05) ** 2)), lambda d: -2 * np.exp(-2 * d))
    assert dimer_scan(SMOOTH, ("O", "O"), longest=4.0).is_repulsive
    assert not dimer_scan(hole, ("O", "O"), longest=4.0).is_repulsive


def test_attraction_in_the_forces_alone_is_found():
    attractive = Curve(lambda d: np.exp(-2 * d), lambda d: 2 * np.exp(-2 * d))
    assert not dimer_scan(attractive, ("O", "O"), longest=4.0).is_repulsive


@pytest.mark.parametrize("symbols", [("H", "H"), ("O", "H"), ("Cu", "O")])
def test_untrained_model_is_smooth_and_repulsive_and_ends_at_the_cutoff(make_potential, symbols):
    potential = make_potential(n_layers=2)
    potential.core_repulsion = CoreRepulsion()
    scan = dimer_scan(UnipotCalculator(potential), symbols, longest=5.5, n_points=4241)
    assert scan.is_finite and scan.is_repulsive and scan.smoothness(start=1.0) > 2.5
    assert scan.slope_error(start=0.6) < 5e-5
    beyond = scan.values > 5.0
    assert np.ptp(scan.energies[beyond]) < 1e-9 and np.abs(scan.slopes[beyond]).max() == 0.0


def test_without_core_repulsion_an_untrained_model_is_not_repulsive(make_potential):
    assert not all(
        dimer_scan(UnipotCalculator(make_potential(n_layers=2, seed=seed)), ("O", "H"), longest=5.5, n_points=201).is_repulsive
        for seed in range(3)
    )


def test_volume_scan_of_emt_copper_has_its_minimum_at_one():
    atoms = bulk("Cu", a=3.59, cubic=True)
    atoms.calc = EMT()
    scan = volume_scan(atoms)
    assert scan.values[np.argmin(scan.energies)] == pytest.approx(1.0, abs=0.011) and scan.is_repulsive
    assert scan.slope_error(start=0.7) < 5e-3  # EMT has a cutoff that is not smooth


def test_slopes_of_a_volume_scan_are_those_of_the_stress(make_potential):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = UnipotCalculator(make_potential())
    scan = volume_scan(atoms)
    assert scan.is_finite and scan.slope_error() < 1e-4 and np.abs(scan.slopes).max() > 1e-2


def test_scanned_atoms_are_left_alone(make_potential):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = UnipotCalculator(make_potential())
    before = atoms.positions.copy(), atoms.cell.array.copy()
    volume_scan(atoms, n_points=9)
    assert np.array_equal(before[0], atoms.positions) and np.array_equal(before[1], atoms.cell.array)


def test_one_by_one_equals_all_at_once(make_potential):
    calculator = UnipotCalculator(make_potential(dtype=torch.float64))

    class OneByOne(Curve):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            Calculator.calculate(self, atoms, properties, system_changes)
            calculator.calculate(atoms, ["energy", "forces"])
            self.results = {name: calculator.results[name] for name in ("energy", "forces")}

    found = [dimer_scan(c, ("O", "H"), longest=5.5, n_points=21) for c in (calculator, OneByOne(None, None))]
    assert np.allclose(found[0].energies, found[1].energies, atol=1e-10) and np.allclose(found[0].slopes, found[1].slopes, atol=1e-10)


@pytest.mark.parametrize("options", [{"shortest": 0.0}, {"longest": 0.1}, {"n_points": 7}, {"n_points": 100}])
def test_a_range_without_points_is_refused(options):
    with pytest.raises(ValueError, match="give 0 < low < high and an odd number of points, at least 9"):
        dimer_scan(SMOOTH, ("H", "H"), **{"longest": 4.0, **options})


def test_volume_of_a_molecule_is_refused():
    with pytest.raises(ValueError, match="a volume scan needs three periodic axes"):
        volume_scan(molecule("H2O"))


def test_slope_error_of_a_constant_curve_is_zero():
    constant = Curve(lambda d: 1.0, lambda d: 0.0)
    scan = dimer_scan(constant, ("H", "H"), longest=4.0, n_points=21)
    assert scan.slope_error() == 0.0 and scan.jump() == 0.0


def test_how_far_a_curve_is_repulsive_is_told_in_radii():
    well = Curve(lambda d: (d - 1.5) ** 2, lambda d: 2 * (d - 1.5))
    scan = dimer_scan(well, ("O", "O"), longest=4.0, n_points=381)
    assert scan.repulsive_until == pytest.approx(1.5 / (2 * 0.66), abs=0.01) and scan.is_repulsive
