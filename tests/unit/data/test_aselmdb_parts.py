"""Parts, ids and groups of the recipes of `.aselmdb` sets."""

import numpy as np
import pytest

from unipot.data.readers.aselmdb_parts import ENERGY_AND_FORCES, aselmdb_parts, composition, read_aselmdb_part

pytest.importorskip("ase_db_backends", reason="ase-db-backends is not installed")


def test_parts_are_files_below_the_folders_in_order(tmp_path):
    for name in ("b/b/data1.aselmdb", "b/b/data0.aselmdb", "a/data0.aselmdb", "c/data0.aselmdb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert aselmdb_parts(tmp_path, "b", "a", "missing") == ["a/data0.aselmdb", "b/b/data0.aselmdb", "b/b/data1.aselmdb"]
    with pytest.raises(FileNotFoundError, match="no .aselmdb file in missing"):
        aselmdb_parts(tmp_path, "missing")


def test_ids_leave_out_repeated_folders_and_groups_take_the_first_key(tmp_path):
    from ase.build import bulk, molecule
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    (tmp_path / "set" / "set").mkdir(parents=True)
    rows = [(bulk("Cu", cubic=True), {"b": "second"}), (bulk("Cu", cubic=True), {"a": 7, "b": "x"}), (molecule("H2O"), {})]
    with connect(tmp_path / "set" / "set" / "data.aselmdb", type="aselmdb") as database:
        for atoms, data in [*rows, (bulk("Cu", cubic=True), {})]:
            atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((len(atoms), 3)))
            database.write(atoms, data=data)
    read = list(read_aselmdb_part(tmp_path, "set/set/data.aselmdb", labels=ENERGY_AND_FORCES, group_keys=("a", "b")))
    assert [s.id for s in read] == [f"set/data-{k}" for k in (1, 2, 3, 4)]
    assert [s.group for s in read] == ["second", "7", "H2 O1", "Cu1"]


def test_composition():
    assert composition(np.array([17, 11, 17, 11]), reduced=True) == "Na1 Cl1"
    assert composition(np.array([17, 11, 17, 11]), reduced=False) == "Na2 Cl2"
