"""Malonaldehyde (enol, C3H4O2) at PBE/def2-SVP: a small reactive molecule as a user would bring it.

Geometries come from GFN2-xTB Langevin dynamics; training and test frames from separate trajectories, so that no test
frame is a neighbour in time of a training frame. The labels are those of one PySCF calculation per frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from unipot.data.catalog.pbe import pbe_def2_svp
from unipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

LABELS = ("energy", "forces")
LEVEL_OF_THEORY = "PBE/def2-SVP, all-electron, density fitting (def2-universal-jfit), grid level 3, PySCF"

# Planar enol form with the intramolecular O-H...O bond, Å; relaxed with GFN2-xTB before the dynamics.
SYMBOLS = "OCCCOHHHH"
POSITIONS = (
    (-1.275, -0.900, 0.0), (-1.220, 0.360, 0.0), (0.000, 1.120, 0.0), (1.170, 0.440, 0.0), (1.240, -0.890, 0.0),
    (0.320, -1.260, 0.0), (-2.160, 0.940, 0.0), (0.000, 2.200, 0.0), (2.120, 0.970, 0.0),
)  # fmt: skip
TEMPERATURE = 600.0  # K
TIMESTEP = 0.5  # fs
FIRST_STEPS, STEPS_BETWEEN = 2000, 200  # 1 ps of equilibration, then one frame every 100 fs
SPLITS = {"train": 0, "test": 1}  # a trajectory of its own each


def structures(n_frames: int = 50, seed: int = 0, split: str = "train", first: int = 0) -> Iterator[Structure]:
    """Labelled frames of one trajectory, in order of time.

    Args:
        n_frames: frames of the trajectory.
        seed: of the velocities and the thermostat.
        split: `train` or `test`.
        first: frames to leave unlabelled at the start, to continue an interrupted computation.

    Raises:
        ValueError: `split` is not known.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of recipe 'malonaldehyde_pbe' is not known; use one of: {', '.join(SPLITS)}")
    for k, atoms in enumerate(_trajectory(n_frames, np.random.default_rng((seed, SPLITS[split])))):
        if k >= first:
            energy, forces = pbe_def2_svp(atoms)
            labels = {"energy": np.array(energy), "forces": forces}
            yield Structure.from_ase(atoms, labels=labels, id=f"{split}-{seed}-{k:04d}", group=f"{split}-{seed}")


def _trajectory(n_frames: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """GFN2-xTB Langevin dynamics at `TEMPERATURE`."""
    from ase import Atoms, units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import Stationary, ZeroRotation
    from ase.optimize import BFGS
    from tblite.ase import TBLite

    atoms = Atoms(SYMBOLS, positions=POSITIONS)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * (units.kB * TEMPERATURE))[:, None])
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, fixcm=False, rng=rng)
    for k in range(n_frames):
        dynamics.run(STEPS_BETWEEN if k else FIRST_STEPS)
        yield Atoms(atoms.numbers, positions=atoms.positions - atoms.get_center_of_mass())
