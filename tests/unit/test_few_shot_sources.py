"""`scripts/few_shot_sources.py`: which frames are left out, and what is left of labels when xTB is taken off."""

import importlib.util
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from unipot.data.store import StoreWriter
from unipot.structure import Structure

_FILE = Path(__file__).parents[2] / "scripts" / "few_shot_sources.py"


@pytest.fixture(scope="module")
def sources():
    spec = importlib.util.spec_from_file_location("few_shot_sources", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_frames_of_one_element_alone_are_left_out(sources, tmp_path):
    ase.io.write(tmp_path / "all.extxyz", [Atoms("Mo2", positions=[[0, 0, 0], [2, 0, 0]]), Atoms("MoW", positions=[[0, 0, 0], [2, 0, 0]])])
    assert sources.without_pure(tmp_path / "all.extxyz", tmp_path / "out" / "kept.extxyz", "Mo") == (1, 1)
    assert ase.io.read(tmp_path / "out" / "kept.extxyz").get_chemical_formula() == "MoW"


@pytest.mark.parametrize("kind", ["extxyz", "unipot"])
def test_differences_are_labels_less_those_of_xtb(sources, tmp_path, kind):
    tblite = pytest.importorskip("tblite.ase", reason="tblite is the method")
    atoms = molecule("H2O")
    labels = {"energy": -14.0, "forces": np.arange(9.0).reshape(3, 3)}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    source = tmp_path / f"water.{kind}"
    if kind == "extxyz":
        ase.io.write(source, atoms)
    else:
        with StoreWriter(source, name="water", level_of_theory="PBE", energy_kind="total", labels=("energy", "forces")) as writer:
            writer.add(Structure.from_ase(atoms, labels={name: np.array(value) for name, value in labels.items()}, id="0", group="0"))
    assert sources.differences([source], tmp_path / "less.extxyz") == (1, 0)
    left, bare = ase.io.read(tmp_path / "less.extxyz"), molecule("H2O")
    bare.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0)
    np.testing.assert_allclose(left.get_forces() + bare.get_forces(), labels["forces"], atol=1e-6)
    assert left.get_potential_energy() + bare.get_potential_energy() == pytest.approx(-14.0, abs=1e-6)
