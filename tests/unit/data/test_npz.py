"""npz reader: numbers are read, objects are never unpickled, and damage is a sentence that names the file."""

import numpy as np
import pytest

from unipot.data.readers.npz import read_npz


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


@pytest.fixture
def file(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", E=np.arange(400.0), name=np.array(Bomb(), dtype=object), e_unit="eV")
    return tmp_path / "set.npz"


def test_arrays_beside_an_object_are_read(file):
    arrays = read_npz(file, ("E",), optional=("e_unit", "r_unit"))
    np.testing.assert_array_equal(arrays["E"], np.arange(400.0))
    assert str(arrays["e_unit"]) == "eV" and "r_unit" not in arrays


def test_an_object_is_refused(file):
    with pytest.raises(ValueError, match=r"set\.npz: array 'name' holds Python objects, which would have to be unpickled"):
        read_npz(file, ("name",))


def test_a_missing_array_is_named(file):
    with pytest.raises(ValueError, match=r"set\.npz has no array 'F'; it has: E, name, e_unit"):
        read_npz(file, ("E", "F"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz: no such file"):
        read_npz(tmp_path / "gone.npz", ("E",))


@pytest.mark.parametrize("content", [b"", b"<html>login</html>", b"PK\x03\x04 cut short"])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz is not a complete \.npz archive"):
        read_npz(tmp_path / "set.npz", ("E",))


def test_a_truncated_archive_is_refused(file):
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"set\.npz is not a complete \.npz archive; it is cut short"):
        read_npz(file, ("E",))


def test_damage_inside_the_archive_is_refused(file):
    content = bytearray(file.read_bytes())
    content[60:200] = bytes(140)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz.* damaged"):
        read_npz(file, ("E",))
