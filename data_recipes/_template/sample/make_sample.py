"""Writes `frames.jsonl.gz` in the raw format: two invented water molecules, Lennard-Jones energies and gradients."""

import gzip
import json
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.units import kJ, mol

with gzip.GzipFile(Path(__file__).parent / "frames.jsonl.gz", "wb", mtime=0) as file:
    for k in range(2):
        atoms = molecule("H2O")
        atoms.positions += 0.05 * np.random.default_rng(k).normal(size=(3, 3))
        atoms.calc = LennardJones(sigma=0.8, epsilon=0.1, rc=6.0)
        frame = {
            "name": f"water-{k}",
            "molecule": "water",
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.round(6).tolist(),
            "energy": atoms.get_potential_energy() / (kJ / mol),
            "gradient": (-atoms.get_forces() / (kJ / mol)).tolist(),
        }
        file.write(json.dumps(frame).encode() + b"\n")
