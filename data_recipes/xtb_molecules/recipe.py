"""Small organic molecules and pairs of them at 300 to 1000 K, labelled by GFN2-xTB (tblite); part of the frames energy only.

A trajectory is a short Langevin dynamics of one random species: a molecule of ASE's G2 collection, two or three grafted
together, a pair that shares a hydrogen, or a molecule grafted on a chelate that does so within itself (`chelates.xyz`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from ase import Atoms, units
from ase.build.molecule import g2, molecule
from ase.data import covalent_radii
from ase.io import read
from ase.md.langevin import Langevin
from ase.optimize import FIRE

from unipot.structure import Structure

LABELS, LEVEL_OF_THEORY = ("energy", "forces"), "GFN2-xTB (tblite)"  # forces for part of the frames

# Closed-shell molecules of the G2 collection, by use; a name given twice is drawn twice as often.
SPECIES = {
    "alone": "H2O NH3 CH4 C2H2 C2H4 C2H6 HCN H2CO CH3OH N2H4 H2O2 H3CNH2 CH3CHO HCOOH CH3CN CH3NO2 CH3CONH2 CH3COOH HCOOCH3 OCHCHO "
    "CH3CH2OH CH3OCH3 CH2OCH2 C2H6NH H2CCO H2CCHCN C3H4_C3v C3H4_D2d C3H6_Cs C3H8 CH3COCH3 butadiene isobutene C6H6 C4H4O CO2",
    "grafted": "H2O H2O H2O CH4 CH4 C2H4 C2H4 C2H4 H2CO H2CO H2CO CH3OH CH3CHO HCOOH OCHCHO C2H2 HCN NH3 C3H6_Cs H2CCO",
    "paired": "H2O H2O NH3 CH3OH H2CO HCOOH CH3COOH CH3CHO HCN",
    "chelated": "CH4 H2O NH3 H2CO HCN",
}
EXCLUDED = ("C3H4O2",)  # the composition that the quickstart fine-tunes on must stay unseen
MAX_ATOMS, ENERGY_ONLY, TEMPERATURES = 14, 0.25, (300.0, 1000.0)  # atoms; share of the frames; K
FRAMES_PER_TRAJECTORY, STEPS_BETWEEN, TIMESTEP = 3, 15, 1.0  # fs


def structures(n_frames: int = 2400, seed: int = 0, n_threads: int = 2) -> Iterator[Structure]:
    """`n_frames` labelled frames; a longer run starts with those of a shorter one: trajectory k depends on (`seed`, k) alone."""
    g2.names  # noqa: B018 - ASE reads the collection when first asked, which two threads must not do at once
    with ThreadPoolExecutor(n_threads) as pool:
        trajectories = pool.map(lambda k: _trajectory(seed, k), range(-(-n_frames // FRAMES_PER_TRAJECTORY)))
        yield from islice(chain.from_iterable(trajectories), n_frames)


def _trajectory(seed: int, k: int) -> list[Structure]:
    from tblite.ase import TBLite

    rng = np.random.default_rng((seed, k))
    atoms, kelvin = _species(rng), rng.uniform(*TEMPERATURES)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=0.3, steps=40)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * kelvin * atoms.get_masses())[:, None])
    dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, fixcm=False, rng=rng)
    group, frames = f"{atoms.get_chemical_formula()}-{seed}-{k:04d}", []
    for step in range(FRAMES_PER_TRAJECTORY):
        dynamics.run(STEPS_BETWEEN)
        forces = {} if rng.random() < ENERGY_ONLY else {"forces": atoms.get_forces()}
        labels = {"energy": np.array(atoms.get_potential_energy()), **forces}
        frames.append(Structure.from_ase(atoms, labels=labels, id=f"{group}-{step}", group=group))
    return frames


def _species(rng: np.random.Generator) -> Atoms:
    """A random species, neither `EXCLUDED` nor above `MAX_ATOMS`, without close atoms or new bonds between N and O."""
    while True:
        kind = rng.choice(list(SPECIES), p=(0.15, 0.5, 0.15, 0.2))
        n_molecules = {"grafted": rng.integers(2, 4), "paired": 2}.get(str(kind), 1)
        atoms, *others = (molecule(str(name)) for name in rng.choice(SPECIES[kind].split(), n_molecules))
        if kind == "chelated":
            atoms, others = read(__file__.replace("recipe.py", "chelates.xyz"), int(rng.integers(2))), [atoms]
        for other in others:
            atoms = _join(atoms, other, rng, bond=kind != "paired") if 1 in atoms.numbers else atoms
        closeness = (atoms.get_all_distances() + 9 * np.eye(len(atoms))) / np.add.outer(*2 * [covalent_radii[atoms.numbers]])
        hetero = np.isin(atoms.numbers, (7, 8)) & (kind != "alone")
        apart = (closeness > np.where(np.outer(hetero, hetero), 1.15, 0.75)).all()
        if apart and len(atoms) <= MAX_ATOMS and atoms.get_chemical_formula() not in EXCLUDED:
            return atoms


def _join(first: Atoms, second: Atoms, rng: np.random.Generator, *, bond: bool) -> Atoms:
    """Both as one: an H of each replaced by a bond, or an H of the first 1.4 to 2.2 Å from an O or N of the second."""
    h, x = _hydrogen(first, rng)
    out = (first.positions[h] - first.positions[x]) / first.get_distance(h, x)
    if bond:
        h2, anchor = _hydrogen(second, rng)
        back, target = second.positions[h2] - second.positions[anchor], first.positions[x] + 1.45 * out
    else:
        anchor = int(rng.choice(np.flatnonzero(np.isin(second.numbers, (7, 8)))))
        back, target = second.positions[anchor] - second.get_center_of_mass(), first.positions[h] + rng.uniform(1.4, 2.2) * out
    second.rotate(back, -out)
    second.rotate(rng.uniform(0, 360), out)
    second.translate(target - second.positions[anchor])
    if bond:
        del first[h], second[h2]
    return first + second


def _hydrogen(atoms: Atoms, rng: np.random.Generator) -> tuple[int, int]:  # and the atom that carries it
    h = int(rng.choice(np.flatnonzero(atoms.numbers == 1)))
    return h, int(np.argsort(np.linalg.norm(atoms.positions - atoms.positions[h], axis=1))[1])
