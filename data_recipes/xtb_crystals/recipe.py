"""Small crystals, rattled and strained, labelled by GFN1-xTB (tblite, Gamma point): energy, forces and stress.

All cells are cubic with 8 to 16 atoms before the strain, because the Gamma point makes the energy per atom depend on
the size of the cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from unipot.structure import Structure
from unipot.units import voigt_to_matrix

if TYPE_CHECKING:
    from ase import Atoms

LABELS = ("energy", "forces", "stress")
LEVEL_OF_THEORY = "GFN1-xTB, Gamma point (tblite)"

# formula, ASE crystal structure, cubic lattice constant in Å
CRYSTALS = (
    ("C", "diamond", 3.57), ("Si", "diamond", 5.43), ("Ge", "diamond", 5.66), ("SiC", "zincblende", 4.36),
    ("BN", "zincblende", 3.62), ("AlN", "zincblende", 4.38), ("AlP", "zincblende", 5.46), ("GaN", "zincblende", 4.50),
    ("BeO", "zincblende", 3.80), ("ZnO", "zincblende", 4.58), ("LiH", "rocksalt", 4.08), ("LiF", "rocksalt", 4.03),
    ("NaF", "rocksalt", 4.63), ("NaCl", "rocksalt", 5.64), ("LiCl", "rocksalt", 5.13), ("MgO", "rocksalt", 4.21),
    ("CO2", "Pa-3", 5.62),
)  # fmt: skip
RATTLE = (0.01, 0.06)  # standard deviation per component over the shortest distance, log-uniform
STRAIN = 0.04  # standard deviation of the volume strain; half of it for each shear


def structures(n_frames: int = 240, seed: int = 0, n_threads: int = 2) -> Iterator[Structure]:
    """Labelled frames, crystal after crystal in turn; a longer run starts with the frames of a shorter one.

    Args:
        n_frames: frames in all.
        seed: of every random choice; frame k depends on (seed, k) alone.
        n_threads: calculations at a time.
    """
    with ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(lambda k: _frame(seed, k), range(n_frames))


def _frame(seed: int, k: int) -> Structure:
    from tblite.ase import TBLite

    rng = np.random.default_rng((seed, k))
    formula, lattice, constant = CRYSTALS[k % len(CRYSTALS)]
    atoms = _crystal(formula, lattice, constant)
    shear = rng.normal(scale=STRAIN / 2, size=(3, 3))
    strain = (shear + shear.T) / 2 + rng.normal(scale=STRAIN) * np.eye(3) / 3
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    shortest = np.sort(atoms.get_all_distances(mic=True), axis=None)[len(atoms)]
    width = shortest * np.exp(rng.uniform(*np.log(RATTLE)))
    atoms.positions += width * rng.normal(size=atoms.positions.shape)
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    labels = {
        "energy": np.array(atoms.get_potential_energy()),
        "forces": atoms.get_forces(),
        "stress": voigt_to_matrix(atoms.get_stress()),
    }
    return Structure.from_ase(atoms, labels=labels, id=f"{formula}-{seed}-{k:04d}", group=f"{formula}-{seed}-{k:04d}")


def _crystal(formula: str, lattice: str, constant: float) -> Atoms:
    """The conventional cubic cell."""
    from ase import Atoms
    from ase.build import bulk

    if lattice != "Pa-3":
        return bulk(formula, lattice, a=constant, cubic=True)
    carbons = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    axes = np.array([(1, 1, 1), (-1, 1, -1), (-1, -1, 1), (1, -1, -1)]) / np.sqrt(3)  # of the molecules on these sites
    bond = 1.16 / constant * axes  # C=O, in units of the cell
    return Atoms("C4O8", scaled_positions=np.concatenate([carbons, carbons + bond, carbons - bond]), cell=3 * [constant], pbc=True)
