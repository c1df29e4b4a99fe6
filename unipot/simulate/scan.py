"""Energies along a line: two atoms pulled apart, a cell compressed and stretched; how smooth, how repulsive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from unipot.errors import InputError

#: of the sum of covalent radii; two atoms closer than that must push each other apart
REPULSIVE_BELOW = 0.5
#: of the volume; a crystal compressed below that must push back
COMPRESSED_BELOW = 0.7


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Energies on a uniform grid.

    Attributes:
        name: of what was scanned.
        quantity: what changes, with its unit.
        values: (n_points,) of it, ascending, equally far apart.
        energies: (n_points,) eV.
        slopes: (n_points,) dE/dvalue as the forces or the stress of the model say.
        repulsive_below: value under which the energy must rise towards smaller ones.
        unit: of the values in which `repulsive_until` is told: the sum of covalent radii, or the volume of the start.
    """

    name: str
    quantity: str
    values: np.ndarray
    energies: np.ndarray
    slopes: np.ndarray
    repulsive_below: float
    unit: float = 1.0

    @property
    def spacing(self) -> float:
        return float(self.values[1] - self.values[0])

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.energies).all() and np.isfinite(self.slopes).all())

    @property
    def is_repulsive(self) -> bool:
        """Whether the energy falls, and the slopes say so, up to `repulsive_below`."""
        return self.repulsive_until * self.unit >= self.repulsive_below

    @property
    def repulsive_until(self) -> float:
        """Value, in units of `unit`, up to which the energy falls from the smallest one on, by the energies and by the slopes."""
        falls = np.append(np.diff(self.energies) < 0, False) & (self.slopes < 0)
        return float(self.values[int(np.argmin(falls))]) / self.unit

    def jump(self, start: float = -np.inf, every: int = 1) -> float:
        """Largest change of the second difference from one point to the next, eV, among values from `start` on.

        Args:
            start: leaves out the steep part, which would hide everything else.
            every: takes every so-manieth point, which is the scan on a coarser grid.
        """
        energies = self.energies[self.values >= start]
        differences = [np.abs(np.diff(energies[first::every], n=3)) for first in range(every)]  # wherever a kink falls between points
        return max((float(part.max()) for part in differences if len(part)), default=0.0)

    def smoothness(self, start: float = -np.inf) -> float:
        """log2 of what halving the spacing does to `jump`: 3 for a smooth curve, between 0.5 and 2 for a kink, 0 for a step."""
        fine, coarse = self.jump(start), self.jump(start, every=2)
        return float(np.log2(coarse / fine)) if fine > 0 else np.inf

    def slope_error(self, start: float = -np.inf) -> float:
        """Largest deviation of the slopes from central differences (fourth order) of the energies, in units of the largest slope."""
        kept = self.values >= start
        energies, slopes = self.energies[kept], self.slopes[kept]
        central = (8 * (energies[3:-1] - energies[1:-3]) - (energies[4:] - energies[:-4])) / (12 * self.spacing)
        return float(np.abs(central - slopes[2:-2]).max() / max(np.abs(slopes).max(), 1e-12))


def dimer_scan(calculator: Any, symbols: tuple[str, str], *, shortest: float = 0.2, longest: float, n_points: int = 1201) -> Scan:
    """Two atoms in vacuum, from `shortest` to `longest` Å apart.

    Args:
        calculator: an ASE calculator; one with a method `evaluate` gets all points at once.
        symbols: of the two.
        shortest: Å.
        longest: Å, beyond the cutoff of the model.
        n_points: of the grid; an odd number, at least 9.

    Raises:
        ValueError: the range is empty or there are too few points.
    """
    _check_grid(shortest, longest, n_points)
    distances = np.linspace(shortest, longest, n_points)
    images = [Atoms(symbols, positions=[[0, 0, 0], [0, 0, d]]) for d in distances]
    energies, forces, _ = _evaluated(calculator, images, stress=False)
    radii = [covalent_radii[atomic_numbers[symbol]] for symbol in symbols]
    return Scan(
        name="-".join(symbols),
        quantity="distance, Å",
        values=distances,
        energies=energies,
        slopes=np.array([-force[1, 2] for force in forces]),
        repulsive_below=REPULSIVE_BELOW * sum(radii),
        unit=float(sum(radii)),
    )


def volume_scan(atoms: Atoms, *, smallest: float = 0.6, largest: float = 1.6, n_points: int = 101) -> Scan:
    """A periodic structure scaled isotropically, atoms with it.

    Args:
        atoms: periodic along all axes, with a calculator; left as they are.
        smallest: of the volume.
        largest: of the volume.
        n_points: of the grid; an odd number, at least 9.

    Raises:
        ValueError: an axis is not periodic, the range is empty, or there are too few points.
    """
    _check_grid(smallest, largest, n_points)
    if not atoms.pbc.all():
        raise InputError(f"a volume scan needs three periodic axes, pbc is {atoms.pbc.tolist()}")
    factors, images = np.linspace(smallest, largest, n_points), []
    for factor in factors:
        image = atoms.copy()
        image.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
        images.append(image)
    energies, _, stresses = _evaluated(atoms.calc, images, stress=True)
    # dE/dV = tr(stress)/3, and here V = factor · V0
    slopes = np.array([np.trace(stress) / 3 for stress in stresses]) * atoms.get_volume()
    return Scan(
        name=atoms.get_chemical_formula(),
        quantity="volume, V/V0",
        values=factors,
        energies=energies,
        slopes=slopes,
        repulsive_below=COMPRESSED_BELOW,
    )


def _check_grid(low: float, high: float, n_points: int) -> None:
    if not 0 < low < high or n_points < 9 or n_points % 2 == 0:
        raise InputError(f"a scan from {low} to {high} in {n_points} points: give 0 < low < high and an odd number of points, at least 9")


def _evaluated(calculator: Any, images: Sequence[Atoms], *, stress: bool) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Energies (n,), forces and stress (3, 3) of each image."""
    evaluate: Callable[..., Any] | None = getattr(calculator, "evaluate", None)
    if evaluate is not None:
        found = evaluate(images, ("energy", "forces", "stress") if stress else ("energy", "forces"))
        return np.array([one.energy for one in found]), [one.forces for one in found], [one.stress for one in found]
    energies, forces, stresses = [], [], []
    for image in images:
        image.calc = calculator
        energies.append(image.get_potential_energy())
        forces.append(image.get_forces())
        stresses.append(image.get_stress(voigt=False) if stress else np.zeros((3, 3)))
    return np.array(energies), forces, stresses
