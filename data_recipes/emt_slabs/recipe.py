"""Metal slabs with adsorbates, labelled by ASE's effective medium theory (EMT): energy and forces.

A trajectory is one random slab (element or binary substitution alloy, facet, adsorbate, site); its frames are taken
along a relaxation and rattled around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from unipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

LABELS = ("energy", "forces")
LEVEL_OF_THEORY = "EMT (ASE)"

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
ADSORBATES = ("H", "C", "N", "O", "CO", "OH", "NO", "NH")  # first atom towards the surface
FACETS = ("fcc111", "fcc100", "fcc110")
FRAMES_PER_SLAB = 5
RATTLE = (0.02, 0.15)  # Å, standard deviation per component, log-uniform


def structures(n_frames: int = 400, seed: int = 0) -> Iterator[Structure]:
    """Labelled frames, slab after slab; a longer run starts with the frames of a shorter one.

    Args:
        n_frames: frames in all.
        seed: of every random choice.
    """
    for k in range(n_frames):
        slab, frame = divmod(k, FRAMES_PER_SLAB)
        if frame == 0:
            rng = np.random.default_rng((seed, slab))
            frames = _frames(_slab(rng), rng)
        yield _labelled(frames[frame], id=f"slab-{seed}-{slab:04d}-{frame}", group=f"slab-{seed}-{slab:04d}")


def _slab(rng: np.random.Generator) -> Atoms:
    """A 2x2 slab of three or four layers with one adsorbate 1.2 to 2.2 Å above it."""
    from ase import build
    from ase.constraints import FixAtoms
    from ase.data import atomic_numbers, reference_states

    host, guest = rng.choice(METALS, size=2, replace=False)
    facet, share = rng.choice(FACETS), rng.choice((0.0, 0.25, 0.5))
    lattice = {metal: reference_states[atomic_numbers[metal]]["a"] for metal in (host, guest)}
    constant = (1 - share) * lattice[host] + share * lattice[guest]  # Vegard's law
    atoms = getattr(build, facet)(host, size=(2, 2, int(rng.integers(3, 5))), a=constant, vacuum=6.0, periodic=True)
    atoms.symbols[rng.random(len(atoms)) < share] = guest
    bottom = atoms.get_tags() == atoms.get_tags().max()
    adsorbate = _adsorbate(str(rng.choice(ADSORBATES)), rng)
    adsorbate.translate(rng.random(2) @ atoms.cell[:2] + [0, 0, atoms.positions[:, 2].max() + rng.uniform(1.2, 2.2)])
    atoms += adsorbate
    atoms.set_constraint(FixAtoms(np.flatnonzero(bottom)))
    return atoms


def _adsorbate(formula: str, rng: np.random.Generator) -> Atoms:
    """One or two atoms, the first at the origin and the second above it, tilted by up to 60 degrees."""
    from ase import Atoms

    length = 1.0 if formula.endswith("H") else 1.18
    tilt, turn = rng.uniform(0, np.pi / 3), rng.uniform(0, 2 * np.pi)
    direction = np.array((np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)))
    return Atoms(formula, positions=[(0, 0, 0), length * direction][: len(formula)])


def _frames(atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
    """Frames at the start, along and at the end of a short relaxation, each rattled."""
    from ase.calculators.emt import EMT
    from ase.optimize import FIRE

    atoms.calc = EMT()
    frames = []
    for steps in (0, 5, 10, 15, 20)[:FRAMES_PER_SLAB]:
        if steps:
            FIRE(atoms, logfile=None).run(fmax=0.05, steps=steps)
        frame = atoms.copy()
        width = np.exp(rng.uniform(*np.log(RATTLE)))
        frame.set_positions(frame.positions + width * rng.normal(size=frame.positions.shape), apply_constraint=False)
        frames.append(frame)
    return frames


def _labelled(atoms: Atoms, **names: str) -> Structure:
    from ase.calculators.emt import EMT

    atoms.calc = EMT()
    labels = {"energy": np.array(atoms.get_potential_energy()), "forces": atoms.get_forces(apply_constraint=False)}
    return Structure.from_ase(atoms, labels=labels, **names)
