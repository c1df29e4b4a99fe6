"""Long runs that watch for failure: temperature, closest pair, numbers that are not finite. They can be interrupted anywhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from unipot.errors import InputError
from unipot.neighbors import neighbor_list
from unipot.simulate.dynamics import ENSEMBLES, integrator, thermalise
from unipot.simulate.pair_distribution import PairDistribution

#: Å; pairs closer than that are looked at for the closest one
_LOOKED_AT = 3.0
#: of the sum of covalent radii: bonds are shorter, and broken beyond
_BOND, _BROKEN = 1.2, 1.5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of one structure.

    Attributes:
        name: of its files.
        ensemble: nve or nvt.
        duration: ps.
        timestep: fs.
        temperature: K, of the bath, and of the velocities of atoms that have none.
        friction: 1/fs, of the bath.
        seed: of velocities and bath.
        interval: steps from one look at the run to the next.
        max_temperature_ratio: of the temperature to `temperature`; above, the run has failed.
        min_pair_ratio: of a distance to the sum of covalent radii; below, the run has failed.
        pairs: elements whose pair distributions are gathered.
    """

    name: str
    ensemble: str = "nvt"
    duration: float = 1.0
    timestep: float = 0.5
    temperature: float = 300.0
    friction: float = 0.01
    seed: int = 0
    interval: int = 20
    max_temperature_ratio: float = 3.0
    min_pair_ratio: float = 0.5
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise InputError(f"stage {self.name!r}: ensemble {self.ensemble!r} is not known; use one of: {', '.join(ENSEMBLES)}")
        for name in ("duration", "timestep", "interval", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"stage {self.name!r}: {name} is {getattr(self, name)}; it must be positive")

    @property
    def n_steps(self) -> int:
        return round(1000 * self.duration / self.timestep)


