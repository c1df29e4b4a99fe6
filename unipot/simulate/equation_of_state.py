"""Energy against volume, and the Birch–Murnaghan fit to it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from unipot.errors import InputError
from unipot.units import GPA


@dataclass(frozen=True, kw_only=True)
class EquationOfState:
    """Birch–Murnaghan fit (Phys. Rev. 71, 809 (1947)) of a volume scan.

    Attributes:
        volumes: (n_points,) Å³ of the whole cell.
        energies: (n_points,) eV.
        equilibrium_volume: Å³.
        equilibrium_energy: eV.
        bulk_modulus: eV/Å³.
        bulk_modulus_derivative: dB/dp, no unit.
        residual: eV, root mean square of the fit.
    """

    volumes: np.ndarray
    energies: np.ndarray
    equilibrium_volume: float
    equilibrium_energy: float
    bulk_modulus: float
    bulk_modulus_derivative: float
    residual: float

    @property
    def bulk_modulus_gpa(self) -> float:
        return self.bulk_modulus / GPA

    def sentence(self) -> str:
        return (
            f"equilibrium volume {self.equilibrium_volume:.3f} A^3, energy {self.equilibrium_energy:.4f} eV, bulk modulus "
            f"{self.bulk_modulus_gpa:.1f} GPa, B' {self.bulk_modulus_derivative:.2f}, residual {1000 * self.residual:.3f} meV"
        )


def equation_of_state(atoms: Atoms, *, volume_range: float = 0.06, n_points: int = 9, fmax: float | None = None) -> EquationOfState:
    """Scan the volume isotropically around that of `atoms` and fit.

    Args:
        atoms: periodic along all axes, with a calculator; left as they are.
        volume_range: largest relative change of the volume in either direction.
        n_points: at least 5.
        fmax: eV/Å; if given, positions relax at every volume.

    Raises:
        ValueError: the atoms are not fully periodic, or the scan has no minimum inside.
    """
    if atoms.calc is None:
        raise InputError("atoms have no calculator; set atoms.calc = UnipotCalculator(...) first")
    if not atoms.pbc.all():
        raise InputError(f"an equation of state needs three periodic axes, pbc is {atoms.pbc.tolist()}")
    if n_points < 5 or not 0 < volume_range < 0.5:
        raise InputError(f"n_points is {n_points} (at least 5) and volume_range {volume_range} (between 0 and 0.5)")
    volumes, energies = [], []
    for factor in np.linspace(1 - volume_range, 1 + volume_range, n_points):
        scaled = _scaled(atoms, factor, fmax)
        volumes.append(scaled.get_volume())
        energies.append(scaled.get_potential_energy())
    return _fitted(np.array(volumes), np.array(energies))


def _scaled(atoms: Atoms, factor: float, fmax: float | None) -> Atoms:
    from unipot.simulate.relaxation import relax

    scaled = atoms.copy()
    scaled.calc = atoms.calc
    scaled.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
    if fmax is None:
        return scaled
    relaxation = relax(scaled, fmax=fmax)
    if not relaxation.converged:
        raise InputError(f"at {factor:.3f} of the volume the positions do not relax below {fmax} eV/A; raise fmax or narrow the scan")
    return relaxation.atoms


def _fitted(volumes: np.ndarray, energies: np.ndarray) -> EquationOfState:
    from ase.eos import EquationOfState as Fit
    from ase.eos import birchmurnaghan

    lowest = int(np.argmin(energies))
    if lowest in (0, len(energies) - 1):
        side = "smallest" if lowest == 0 else "largest"
        raise InputError(
            f"the energy is lowest at the {side} volume of the scan, {volumes[lowest]:.3f} A^3, so the minimum lies outside "
            f"{volumes[0]:.3f}..{volumes[-1]:.3f} A^3; relax the cell first, or widen volume_range"
        )
    fit = Fit(volumes, energies, eos="birchmurnaghan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a covariance that scipy cannot estimate; the residual below says how good the fit is
        volume, energy, modulus = fit.fit(warn=False)
    e0, b0, slope, v0 = fit.eos_parameters
    residual = float(np.sqrt(np.mean((birchmurnaghan(volumes, e0, b0, slope, v0) - energies) ** 2)))
    return EquationOfState(
        volumes=volumes,
        energies=energies,
        equilibrium_volume=float(volume),
        equilibrium_energy=float(energy),
        bulk_modulus=float(modulus),
        bulk_modulus_derivative=float(slope),
        residual=residual,
    )
