"""HDF5 reader: parts cover the groups once, and whatever is wrong with a file is one clear sentence that names it."""

import builtins
import lzma

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.data.readers.hdf5 import group_names, group_parts, open_hdf5, read_array, read_groups, read_text, unpack_xz

NAMES = [f"mol{k}" for k in (3, 1, 2, 10, 5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hdf5")
    with h5py.File(folder / "set.h5", "w", libver="latest") as file:
        for k, name in enumerate(NAMES):
            group = file.create_group(name)
            group["energy"] = np.arange(3) + 10.0 * k
            group["energy"].attrs["units"] = "hartree"
            group.create_dataset("smiles", data=[name], dtype=h5py.string_dtype())
            file.create_group(f"split/{name}/inner{k}")["x"] = k
    return folder


@given(groups_per_part=st.integers(1, 8))
def test_parts_cover_every_group_once_in_order(folder, groups_per_part):
    parts = group_parts(folder, "set.h5", groups_per_part=groups_per_part)
    names = [name for part in parts for name, _ in read_groups(folder, part)]
    assert names == sorted([*NAMES, "split"])
    assert len(set(parts)) == len(parts) == -(-len(names) // groups_per_part)


def test_groups_of_a_folder_two_levels_down(folder):
    parts = group_parts(folder, "set.h5", groups_per_part=2, folder="split", depth=2)
    assert parts == ["set.h5#split:0-1", "set.h5#split:2-3", "set.h5#split:4-4"]
    read = {name: int(group["x"][()]) for part in parts for name, group in read_groups(folder, part, depth=2)}
    assert read == {f"{name}/inner{k}": k for k, name in enumerate(NAMES)}


def test_arrays_and_texts_are_read(folder):
    ((_, group),) = read_groups(folder, "set.h5#0-0")
    with open_hdf5(folder / "set.h5") as file:
        np.testing.assert_array_equal(read_array(file["mol1"], "energy", unit="hartree"), [10.0, 11.0, 12.0])
        assert read_text(file["mol1"], "smiles") == "mol1"


@pytest.mark.parametrize(
    ("name", "unit", "message"),
    [
        ("forces", None, "group 'mol1' has no dataset 'forces'; it has: energy, smiles"),
        ("energy", "eV", "group 'mol1': dataset 'energy' has units 'hartree', expected 'eV'"),
    ],
)
def test_a_missing_dataset_and_another_unit_are_refused(name, unit, message, folder):
    with open_hdf5(folder / "set.h5") as file, pytest.raises(ValueError, match=f"set.h5: {message}"):
        read_array(file["mol1"], name, unit)


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5: no such file; download it, or give the raw folder that holds gone\.h5"):
        group_names(tmp_path / "gone.h5")


def test_truncated_file_says_how_much_is_missing(folder, tmp_path):
    whole = (folder / "set.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"cut\.h5 is cut short: it has {len(whole) // 2} bytes of {len(whole)}; fetch it again"):
        group_names(tmp_path / "cut.h5")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html><html>sign in", "it is a web page, as servers send for a wrong address or a login; "),
        (b"", "it is empty; "),
        (b"PK\x03\x04 something else", ""),
    ],
)
def test_foreign_file_is_refused(content, why, tmp_path):
    (tmp_path / "foreign.h5").write_bytes(content)
    with pytest.raises(ValueError, match=rf"foreign\.h5 is not an HDF5 file; {why}fetch it again"):
        group_names(tmp_path / "foreign.h5")


def test_damage_inside_a_file_names_the_file(folder, tmp_path):
    """Every byte in turn is not worth the time: a block of zeros walks through the file."""
    whole, refused = (folder / "set.h5").read_bytes(), 0
    for start in range(64, len(whole), max(64, len(whole) // 40)):
        (tmp_path / "bad.h5").write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            for name, group in read_groups(tmp_path, "bad.h5#0-4"):
                read_array(group, "energy") if name != "split" else None
        except ValueError as error:
            assert "bad.h5" in str(error)
            refused += 1
    assert refused > 2


@pytest.mark.parametrize("part", ["set.h5", "set.h5#1", "set.h5#0-5-6", "set.h5#a-b"])
def test_a_part_that_is_none_is_refused(part, folder):
    with pytest.raises(ValueError, match="is not of the form <file>#<first>-<last>"):
        next(read_groups(folder, part))


def test_a_part_of_another_file_is_refused(folder):
    with pytest.raises(ValueError, match="part 'set.h5#4-9' ends behind the last of the 6 groups"):
        next(read_groups(folder, "set.h5#4-9"))


def test_a_folder_that_is_not_in_the_file_is_named(folder):
    with pytest.raises(ValueError, match=r"set\.h5 has no group 'train'; it has: mol1, mol10, mol2, mol3, mol5, split"):
        group_parts(folder, "set.h5", groups_per_part=1, folder="train")


def test_missing_h5py_names_the_extra(folder, monkeypatch):
    imported = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ImportError, match=r"set\.h5: reading HDF5 needs h5py; install it with: pip install 'unipot\[recipes\]'"):
        group_names(folder / "set.h5")


def test_xz_is_unpacked_once(tmp_path):
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"content"))
    target = unpack_xz(tmp_path / "a.xz", tmp_path / "a" / "a")
    assert target.read_bytes() == b"content"
    target.write_bytes(b"kept")
    assert unpack_xz(tmp_path / "a.xz", target).read_bytes() == b"kept"


def test_truncated_xz_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.xz").write_bytes(lzma.compress(np.random.default_rng(0).bytes(5000))[:2000])
    with pytest.raises(ValueError, match=r"a\.xz cannot be unpacked \(.*\); fetch it again"):
        unpack_xz(tmp_path / "a.xz", tmp_path / "a" / "a")
    assert list((tmp_path / "a").iterdir()) == []
