"""Molecular dynamics: NVE by velocity Verlet, NVT by Langevin, with the energy drift measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from unipot.errors import InputError
from unipot.simulate.frames import FrameWriter, without_labels

ENSEMBLES = ("nve", "nvt")
#: Å; an atom that moves farther in one step jumps over its neighbours, and the integration means nothing any more
LARGEST_STEP = 1.0
#: times the temperature of bath or start, and K at least: hotter is an explosion. Three atoms out of their equilibrium
#: reach 3,000 K
HOTTEST, HOTTEST_AT_LEAST = 10.0, 10_000.0


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What was recorded during a run, every `interval` steps, the start included.

    Attributes:
        ensemble: nve or nvt.
        atoms: the last configuration, with velocities and calculator; numbers that `info` or per-atom arrays of the
            input held beside charge and spin are not there, see `unipot.simulate.frames`.
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

    def __repr__(self) -> str:
        return f"Trajectory({self.ensemble} of {self.atoms.get_chemical_formula()}, {len(self.times)} records: {self.sentence()})"

    def sentence(self) -> str:
        run = f"{self.times[-1] / 1000:.3f} ps, mean temperature {self.temperature.mean():.0f} K"
        if self.ensemble != "nve":  # a bath exchanges energy, so that a drift would say nothing about the forces
            return f"{run}, potential energy between {self.potential_energy.min():.4f} and {self.potential_energy.max():.4f} eV"
        return (
            f"{run}, total energy drifts by {1000 * self.drift:.3f} meV/atom/ps "
            f"and deviates by at most {1000 * self.fluctuation:.3f} meV/atom"
        )


class ExplodedError(InputError):
    """Dynamics that ended because they mean nothing any more: too hot, atoms that jump, numbers that are not finite."""


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
    trajectory: Path | str | FrameWriter | None = None,
    overwrite: bool = False,
    max_temperature: float | None = None,
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
        trajectory: file that every record is appended to, in a format that ASE knows from its name, or the writer of
            one.
        overwrite: a trajectory that is there already may be replaced.
        max_temperature: K, at which the run counts as exploded and ends; ten times that of bath or start by default,
            and at least 10,000 K.
        on_record: called with (step, total energy in eV, temperature in K).

    Raises:
        ValueError: there is no calculator, a number is out of range, no atom can move, or ASE cannot write the
            trajectory.
        ExplodedError: the run exploded. The message names the step; records so far stay in the trajectory, and its last
            frame, where it ended, has `exploded` in its `info`.
        FileExistsError: the trajectory is there already and `overwrite` is false.
    """
    limits = {} if max_temperature is None else {"max_temperature": max_temperature}
    positive = {"n_steps": n_steps, "timestep": timestep, "interval": interval, **limits}
    _check_dynamics(atoms, ensemble, positive, temperature, friction)
    writer = FrameWriter(trajectory, [atoms], several=True, overwrite=overwrite) if isinstance(trajectory, Path | str) else trajectory
    generator = np.random.Generator(np.random.PCG64(seed))
    atoms = _moving_copy(atoms, temperature, generator)
    watch = _Watch(atoms, _hottest(atoms, temperature) if max_temperature is None else max_temperature)
    records = _Records(atoms, timestep, writer, on_record)
    driver = integrator(atoms, ensemble, timestep=timestep, temperature=temperature, friction=friction, generator=generator)
    for step in _steps(driver, n_steps, timestep, watch, writer):
        if step % interval == 0 or step == n_steps:
            records.add(step)
    return records.trajectory(ensemble)


def _moving_copy(atoms: Atoms, temperature: float, generator: np.random.Generator) -> Atoms:
    """The atoms with their calculator, and with velocities."""
    moving = atoms.copy()
    moving.calc = atoms.calc
    # what is wrong with the structure is said before a time step could be blamed; nothing is computed twice
    moving.get_forces()
    if not moving.get_momenta().any():
        thermalise(moving, temperature, generator)
    return moving


def _hottest(atoms: Atoms, temperature: float) -> float:
    """K, at which a run counts as exploded where nobody says it."""
    return max(HOTTEST * temperature, HOTTEST * float(atoms.get_temperature()), HOTTEST_AT_LEAST)


