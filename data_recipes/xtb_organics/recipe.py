"""Organic molecules and pairs of them in thermal motion, assembled from fragments by RDKit, labelled by GFN2-xTB (tblite).

A trajectory is a short Langevin dynamics of one random molecule in the MMFF94 force field, whose frames GFN2-xTB labels.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from unipot.data.labels import SkippedItem
from unipot.structure import Structure

# SMILES whose first atom is where they attach; a fragment given twice is drawn twice as often.
FRAGMENTS = Path(__file__).with_name("fragments.txt").read_text(encoding="utf-8").split()
# Malonaldehyde, ethanol, acetylacetone, aspirin and 3-(benzyloxy)pyridin-2-amine, often fine-tuned on, with all their isomers
EXCLUDED = ("C3H4O2", "C2H6O", "C5H8O2", "C9H8O4", "C12H12N2O")
MAX_ATOMS, MAX_FRAGMENTS, PAIRS, TEMPERATURES = 27, 5, 0.1, (300.0, 1200.0)  # atoms; fragments; share of the species; K
FRAMES_PER_TRAJECTORY, FIRST_STEPS, STEPS_BETWEEN, TIMESTEP = 4, 150, 60, 1.0  # fs


def structures(n_frames: int = 4000, seed: int = 0, n_threads: int = 2) -> Iterator[Structure | SkippedItem]:
    """`n_frames` labelled frames; a longer run starts with those of a shorter one: trajectory k depends on (`seed`, k) alone."""
    with ThreadPoolExecutor(n_threads) as pool:
        trajectories = pool.map(lambda k: _trajectory(seed, k), range(-(-n_frames // FRAMES_PER_TRAJECTORY)))
        yield from islice(chain.from_iterable(trajectories), n_frames)


def _trajectory(seed: int, k: int) -> list[Structure | SkippedItem]:
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator as SinglePoints

    rng = np.random.default_rng((seed, k))
    (smiles, atoms), kelvin = _species(rng), rng.uniform(*TEMPERATURES)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * kelvin * atoms.get_masses())[:, None])
    dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, fixcm=False, rng=rng)
    single_points = SinglePoints("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr)
    single_points.set("verbosity", 0)
    group, frames = f"{smiles}-{seed}-{k:05d}", []
    for index in range(FRAMES_PER_TRAJECTORY):
        dynamics.run(STEPS_BETWEEN if index else FIRST_STEPS)
        single_points.update(atoms.positions / units.Bohr)
        try:
            result = single_points.singlepoint()
        except TBLiteRuntimeError as error:
            frames.append(SkippedItem(f"{group}-{index}", f"GFN2-xTB: {error}"))
            continue
        energy, forces = result.get("energy") * units.Hartree, -result.get("gradient") * units.Hartree / units.Bohr
        labels = {"energy": np.array(energy), "forces": forces}
        frames.append(Structure.from_ase(Atoms(atoms.numbers, atoms.positions), labels=labels, id=f"{group}-{index}", group=group))
    return frames


def _species(rng: np.random.Generator) -> tuple[str, Atoms]:
    """A random molecule or pair within `MAX_ATOMS`, not `EXCLUDED`: its SMILES and its atoms at a minimum of MMFF94, which drives them."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolDescriptors

    while True:
        smiles = [_assembled(rng, Chem) for _ in range(1 + (rng.random() < PAIRS))]
        mol = Chem.AddHs(Chem.MolFromSmiles(".".join(smiles)))
        if mol.GetNumAtoms() > MAX_ATOMS or any(rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(s)) in EXCLUDED for s in smiles):
            continue
        seed, properties = int(rng.integers(2**31)), rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if properties is None or rdDistGeom.EmbedMolecule(mol, randomSeed=seed, maxAttempts=5) < 0:
            continue
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, ignoreInterfragInteractions=False)
        field.Minimize(maxIts=500)
        atoms = Atoms([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.reshape(field.Positions(), (-1, 3)))
        atoms.calc = SimpleNamespace(get_forces=partial(_forces, field), kept_alive=(mol, properties))
        return Chem.MolToSmiles(Chem.RemoveHs(mol)), atoms


def _assembled(rng: np.random.Generator, Chem) -> str:
    """One to `MAX_FRAGMENTS` fragments joined by single bonds, none between two heteroatoms."""
    mol = Chem.MolFromSmiles(str(rng.choice(FRAGMENTS)))
    for _ in range(rng.integers(MAX_FRAGMENTS)):
        other = Chem.MolFromSmiles(str(rng.choice(FRAGMENTS)))
        carbon = other.GetAtomWithIdx(0).GetAtomicNum() == 6
        free = [a.GetIdx() for a in mol.GetAtoms() if a.GetNumImplicitHs() and (carbon or a.GetAtomicNum() == 6)]
        if free and (other.GetAtomWithIdx(0).GetTotalNumHs() or not carbon):
            bond = int(rng.choice(free)), mol.GetNumAtoms(), Chem.BondType.SINGLE
            mol = Chem.RWMol(Chem.CombineMols(mol, other))
            mol.AddBond(*bond)
            Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol)


def _forces(field, atoms: Atoms) -> np.ndarray:
    positions = atoms.positions.ravel().tolist()
    field.CalcEnergy(positions)  # the gradient reuses its distances
    return -np.reshape(field.CalcGrad(positions), (-1, 3)) * units.kcal / units.mol
