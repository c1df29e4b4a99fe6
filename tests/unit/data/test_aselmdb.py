"""fairchem's `.aselmdb`: labels, charge and spin, folders, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from unipot.data.labels import ASE_LABELS, LabelSource, SkippedItem
from unipot.data.readers.aselmdb import read_aselmdb
from unipot.data.unread_keys import UnreadKey
from unipot.structure import Structure

pytest.importorskip("ase_db_backends", reason="ase-db-backends is not installed")

ENERGY = {"energy": ASE_LABELS["energy"]}


def slab(energy: float = -3.5) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0, 2]))
    stress = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.arange(12.0).reshape(4, 3), stress=stress)
    return atoms


def ion() -> Atoms:
    atoms = molecule("OH")
    atoms.calc = SinglePointCalculator(atoms, energy=-75.0, forces=np.ones((2, 3)))
    return atoms


def write(path: Path, *rows: tuple[Atoms, dict]) -> Path:
    from ase.db import connect

    with connect(path, type="aselmdb") as database:
        for atoms, data in rows:
            database.write(atoms, data=data)
    return path


def structures(path: Path, **options) -> list[Structure]:  # type: ignore[no-untyped-def]
    items = list(read_aselmdb(path, labels=options.pop("labels", ENERGY), **options))
    assert not [item for item in items if isinstance(item, SkippedItem)]
    return items  # type: ignore[return-value]


def test_geometry_labels_and_frozen_atoms_survive(tmp_path: Path) -> None:
    (read,) = structures(write(tmp_path / "a.aselmdb", (slab(), {})), labels=ASE_LABELS)
    expected = slab()
    np.testing.assert_allclose(read.positions, expected.positions, atol=1e-12)
    np.testing.assert_allclose(read.cell, expected.cell.array, atol=1e-12)
    assert read.pbc.all() and read.fixed.tolist() == [True, False, True, False]
    # forces as calculated: a constraint must not zero them
    np.testing.assert_array_equal(read.labels["forces"], np.arange(12.0).reshape(4, 3))
    assert read.labels["energy"] == -3.5 and read.labels["stress"][1, 2] == 0.004


def test_charge_and_spin_are_found_under_stated_names_and_fractions_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (ion(), {"q": -1, "total_spin": 2}), (ion(), {"total_spin": 2.5}))
    told: list[UnreadKey] = []
    columns = {"total_charge": "q", "spin_multiplicity": "total_spin"}
    first, second = read_aselmdb(path, labels=ENERGY, columns=columns, on_unread=told.append)
    assert isinstance(first, Structure) and (first.total_charge, first.spin_multiplicity) == (-1.0, 2)
    assert isinstance(second, SkippedItem) and "spin_multiplicity is 2.5" in second.reason
    assert {"q", "total_spin"} & {item.key for item in told} == set()


def test_charge_and_spin_come_from_the_data_of_each_row(tmp_path: Path) -> None:
    path = write(tmp_path / "omol.aselmdb", (ion(), {"charge": -1, "spin": 1}), (ion(), {"charge": 0, "spin": 2}), (ion(), {"spin": 0}))
    read = structures(path)
    assert [(s.total_charge, s.spin_multiplicity) for s in read] == [(-1.0, 1), (0.0, 2), (0.0, None)]


def test_unit_sign_and_key_are_those_stated(tmp_path: Path) -> None:
    stress = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    path = write(tmp_path / "a.aselmdb", (slab(), {"total_energy": 2.0, "stress_kbar": stress}))
    labels = {
        "energy": LabelSource(key="total_energy", unit="hartree"),
        "stress": LabelSource(key="stress_kbar", unit="kbar", sign="compression"),
    }
    (read,) = structures(path, labels=labels)
    assert float(read.labels["energy"]) == pytest.approx(54.422772491976)
    assert float(read.labels["stress"][2, 2]) == pytest.approx(-3 / 1602.1766340)


def test_labels_that_contradict_each_other_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(-3.5), {"energy": -3.5}), (slab(-3.5), {"energy": -1.0}))
    agreeing, differing = read_aselmdb(path, labels=ENERGY)
    assert isinstance(agreeing, Structure) and isinstance(differing, SkippedItem)
    assert differing.reason == "'energy' of data and of the calculator results differ"


def test_a_folder_is_read_in_order_of_name_with_unique_ids(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "b.aselmdb", (slab(2.0), {}), (slab(3.0), {}))
    write(tmp_path / "a.aselmdb", (slab(1.0), {}))
    write(tmp_path / "sub" / "a.aselmdb", (slab(4.0), {}))
    read = structures(tmp_path)
    assert [float(s.labels["energy"]) for s in read] == [1.0, 2.0, 3.0, 4.0]
    assert [s.id for s in read] == ["a-1", "b-1", "b-2", "sub/a-1"]


def test_ids_and_groups_come_from_named_keys(tmp_path: Path) -> None:
    (read,) = structures(write(tmp_path / "a.aselmdb", (slab(), {"sid": "x7", "traj": 12})), id_key="sid", group_key="traj")
    assert (read.id, read.group) == ("x7", "12")


def test_rows_are_streamed(tmp_path: Path) -> None:
    from ase.db import connect

    path = write(tmp_path / "a.aselmdb", *[(slab(float(i)), {}) for i in range(3)])
    iterator = read_aselmdb(path, labels=ENERGY)
    assert float(next(iterator).labels["energy"]) == 0.0
    iterator.close()  # type: ignore[attr-defined]
    assert connect(path, type="aselmdb").count() == 3  # and the file is free again


def test_unusable_rows_are_reported_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {}), (slab(float("nan")), {}), (slab(), {"charge": "plus"}))
    good, *skipped = read_aselmdb(path, labels=ENERGY)
    assert isinstance(good, Structure) and [s.where for s in skipped] == ["a-2", "a-3"]
    assert all(s.invalid for s in skipped)
    assert skipped[0].reason.startswith("energy contain 1 non-finite value(s)") and "plus" in skipped[1].reason


def test_a_label_that_only_some_rows_have_is_absent_in_the_others(tmp_path: Path) -> None:
    with_stress, without = structures(write(tmp_path / "a.aselmdb", (slab(), {}), (ion(), {})), labels=ASE_LABELS)
    assert "stress" in with_stress.labels and "stress" not in without.labels


def test_a_row_without_any_wanted_label_is_skipped_but_not_invalid(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {}), (molecule("H2"), {}))
    (skipped,) = [item for item in read_aselmdb(path, labels=ENERGY) if isinstance(item, SkippedItem)]
    assert not skipped.invalid and skipped.reason == "has none of the labels energy"


def test_a_key_that_no_row_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {"charge": 0}))
    with pytest.raises(ValueError, match="'Energy' \\(labels.energy.key\\); keys in the file are: charge, energy, forces, stress"):
        list(read_aselmdb(path, labels={"energy": LabelSource(key="Energy", unit="eV")}))


def test_the_file_is_not_changed_by_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {}))
    path.chmod(0o444)
    before = path.read_bytes()
    structures(path)
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".aselmdb-lock") == ["a.aselmdb"]


@pytest.mark.parametrize("length", [0, 100, 5000, 9000])
def test_a_damaged_file_is_named(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {}))
    path.write_bytes(path.read_bytes()[:length].ljust(length, b"x"))
    with pytest.raises(ValueError, match="a.aselmdb"):
        list(read_aselmdb(path, labels=ENERGY))


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no .aselmdb file"):
        read_aselmdb(tmp_path, labels=ENERGY)
    with pytest.raises(FileNotFoundError, match="absent.aselmdb: no such file"):
        read_aselmdb(tmp_path / "absent.aselmdb", labels=ENERGY)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no rows"):
        list(read_aselmdb(write(tmp_path / "empty.aselmdb"), labels=ENERGY))


def test_reading_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(), {}))
    monkeypatch.setitem(__import__("sys").modules, "ase_db_backends", None)
    assert len(structures(path)) == 1


def test_rows_are_those_that_ase_reads(tmp_path: Path) -> None:
    from ase.db import connect

    path = write(tmp_path / "a.aselmdb", (slab(1.0), {}), (slab(2.0), {}), (slab(3.0), {"charge": 1}))
    with connect(path, type="aselmdb") as database:
        database.delete([2])
    kept = [connect(path, type="aselmdb").get(id=k) for k in (1, 3)]
    for structure, row in zip(structures(path, labels=ASE_LABELS), kept, strict=True):
        expected = Structure.from_ase(row.toatoms(), id=f"a-{row.id}")
        np.testing.assert_array_equal(structure.positions, expected.positions)
        np.testing.assert_array_equal(structure.cell, expected.cell)
        np.testing.assert_array_equal(structure.fixed, expected.fixed)
        np.testing.assert_array_equal(structure.labels["forces"], row.forces)
        assert structure.id == expected.id and structure.labels["energy"] == row.energy


def test_the_calculator_alone_is_asked_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(-3.5), {"energy": -1.0}))
    (read,) = structures(path, labels={"energy": LabelSource(key="calculator", unit="eV")})
    assert read.labels["energy"] == -3.5


def test_rounding_is_no_contradiction(tmp_path: Path) -> None:
    (read,) = structures(write(tmp_path / "a.aselmdb", (slab(-3.5), {"energy": -3.5 + 1e-9})))
    assert float(read.labels["energy"]) == pytest.approx(-3.5)


def test_two_readers_may_have_one_file_open(tmp_path: Path) -> None:
    path = write(tmp_path / "a.aselmdb", (slab(-1.0), {}), (slab(-2.0), {}))
    pairs = list(zip(read_aselmdb(path, labels=ENERGY), read_aselmdb(path, labels=ENERGY), strict=True))
    assert [float(one.labels["energy"]) for one, _ in pairs] == [float(two.labels["energy"]) for _, two in pairs] == [-1.0, -2.0]


def test_no_damaged_page_ends_the_process(tmp_path: Path) -> None:
    import multiprocessing

    path = write(tmp_path / "a.aselmdb", *[(slab(-float(k)), {"note": "x" * 3000}) for k in range(1, 20)])
    process = multiprocessing.get_context("fork").Process(target=read_mutants, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def read_mutants(path: Path) -> None:
    original, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(original)
        page, byte = int(rng.integers(len(original) // 4096)), int(rng.integers(150))
        content[4096 * page + byte : 4096 * page + byte + 2] = rng.bytes(2)
        path.write_bytes(bytes(content))
        try:
            list(read_aselmdb(path, labels=ENERGY))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_count_of_rows_beyond_the_file_is_refused(tmp_path: Path) -> None:
    import json
    import zlib

    import lmdb

    path = write(tmp_path / "a.aselmdb", (slab(), {}))
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"nextid", zlib.compress(json.dumps(10**12).encode()))
    with pytest.raises(ValueError, match="nextid is 1000000000000 in a file of"):
        list(read_aselmdb(path, labels=ENERGY))
