"""Extended XYZ of the large sets: equal to ASE's reader, and clear about broken frames."""

import io

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from unipot.data.readers.extended_xyz import frame_texts, parse_frame


def frames_of(text: str) -> list:
    return [parse_frame(lines) for lines in frame_texts(text.splitlines(keepends=True), "frames.extxyz")]


def text_of(*images) -> str:
    buffer = io.StringIO()
    write(buffer, list(images), format="extxyz")
    return buffer.getvalue()


def crystal():
    atoms = bulk("NiAl", "cesiumchloride", a=2.9)
    atoms.rattle(0.1, seed=1)
    atoms.arrays["tags"] = np.array([0, 2])
    atoms.arrays["move_mask"] = np.array([True, False])
    atoms.info["name"] = "two words"
    atoms.calc = SinglePointCalculator(atoms, energy=-1.25, forces=np.arange(6.0).reshape(2, 3))
    return atoms


def test_frames_equal_those_of_ase():
    text = text_of(crystal(), molecule("CH3OH"))
    for frame, atoms in zip(frames_of(text), read(io.StringIO(text), ":", format="extxyz"), strict=True):
        assert frame.atomic_numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_array_equal(frame.columns["pos"], atoms.positions)
        np.testing.assert_array_equal(frame.cell, atoms.cell.array)
        assert frame.pbc.tolist() == atoms.pbc.tolist()


def test_columns_keep_their_kind():
    (frame,) = frames_of(text_of(crystal()))
    assert frame.energy == -1.25 and frame.info["name"] == "two words"
    np.testing.assert_array_equal(frame.columns["forces"], np.arange(6.0).reshape(2, 3))
    assert frame.columns["tags"].tolist() == [0, 2] and frame.columns["tags"].dtype == np.int64
    assert frame.columns["move_mask"].tolist() == [True, False]


def test_frame_without_energy():
    (frame,) = frames_of(text_of(molecule("H2O")))
    assert frame.energy is None and not frame.pbc.any() and not frame.cell.any()


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: ["two\n", *lines[1:]],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:2], lines[2].replace("Ni", "Qq"), *lines[3:]],
        lambda lines: [*lines[:2], lines[2].rsplit(None, 1)[0] + "\n", *lines[3:]],
        lambda lines: [*lines[:2], lines[2].replace(".", ".x", 1), *lines[3:]],
        lambda lines: [lines[0], lines[1].replace("Properties=", "Other="), *lines[2:]],
    ],
)
def test_broken_frames_are_refused(damage):
    lines = text_of(crystal()).splitlines(keepends=True)
    with pytest.raises(ValueError):
        frames_of("".join(damage(lines)))


def test_the_end_of_a_longer_key_is_not_a_key():
    text = '1\nProperties=species:S:1:pos:R:3 energy=-3.0 my-energy=2.0 not.energy=1.0\nH 0 0 0\n'
    assert frames_of(text)[0].info["energy"] == "-3.0"
