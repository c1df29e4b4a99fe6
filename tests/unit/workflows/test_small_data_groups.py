"""Who is held out together in small-data mode."""

import numpy as np
import pytest
from ase.build import molecule

from unipot.data.store import Store, StoreWriter
from unipot.finetune.search.halving import make_folds
from unipot.structure import Structure
from unipot.workflows.finetuning.search.search_plan import relatives


def frames(n, same=()):
    """Distorted water; those of `same` have one geometry."""
    made = []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.positions += 0.1 * np.random.default_rng(0 if k in same else k + 1).normal(size=(3, 3))
        made.append(atoms)
    return made


@pytest.fixture
def store(tmp_path):
    def write(name, atoms, group=lambda k: ""):
        with StoreWriter(tmp_path / f"{name}.unipot", name=name, level_of_theory="none", energy_kind="total", labels=("energy",)) as writer:
            for k, each in enumerate(atoms):
                writer.add(Structure.from_ase(each, labels={"energy": np.array(0.0)}, id=f"{name}-{k}", group=group(k)))
        return Store(tmp_path / f"{name}.unipot")

    return write


def held_out(store):
    """The geometries of every fold, whatever the order of frames."""
    folds = make_folds(relatives(store, np.arange(len(store))), 3, seed=0)
    return [sorted(store[int(k)].positions.tobytes() for k in fold) for fold in folds]


def test_folds_depend_neither_on_the_name_of_the_file_nor_on_the_order_of_frames(store):
    made = frames(13)
    assert held_out(store("one", made)) == held_out(store("another", made[::-1]))


def test_a_group_of_the_users_is_one(store):
    names = relatives(store("grouped", frames(6), group=lambda k: f"path-{k % 2}"), np.arange(6))
    assert names[0] == names[2] == names[4] != names[1] == names[3] == names[5]


def test_groups_that_share_a_geometry_are_one(store):
    names = relatives(store("shared", frames(6, same=(0, 3)), group=lambda k: f"path-{k // 2}"), np.arange(6))
    assert names[0] == names[1] == names[2] == names[3] != names[4] == names[5]
