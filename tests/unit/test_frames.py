"""Files of frames: complete or not there, and nothing of other geometries in them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write

from unipot.simulate import frames
from unipot.simulate.frames import FrameWriter, labels_of, without_labels


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.extxyz.gz", "a.json"])
def test_frames_come_back_in_order_with_their_labels(copper, tmp_path, name):
    writer = FrameWriter(tmp_path / name, [copper], several=True)
    for factor in (1.0, 1.02, 1.04):
        copper.set_cell(3.6 * factor * np.eye(3), scale_atoms=True)
        copper.get_stress()
        writer.write(copper)
    found = read(tmp_path / name, ":")
    assert [atoms.cell[0, 0] for atoms in found] == pytest.approx([3.6, 3.672, 3.744])
    assert found[-1].get_potential_energy() == pytest.approx(copper.get_potential_energy())
    assert np.allclose(found[-1].get_stress(), copper.get_stress(), atol=1e-7) and writer.n_frames == 3


def test_a_writer_leaves_nothing_behind_before_its_first_frame(copper, tmp_path):
    FrameWriter(tmp_path / "new" / "a.extxyz", [copper], several=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_first_frame_that_fails_leaves_the_older_file(copper, tmp_path, monkeypatch):
    write(tmp_path / "a.extxyz", molecule("H2O"))
    writer = FrameWriter(tmp_path / "a.extxyz", [copper], several=True, overwrite=True)

    def full(path, *_, **__):
        path.write_text("4\n")
        raise OSError("No space left on device")

    monkeypatch.setattr(frames, "_append_frame", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write(copper)
    assert [path.name for path in tmp_path.iterdir()] == ["a.extxyz"] and len(read(tmp_path / "a.extxyz")) == 3


def test_a_structure_that_the_format_cannot_hold_is_refused_with_the_reason(copper, tmp_path):
    FrameWriter(tmp_path / "POSCAR", [copper], several=False)
    with pytest.raises(ValueError, match=r"POSCAR: ASE cannot write H2O as vasp \(RuntimeError: .*\); use \.extxyz or \.traj"):
        FrameWriter(tmp_path / "POSCAR", [molecule("H2O")], several=False)


def test_a_file_that_does_not_give_all_structures_back_is_refused(copper, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "_read_back", lambda path, format: read(path, ":1", format=format))
    FrameWriter(tmp_path / "a.extxyz", [copper], several=False)
    with pytest.raises(ValueError, match="frames cannot be added to a file of format extxyz"):
        FrameWriter(tmp_path / "a.extxyz", [copper, copper * 2], several=True)


def test_a_folder_is_no_file(copper, tmp_path):
    (tmp_path / "a.extxyz").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        FrameWriter(tmp_path / "a.extxyz", [copper], several=True, overwrite=True)


def test_what_a_format_does_not_keep_is_known_before_the_work(copper, tmp_path):
    lost = {name: FrameWriter(tmp_path / name, [copper], several=False).lost for name in ("a.traj", "a.json", "a.cif", "a.xsf", "a.py")}
    everything = ("energy", "forces", "stress", "model")
    assert lost == {"a.traj": (), "a.json": ("model",), "a.cif": everything, "a.xsf": ("energy", "stress", "model"), "a.py": everything}


@pytest.mark.parametrize(
    ("value", "stays"),
    [(1.5, False), (np.float32(1.5), False), (np.eye(3), False), ([1.0, 2.0], False), ({"a": 1}, False), (None, False),
     (3, True), (np.int64(3), True), (True, True), ("text", True), (np.array([1, 2]), True)],
)  # fmt: skip
def test_text_and_whole_numbers_of_the_input_stay_and_every_other_number_goes(copper, value, stays):
    copper.info.update(something=value, charge=0.5, energy=3, head="other")
    expected = {"something", "charge"} if stays else {"charge"}
    assert set(labels_of(copper)) == {"something", "charge", "energy"} - expected
    assert set(without_labels(copper).info) == expected
