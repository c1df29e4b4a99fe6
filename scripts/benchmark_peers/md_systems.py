"""Systems for the MD step, and thermal motion that is the same for every package.

Weights are random, so a model's own forces would tear the systems apart. Instead every atom moves in an elastic network at
300 K (springs to the neighbours of the start), integrated with 1 fs: displacements, and with them the work of neighbour lists
that are kept between steps, are those of a solid or a cold liquid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111
from ase.data import covalent_radii
from ase.io import read

from unipot.neighbors import neighbor_list

TEMPERATURE = 300.0  # K
TIME_STEP = 1.0  # fs
N_STEPS = 100  # of a trajectory; runs walk there and back
BOND, CONTACT = 25.0, 0.8  # eV/Å², springs between bonded atoms and between other neighbours
REACH = 4.0  # Å, of springs


#: names of what `systems` gives
SYSTEMS = ("molecule-21", "water-192", "slab-80", "cell-1000")


def systems(data: Path) -> dict[str, Atoms]:
    """Name -> structure: aspirin (21 atoms), 64 water molecules (192), Pt(111) with CO (80), a copper cell (1,000)."""
    molecule = read(data / "rmd17_aspirin" / "train.extxyz", index=0)
    water = read(data / "water_revpbe0d3" / "train.extxyz", index=0)
    slab = fcc111("Pt", size=(3, 4, 6), vacuum=8.0)
    slab.pbc = True
    for offset in ((0, 0), (1, 1), (2, 2), (0, 2)):
        add_adsorbate(slab, Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.15]]), 1.9, "ontop", offset=offset)
    crystal = bulk("Cu", "fcc", a=3.61) * (10, 10, 10)
    return dict(zip(SYSTEMS, (molecule, water, slab, crystal), strict=True))


def trajectory(atoms: Atoms, seed: int = 0) -> np.ndarray:
    """(N_STEPS, n_atoms, 3) Å, float64, by velocity Verlet in the elastic network; starts at the structure itself."""
    edges, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, REACH)
    images = shifts @ atoms.cell.array
    rest = _vectors(atoms.positions, edges, images)
    lengths = np.linalg.norm(rest, axis=1)
    radii = covalent_radii[atoms.numbers]
    stiffness = np.where(lengths < 1.25 * (radii[edges[0]] + radii[edges[1]]), BOND, CONTACT)
    masses = atoms.get_masses()[:, None]
    rng, step = np.random.default_rng(seed), TIME_STEP * units.fs
    # twice the kinetic energy of 300 K, for half of it becomes potential energy
    velocities = rng.normal(size=(len(atoms), 3)) * np.sqrt(2 * units.kB * TEMPERATURE / masses)
    positions, frames = atoms.positions.copy(), []
    forces = np.zeros_like(positions)
    for _ in range(N_STEPS):
        frames.append(positions.copy())
        velocities += 0.5 * step * forces / masses
        positions += step * velocities
        change = _vectors(positions, edges, images) - rest
        forces = np.zeros_like(positions)
        np.add.at(forces, edges[0], stiffness[:, None] * change)
        velocities += 0.5 * step * forces / masses
    return np.stack(frames)


def _vectors(positions: np.ndarray, edges: np.ndarray, images: np.ndarray) -> np.ndarray:
    return positions[edges[1]] + images - positions[edges[0]]
