"""Relaxation of positions, and of the cell if wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from unipot.errors import InputError
from unipot.simulate.frames import FrameWriter, without_labels

#: name -> attribute of `ase.optimize`
OPTIMIZERS = {"fire": "FIRE", "lbfgs": "LBFGS", "bfgs": "BFGS"}


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """Outcome of `relax`.

    Attributes:
        atoms: the relaxed structure, with the calculator attached and without velocities. Numbers that `info` or
            per-atom arrays of the input held beside charge and spin are not there: they belong to the geometry it had
            (`unipot.simulate.frames`).
        converged: whether the largest force fell below the threshold.
        n_steps: optimizer steps taken.
        energies: (n_steps + 1,) eV, from start to end.
        max_forces: (n_steps + 1,) eV/Å, the largest force on an atom that may move.
    """

    atoms: Atoms
    converged: bool
    n_steps: int
    energies: np.ndarray
    max_forces: np.ndarray

    def __repr__(self) -> str:
        return f"Relaxation({self.atoms.get_chemical_formula()}: {self.sentence()})"

    def sentence(self) -> str:
        state = "relaxed" if self.converged else "NOT converged"
        if self.n_steps == 0 and self.atoms.get_number_of_degrees_of_freedom() < 1:
            state = "constraints hold all atoms, nothing to relax; ended"
        return (
            f"{state} after {self.n_steps} steps: energy {self.energies[0]:.4f} -> {self.energies[-1]:.4f} eV, "
            f"largest force {self.max_forces[0]:.4f} -> {self.max_forces[-1]:.4f} eV/A"
        )


class NotConvergedError(InputError):
    """Relaxations ended before the forces were small. Everything is written; the command ends with this exit code."""

    exit_code = 3


def relax(
    atoms: Atoms,
    *,
    optimizer: str = "lbfgs",
    fmax: float = 0.02,
    max_steps: int = 500,
    relax_cell: bool = False,
    trajectory: Path | str | FrameWriter | None = None,
    overwrite: bool = False,
    on_step: Callable[[int, float, float], None] | None = None,
) -> Relaxation:
    """Move atoms downhill until no force exceeds `fmax`.

    Args:
        atoms: with a calculator; left as they are. Constraints hold.
        optimizer: one of `OPTIMIZERS`.
        fmax: eV/Å. With `relax_cell`, the stress times the volume per atom obeys it as well (ASE's
            `FrechetCellFilter`).
        max_steps: give up after that many.
        relax_cell: all six degrees of freedom of the cell too; needs three periodic axes.
        trajectory: file that every step is appended to, in a format that ASE knows from its name, or the writer of one.
        overwrite: a trajectory that is there already may be replaced.
        on_step: called with (step, energy in eV, largest force in eV/Å).

    Raises:
        ValueError: there is no calculator, the optimizer is unknown, a number is out of range, the cell cannot be
            relaxed, or ASE cannot write the trajectory.
        FileExistsError: the trajectory is there already and `overwrite` is false.
    """
    from ase.filters import FrechetCellFilter

    factory = _optimizer(optimizer)
    _check_relaxation(atoms, fmax, max_steps, relax_cell)
    writer = FrameWriter(trajectory, [atoms], several=True, overwrite=overwrite) if isinstance(trajectory, Path | str) else trajectory
    calculator, atoms = atoms.calc, atoms.copy()
    atoms.arrays.pop("momenta", None)  # of the motion that this one ends
    atoms.calc = calculator
    energies: list[float] = []
    forces: list[float] = []

    def record() -> None:
        energies.append(float(atoms.get_potential_energy()))
        forces.append(float(np.linalg.norm(atoms.get_forces(), axis=1).max()))
        if writer is not None:
            writer.write(atoms, step=len(energies) - 1, converged=bool(driver.converged()))
        if on_step is not None:
            on_step(len(energies) - 1, energies[-1], forces[-1])

    driver = factory(FrechetCellFilter(atoms) if relax_cell else atoms, logfile=None)
    driver.attach(record)
    converged = bool(driver.run(fmax=fmax, steps=max_steps))
    return Relaxation(
        atoms=without_labels(atoms),
        converged=converged,
        n_steps=len(energies) - 1,
        energies=np.array(energies),
        max_forces=np.array(forces),
    )


def _check_relaxation(atoms: Atoms, fmax: float, max_steps: int, relax_cell: bool) -> None:
    if not fmax > 0:
        raise InputError(f"fmax is {fmax}; it must be positive (eV/Å)")
    if max_steps < 1:
        raise InputError(f"max_steps is {max_steps}; it must be at least 1")
    if atoms.calc is None:
        raise InputError("atoms have no calculator; set atoms.calc = UnipotCalculator(...) first")
    if relax_cell and not atoms.pbc.all():
        raise InputError(f"pbc is {atoms.pbc.tolist()}: the cell can be relaxed only if all axes are periodic; set relax_cell to false")


def _optimizer(name: str) -> Any:
    import ase.optimize

    if name not in OPTIMIZERS:
        close = get_close_matches(name, OPTIMIZERS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"optimizer {name!r} is not known{hint}; use one of: {', '.join(OPTIMIZERS)}")
    return getattr(ase.optimize, OPTIMIZERS[name])