class _Records:
    """What is kept of a run.

    Args:
        atoms: that move.
        timestep: fs.
        writer: of the frames, or None.
        on_record: called with (step, total energy in eV, temperature in K), or None.
    """

    def __init__(
        self, atoms: Atoms, timestep: float, writer: FrameWriter | None, on_record: Callable[[int, float, float], None] | None
    ) -> None:
        self.atoms, self.timestep, self.writer, self.on_record = atoms, timestep, writer, on_record
        self.rows: list[tuple[float, float, float, float]] = []

    def add(self, step: int) -> None:
        """The present configuration, after `step` steps."""
        atoms, time = self.atoms, step * self.timestep
        potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        kelvin = float(atoms.get_temperature())
        self.rows.append((time, potential, kinetic, kelvin))
        if self.writer is not None:
            self.writer.write(atoms, step=step, time_fs=time)
        if self.on_record is not None:
            self.on_record(step, potential + kinetic, kelvin)

    def trajectory(self, ensemble: str) -> Trajectory:
        """All of it, once the run has ended."""
        times, potential, kinetic, kelvin = (np.array(column) for column in zip(*self.rows, strict=True))
        return Trajectory(
            ensemble=ensemble,
            atoms=without_labels(self.atoms),
            times=times,
            potential_energy=potential,
            kinetic_energy=kinetic,
            temperature=kelvin,
        )


class _Watch:
    """Looks at every step for what no dynamics does.

    Args:
        atoms: that move.
        max_temperature: K.
    """

    def __init__(self, atoms: Atoms, max_temperature: float) -> None:
        self.atoms, self.max_temperature, self.before = atoms, max_temperature, atoms.positions.copy()

    def look(self, step: int) -> None:
        """Raises:
        ExplodedError: an atom has jumped, it is too hot, or a number is not finite.
        """
        moved = np.linalg.norm(self.atoms.positions - self.before, axis=1)
        farthest = int(np.argmax(moved))
        if step and not moved[farthest] <= LARGEST_STEP:
            atom = f"atom {farthest} ({self.atoms.symbols[farthest]})"
            raise ExplodedError(f"{atom} moved by {moved[farthest]:.1f} Å in one step; check the geometry, or use a shorter time step")
        kelvin = self.atoms.get_temperature()
        if step and not np.isfinite(kelvin):
            raise ExplodedError("velocities are not finite; check the geometry, or use a shorter time step")
        if step and not kelvin <= self.max_temperature:
            limit = f"{kelvin:.3g} K are more than {self.max_temperature:.6g} K"
            raise ExplodedError(f"{limit}; check the geometry, use a shorter time step, or allow them with max_temperature")
        self.before = self.atoms.positions.copy()


def _steps(driver: Any, n_steps: int, timestep: float, watch: _Watch, writer: FrameWriter | None) -> Iterator[int]:
    """Take the steps, the start included; a failure says at which one, and its frame is kept with a flag."""
    taken = driver.irun(n_steps)
    while True:
        try:
            if next(taken, None) is None:
                return
            watch.look(driver.get_number_of_steps())
        except ValueError as error:
            step = driver.get_number_of_steps()
            kept = "" if writer is None else _keep_last_frame(writer, watch, error, step, timestep)
            raise ExplodedError(
                f"dynamics failed after step {step} of {n_steps} ({step * timestep:g} fs) at a time step of {timestep:g} fs: {error}{kept}"
            ) from error
        yield driver.get_number_of_steps()


def _keep_last_frame(writer: FrameWriter, watch: _Watch, error: ValueError, step: int, timestep: float) -> str:
    """Write the frame where the run ended, flagged; returns what to say of it.

    Where the calculator refused or gave what is not finite, the frame has no labels; where positions are not finite, it
    has those of the step before.
    """
    atoms = watch.atoms
    known = atoms.calc.results if isinstance(error, ExplodedError) else {}
    known = known if all(np.isfinite(known[name]).all() for name in ("energy", "forces") if name in known) else {}
    if not np.isfinite(atoms.positions).all():
        atoms.positions[:], known = watch.before, {}
    atoms.set_momenta(np.nan_to_num(atoms.get_momenta(), posinf=0.0, neginf=0.0), apply_constraint=False)
    writer.write(atoms, known, exploded=True, step=step, time_fs=step * timestep)
    return f" ({writer.path} keeps {writer.n_frames} frame(s), the last one flagged `exploded`)"


def _check_dynamics(atoms: Atoms, ensemble: str, positive: Mapping[str, float], temperature: float, friction: float) -> None:
    if atoms.calc is None:
        raise InputError("atoms have no calculator; set atoms.calc = UnipotCalculator(...) first")
    if ensemble not in ENSEMBLES:
        raise InputError(f"ensemble {ensemble!r} is not known; use one of: {', '.join(ENSEMBLES)}")
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be positive")
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; it must not be negative (K)")
    if not friction >= 0:
        raise InputError(f"friction is {friction}; it must not be negative (1/fs)")
    if len(atoms) and atoms.get_number_of_degrees_of_freedom() < 1:  # their temperature would be no number
        raise InputError(f"none of the {len(atoms)} atoms can move, constraints hold them all; free some, or compute the energy alone")


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
