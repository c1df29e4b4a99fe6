"""Fixtures for all tests: small sets with real labels, computed on the spot, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real reference data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("UNIPOT_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set UNIPOT_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two extended XYZ files labelled by ASE's EMT.

    metals: 40 rattled four-atom Cu/Ni/Al crystals with energy, forces and stress. molecules: 30 distorted CO, N2 and
    H2O with energy and forces, every fifth with energy only.
    """
    from ase.build import bulk, molecule
    from ase.calculators.emt import EMT
    from ase.io import write

    folder = tmp_path_factory.mktemp("toy-data")
    rng = np.random.default_rng(0)
    frames: dict[str, list] = {"metals": [], "molecules": []}
    for k in range(40):
        atoms = bulk(("Cu", "Ni", "Al")[k % 3], "fcc", a=(3.6, 3.5, 4.05)[k % 3], cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        frames["metals"].append(_labelled(atoms, EMT(), ("energy", "forces", "stress")))
    for k in range(30):
        atoms = molecule(("CO", "N2", "H2O")[k % 3])
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        frames["molecules"].append(_labelled(atoms, EMT(), ("energy",) if k % 5 == 4 else ("energy", "forces")))
    for name, atoms_list in frames.items():
        write(folder / f"{name}.extxyz", atoms_list)
    return {name: folder / f"{name}.extxyz" for name in frames}


def _labelled(atoms, calculator, properties):
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = calculator
    results = {name: getattr(atoms, {"energy": "get_potential_energy"}.get(name, f"get_{name}"))() for name in properties}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def smoke_overrides(toy_data: dict[str, Path]) -> list[str]:
    """Command line of a run of seconds on the toy sets, without `run=`."""
    return [
        "experiment=smoke",
        f"datasets.metals.path={toy_data['metals']}",
        "datasets.metals.level_of_theory=EMT-metals",
        "datasets.metals.labels=[energy,forces,stress]",
        f"datasets.molecules.path={toy_data['molecules']}",
        "datasets.molecules.level_of_theory=EMT-molecules",
        "trainer.threads=1",
    ]
