"""Recipe `pbe_organics`: which structures of `xtb_organics` it labels, without PySCF."""

import sys

import numpy as np
import pytest

from unipot.data.catalog.recipes import load_recipe
from unipot.data.labels import SkippedItem
from unipot.data.store import StoreWriter
from unipot.resources import data_recipes_dir
from unipot.structure import Structure

RECIPE = load_recipe(data_recipes_dir(), "pbe_organics")


def _store(path, names, n_atoms=3):
    with StoreWriter(path, name="organics", level_of_theory="GFN2-xTB", energy_kind="total", labels=("energy", "forces")) as writer:
        for number, name in enumerate(names):
            positions = np.random.default_rng(number).normal(size=(n_atoms, 3)) * 3
            labels = {"energy": np.array(-1.0), "forces": np.zeros((n_atoms, 3))}
            writer.add(Structure(positions=positions, atomic_numbers=np.full(n_atoms, 6), labels=labels, id=name, group=name[:-2]))
    return str(path)


@pytest.fixture
def calculated(monkeypatch):
    """Names of what the stand-in of PySCF was asked for; it fails on structures of five atoms."""

    def stand_in(atoms, grid_level):
        if len(atoms) == 5:
            raise RuntimeError("PySCF: did not converge")
        return float(grid_level), np.ones((len(atoms), 3))

    monkeypatch.setitem(RECIPE.make.__globals__, "pbe_def2_svp", stand_in)


def test_one_frame_of_a_trajectory_and_few_trajectories_of_a_molecule(tmp_path, calculated):
    names = [f"CCO-0-{k:05d}-{frame}" for k in range(6) for frame in range(4)] + ["C#N-0-00006-1", "C#N-0-00006-2"]
    found = list(RECIPE.structures(of=_store(tmp_path / "a.unipot", names), per_molecule=3))
    assert [s.id for s in found] == ["CCO-0-00000-0", "CCO-0-00001-1", "CCO-0-00002-2", "C#N-0-00006-2"]


def test_labels_are_those_of_the_calculation(tmp_path, calculated):
    (found,) = RECIPE.structures(of=_store(tmp_path / "a.unipot", ["C-0-00000-0"]), grid_level=2)
    assert float(found.labels["energy"]) == 2.0 and (found.labels["forces"] == 1).all()


def test_large_molecules_are_left_out_and_a_shorter_run_is_the_beginning(tmp_path, calculated):
    path = _store(tmp_path / "a.unipot", [f"C{k}-0-{4 * k:05d}-0" for k in range(5)])
    assert [s.id for s in RECIPE.structures(of=path, n_frames=2)] == ["C0-0-00000-0", "C1-0-00004-0"]
    assert list(RECIPE.structures(of=path, max_atoms=2)) == []


def test_a_calculation_that_fails_is_a_skipped_item(tmp_path, calculated):
    (found,) = RECIPE.structures(of=_store(tmp_path / "a.unipot", ["C-0-00000-0"], n_atoms=5))
    assert isinstance(found, SkippedItem) and "did not converge" in found.reason


def test_a_store_of_something_else_is_named(tmp_path, calculated):
    path = _store(tmp_path / "other.unipot", ["frame-7"])
    with pytest.raises(ValueError, match=r"other.unipot: structure 'frame-7' is not of recipe xtb_organics; prepare that and give"):
        list(RECIPE.structures(of=path))


def test_without_pyscf_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(ValueError, match=r"with PySCF, which is not installed: pip install 'unipot\[dft\]'"):
        list(RECIPE.structures(of=_store(tmp_path / "a.unipot", ["C-0-00000-0"])))
