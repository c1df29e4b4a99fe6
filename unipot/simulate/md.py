"""Molecular dynamics: NVE by velocity Verlet, NVT by Langevin, with the energy drift measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from unipot.simulate.relax import append_frame

ENSEMBLES = ("nve", "nvt")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What was recorded during a run, every `interval` steps, the start included.

    Attributes:
        ensemble: nve or nvt.
        atoms: the last configuration, with velocities and calculator.
        times: (n_records,) fs.
        potential_energy, kinetic_energy: (n_records,) eV.
        temperature: (n_records,) K.
    """

    ensemble: str
    atoms: Atoms
    times: np.ndarray
    potential_energy: np.ndarray
    kinetic_energy: np.ndarray
    temperature: np.ndarray

    @property
    def total_energy(self) -> np.ndarray:
        """(n_records,) eV."""
        return self.potential_energy + self.kinetic_energy

    @property
    def drift(self) -> float:
        """Slope of the total energy, eV per atom and ps, by least squares; meaningful for NVE."""
        if len(self.times) < 2:
            return 0.0
        return float(np.polyfit(self.times / 1000, self.total_energy / len(self.atoms), 1)[0])

    @property
    def fluctuation(self) -> float:
        """Largest deviation of the total energy from its start, eV per atom."""
        return float(np.abs(self.total_energy - self.total_energy[0]).max() / len(self.atoms))

    def sentence(self) -> str:
        run = f"{self.times[-1] / 1000:.3f} ps, mean temperature {self.temperature.mean():.0f} K"
        if self.ensemble != "nve":  # a bath exchanges energy, so that a drift would say nothing about the forces
            return f"{run}, potential energy between {self.potential_energy.min():.4f} and {self.potential_energy.max():.4f} eV"
        return (
            f"{run}, total energy drifts by {1000 * self.drift:.3f} meV/atom/ps "
            f"and deviates by at most {1000 * self.fluctuation:.3f} meV/atom"
        )


def molecular_dynamics(
    atoms: Atoms,
    *,
    ensemble: str = "nve",
    n_steps: int,
    timestep: float = 0.5,
    temperature: float = 300.0,
    friction: float = 0.01,
    seed: int = 0,
    interval: int = 10,
    trajectory: Path | str | None = None,
    on_record: Callable[[int, float, float], None] | None = None,
) -> Trajectory:
    """Integrate Newton's (`nve`) or Langevin's (`nvt`) equations.

    Atoms that have no velocities get them from a Maxwell–Boltzmann distribution at `temperature`, without drift of
    the centre of mass. With a fixed seed a run repeats itself.

    Args:
        atoms: with a calculator; left as they are. Constraints hold.
        ensemble: one of `ENSEMBLES`.
        n_steps: steps to take.
        timestep: fs.
        temperature: K, of the initial velocities and of the Langevin bath.
        friction: 1/fs, of the Langevin bath.
        seed: of velocities and bath.
        interval: record every so many steps.
        trajectory: file that every record is appended to, in a format that ASE knows from its name.
        on_record: called with (step, total energy in eV, temperature in K).

    Raises:
        ValueError: there is no calculator, a number is out of range, or the run exploded (with the step).
    """
    _check(atoms, ensemble, {"n_steps": n_steps, "timestep": timestep, "interval": interval}, temperature, friction)
    atoms, calculator = atoms.copy(), atoms.calc
    atoms.calc = calculator
    generator = np.random.Generator(np.random.PCG64(seed))
    atoms.get_forces()  # what is wrong with the structure is said before a time step could be blamed; nothing is computed twice
    if not atoms.get_momenta().any():
        thermalise(atoms, temperature, generator)
    records: list[tuple[float, float, float, float]] = []

    def record() -> None:
        step = driver.get_number_of_steps()
        if step % interval and step != n_steps:
            return
        potential, kinetic, kelvin = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy()), float(atoms.get_temperature())
        records.append((step * timestep, potential, kinetic, kelvin))
        if trajectory is not None:
            append_frame(trajectory, atoms, first=len(records) == 1)
        if on_record is not None:
            on_record(step, potential + kinetic, kelvin)

    driver = integrator(atoms, ensemble, timestep=timestep, temperature=temperature, friction=friction, generator=generator)
    driver.attach(record)
    _run(driver, n_steps, timestep)
    times, potential, kinetic, kelvin = (np.array(column) for column in zip(*records, strict=True))
    return Trajectory(
        ensemble=ensemble, atoms=atoms, times=times, potential_energy=potential, kinetic_energy=kinetic, temperature=kelvin
    )


def _run(driver: Any, n_steps: int, timestep: float) -> None:
    """Take the steps; a failure says at which one."""
    try:
        driver.run(n_steps)
    except ValueError as error:
        raise ValueError(
            f"dynamics failed after step {driver.get_number_of_steps()} of {n_steps} "
            f"({driver.get_number_of_steps() * timestep:g} fs) at a time step of {timestep:g} fs: {error}"
        ) from error


def _check(atoms: Atoms, ensemble: str, positive: Mapping[str, float], temperature: float, friction: float) -> None:
    if atoms.calc is None:
        raise ValueError("atoms have no calculator; set atoms.calc = UnipotCalculator(...) first")
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble {ensemble!r} is not known; use one of: {', '.join(ENSEMBLES)}")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; it must not be negative (K)")
    if not friction >= 0:
        raise ValueError(f"friction is {friction}; it must not be negative (1/fs)")


def thermalise(atoms: Atoms, temperature: float, generator: np.random.Generator) -> None:
    """Maxwell–Boltzmann velocities; the centre of mass rests unless atoms are constrained."""
    momenta = generator.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    if not atoms.constraints and len(atoms) > 1:
        momenta -= atoms.get_masses()[:, None] * momenta.sum(axis=0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta)  # constraints apply here


def integrator(
    atoms: Atoms, ensemble: str, *, timestep: float, temperature: float, friction: float, generator: np.random.Generator
) -> Any:
    """ASE's velocity Verlet (`nve`) or Langevin (`nvt`) dynamics of `atoms`; units as in `molecular_dynamics`."""
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet

    if ensemble == "nve":
        return VelocityVerlet(atoms, timestep=timestep * units.fs)
    return Langevin(
        atoms, timestep=timestep * units.fs, temperature_K=temperature, friction=friction / units.fs, rng=generator, fixcm=False
    )