@dataclass(kw_only=True)
class StageRecord:
    """What was seen every `interval` steps, the start included.

    Attributes:
        times: ps.
        temperature: K.
        potential_energy, total_energy: eV.
        closest: smallest distance over the sum of the covalent radii of its pair.
        failure: why the run ended early, or None.
        seconds: wall time of the steps.
        n_steps: taken.
        n_atoms: of the structure.
    """

    times: list[float] = field(default_factory=list)
    temperature: list[float] = field(default_factory=list)
    potential_energy: list[float] = field(default_factory=list)
    total_energy: list[float] = field(default_factory=list)
    closest: list[float] = field(default_factory=list)
    failure: str | None = None
    seconds: float = 0.0
    n_steps: int = 0
    n_atoms: int = 0

    @property
    def drift(self) -> float:
        """Slope of the total energy, eV per atom and ps, by least squares; says something of forces only in NVE."""
        if len(self.times) < 2:
            return 0.0
        return float(np.polyfit(self.times, np.array(self.total_energy) / self.n_atoms, 1)[0])

    def mean_temperature(self) -> float:
        """K, of the second half."""
        return float(np.mean(self.temperature[len(self.temperature) // 2 :]))


class StageRun:
    """One stage of one structure in a folder; what is there is continued, to the same bit as without the interruption.

    A stage that is done goes on if it comes back with a longer duration; any other change of its settings is refused.

    Args:
        atoms: with a calculator; left as they are. Velocities and constraints hold.
        stage: what to run.
        folder: for `<name>.state.npz` while it runs and `<name>.json` when it is done.

    Attributes:
        atoms: where the run is now.
        record: what it has seen.
        distributions: g(r) of the pairs of the stage.
    """

    def __init__(self, atoms: Atoms, stage: Stage, folder: Path) -> None:
        calculator, self.atoms, self.stage, self.folder = atoms.calc, atoms.copy(), stage, Path(folder)
        self.atoms.calc = calculator
        self.generator = np.random.Generator(np.random.PCG64(stage.seed))
        self.record = StageRecord(n_atoms=len(atoms))
        self.distributions = [PairDistribution(symbols=pair) for pair in stage.pairs]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._state_file.exists():
            self._restore()
        elif not self.atoms.get_momenta().any():
            thermalise(self.atoms, stage.temperature, self.generator)

    @property
    def is_done(self) -> bool:
        return self.record.n_steps >= self.stage.n_steps or self.record.failure is not None

    def run(self, seconds: float | None = None, save_every: float = 30.0) -> StageRecord:
        """Go on until the stage is over or `seconds` have passed, by at least one look; the state is saved at the end and every
        `save_every` seconds."""
        stage = self.stage
        driver = integrator(
            self.atoms, stage.ensemble, timestep=stage.timestep, temperature=stage.temperature, friction=stage.friction,
            generator=self.generator,
        )
        started = saved = time.perf_counter()
        if not self.record.times:
            self._record_state()
        while not self.is_done:
            self._advance(driver)
            if seconds is not None and time.perf_counter() - started > seconds:
                break
            if time.perf_counter() - saved > save_every:
                self._save()
                saved = time.perf_counter()
        self._save()
        return self.record

    def _advance(self, driver: Any) -> None:
        """`interval` steps and a look."""
        n_steps, started = min(self.stage.interval, self.stage.n_steps - self.record.n_steps), time.perf_counter()
        try:
            driver.run(n_steps)
        except ValueError as error:  # the calculator refuses positions or predictions that are not finite
            self.record.failure = f"{self._time_reached()}: {error}"
            return
        self.record.seconds += time.perf_counter() - started
        self.record.n_steps += n_steps
        self._record_state()

    def _record_state(self) -> None:
        record, atoms = self.record, self.atoms
        potential, kelvin, closest = float(atoms.get_potential_energy()), float(atoms.get_temperature()), closest_pair_ratio(atoms)
        record.times.append(record.n_steps * self.stage.timestep / 1000)
        record.temperature.append(kelvin)
        record.potential_energy.append(potential)
        record.total_energy.append(potential + float(atoms.get_kinetic_energy()))
        record.closest.append(closest)
        if record.n_steps == 0:
            return
        if not kelvin <= self.stage.max_temperature_ratio * self.stage.temperature:
            record.failure = f"{self._time_reached()}: temperature {kelvin:.0f} K at {self.stage.temperature:g} K"
        elif not closest >= self.stage.min_pair_ratio:
            record.failure = f"{self._time_reached()}: two atoms at {closest:.2f} of the sum of their covalent radii"
        else:
            for distribution in self.distributions:
                distribution.add(atoms)

    def _time_reached(self) -> str:
        return f"{self.record.n_steps * self.stage.timestep / 1000:.3f} ps"

    @property
    def _state_file(self) -> Path:
        return self.folder / f"{self.stage.name}.state.npz"

    def _save(self) -> None:
        text = json.dumps({"stage": asdict(self.stage), "record": asdict(self.record), "generator": self.generator.bit_generator.state})
        arrays = {f"pairs_{k}": d.counts for k, d in enumerate(self.distributions)}
        frames = np.array([d.n_frames for d in self.distributions], dtype=np.int64)
        temporary = self._state_file.with_name(f".{self._state_file.name}")
        np.savez(
            temporary,
            positions=self.atoms.positions,
            momenta=self.atoms.get_momenta(),
            cell=self.atoms.cell.array,
            text=np.frombuffer(text.encode(), dtype=np.uint8),
            n_frames=frames,
            **arrays,
        )
        os.replace(temporary, self._state_file)

    def _restore(self) -> None:
        with np.load(self._state_file, allow_pickle=False) as saved:
            text = json.loads(saved["text"].tobytes())
            # a longer run of the same dynamics goes on from the shorter one
            if {**text["stage"], "duration": None} != {**json.loads(json.dumps(asdict(self.stage))), "duration": None}:
                raise InputError(f"{self._state_file} belongs to a stage with other settings; remove it, or choose another folder")
            self.atoms.set_cell(saved["cell"])
            self.atoms.positions[:] = saved["positions"]
            self.atoms.set_momenta(saved["momenta"], apply_constraint=False)
            self.record = StageRecord(**text["record"])
            self.generator.bit_generator.state = text["generator"]
            for k, distribution in enumerate(self.distributions):
                distribution.counts, distribution.n_frames = saved[f"pairs_{k}"], int(saved["n_frames"][k])


def closest_pair_ratio(atoms: Atoms) -> float:
    """Smallest distance over the sum of the covalent radii of its two atoms; infinite where none is within 3 Å."""
    if not np.isfinite(atoms.positions).all():
        return float("nan")
    (centre, neighbor), shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, _LOOKED_AT)
    if len(centre) == 0:
        return float("inf")
    radii = covalent_radii[atoms.numbers]
    return float((_distances(atoms, centre, neighbor, shifts) / (radii[centre] + radii[neighbor])).min())


def kept_bonds(before: Atoms, now: Atoms) -> float:
    """Part of the bonds of a structure that it still has: a run may end without failure and yet have melted or reacted.

    A bond is a pair within 1.2 times the sum of the covalent radii, and is kept up to 1.5 times of it: second
    neighbours of close packings lie at 1.4, so that atoms that change places count as well.

    Args:
        before: a structure.
        now: the same atoms later, not wrapped in between.

    Returns:
        1 where there were none.
    """
    radii = covalent_radii[before.numbers]
    (centre, neighbor), shifts = neighbor_list(before.positions, before.cell.array, before.pbc, 2 * _BOND * float(radii.max()))
    sums = radii[centre] + radii[neighbor]
    bonded = _distances(before, centre, neighbor, shifts) <= _BOND * sums
    kept = _distances(now, centre, neighbor, shifts) <= _BROKEN * sums
    return float(kept[bonded].mean()) if bonded.any() else 1.0


def _distances(atoms: Atoms, centre: np.ndarray, neighbor: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    lattice = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    return np.linalg.norm(atoms.positions[neighbor] - atoms.positions[centre] + shifts @ lattice, axis=1)


def reference_distribution(frames: Sequence[Atoms], symbols: tuple[str, str]) -> PairDistribution:
    """g(r) of given frames, to compare with."""
    distribution = PairDistribution(symbols=symbols)
    for atoms in frames:
        distribution.add(atoms)
    return distribution
