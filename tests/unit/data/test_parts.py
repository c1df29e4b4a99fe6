"""Sources in parts: every structure once, with the ids and labels that reading in one go gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.conversion import parts
from unipot.data.conversion.parts import FileSource, format_of
from unipot.data.labels import ASE_LABELS, SkippedItem
from unipot.data.readers.extxyz_pieces import find_pieces
from unipot.data.readers.xyz_atoms import read_xyz
from unipot.structure import Structure

ENERGY = {"energy": ASE_LABELS["energy"]}


def read(source: FileSource) -> list[Structure]:
    items = [item for part in source.parts() for item in source.items(part)]
    assert not [item for item in items if isinstance(item, SkippedItem)]
    return items  # type: ignore[return-value]


def test_parquet_is_read_by_row_groups(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"numbers": [[1, 1]] * 23, "positions": [[[0.0, 0, 0], [0, 0, 0.7 + 0.01 * k]] for k in range(23)], "e": range(23)})
    pq.write_table(table, tmp_path / "h2.parquet", row_group_size=4)
    labels = {"energy": ASE_LABELS["energy"].__class__(key="e", unit="eV")}
    source = FileSource(path=str(tmp_path / "h2.parquet"), labels=labels, format="huggingface")
    whole = read(source)
    assert len(source.parts()) == 1 and whole[22].id == "h2-22"
    monkeypatch.setattr(parts, "_ROWS", 6)
    assert source.parts() == ["h2.parquet#0-2-0", "h2.parquet#2-4-8", "h2.parquet#4-6-16"]
    assert [(s.id, float(s.labels["energy"])) for s in read(source)] == [(s.id, float(s.labels["energy"])) for s in whole]


def test_a_split_of_a_folder_is_read_file_by_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, energy in (("train-00000-of-00002", 1.0), ("train-00001-of-00002", 2.0), ("test-00000-of-00001", 3.0)):
        pq.write_table(pa.table({"numbers": [[1]], "positions": [[[0.0, 0, 0]]], "energy": [energy]}), tmp_path / f"{name}.parquet")
    source = FileSource(path=str(tmp_path), labels=ENERGY, format="huggingface", split="train")
    assert [(s.id, float(s.labels["energy"])) for s in read(source)] == [("train-00000-of-00002-0", 1.0), ("train-00001-of-00002-0", 2.0)]


def test_aselmdb_is_read_by_rows(tmp_path, monkeypatch):
    pytest.importorskip("ase_db_backends", reason="ase-db-backends is not installed")
    from ase.db import connect

    with connect(tmp_path / "h.aselmdb", type="aselmdb") as database:
        for k in range(11):
            atoms = Atoms("H")
            atoms.calc = SinglePointCalculator(atoms, energy=float(k))
            database.write(atoms)
    source = FileSource(path=str(tmp_path / "h.aselmdb"), labels=ENERGY, format="aselmdb")
    whole = read(source)
    assert [s.id for s in whole] == [f"h-{k}" for k in range(1, 12)]
    monkeypatch.setattr(parts, "_ROWS", 4)
    assert source.parts() == ["h.aselmdb#1-5", "h.aselmdb#5-9", "h.aselmdb#9-12"]
    assert [(s.id, float(s.labels["energy"])) for s in read(source)] == [(s.id, float(s.labels["energy"])) for s in whole]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12), piece_bytes=st.integers(1, 700), ended=st.booleans())
def test_pieces_hold_every_frame_once_in_order(tmp_path_factory, sizes, piece_bytes, ended):
    file = tmp_path_factory.mktemp("pieces") / "a.xyz"
    frames = [Atoms("H" * n, positions=np.arange(3.0 * n).reshape(n, 3) + k) for k, n in enumerate(sizes)]
    write(file, frames, format="extxyz")
    if not ended:
        file.write_bytes(file.read_bytes().rstrip(b"\n"))
    pieces = find_pieces(file, piece_bytes)
    assert pieces is not None and pieces[0].start == 0 and pieces[-1].stop == file.stat().st_size
    assert [a.stop for a in pieces[:-1]] == [b.start for b in pieces[1:]]
    found = [list(read_xyz(file, piece)) for piece in pieces]
    assert [piece.first_frame for piece in pieces] == np.cumsum([0, *map(len, found)])[:-1].tolist()
    again = [atoms for frames_of_piece in found for atoms in frames_of_piece]
    assert [len(atoms) for atoms in again] == sizes
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(again, frames, strict=True))


@pytest.mark.parametrize("text", ["not a number\n", "2\nno atoms\nH 0 0 0\n", "1\nc\nH 0 0 0\nH 0 0 1\n"])
def test_lines_that_are_not_frames_give_no_pieces(tmp_path: Path, text: str):
    (tmp_path / "a.xyz").write_text(text)
    assert find_pieces(tmp_path / "a.xyz", 10) is None


def test_empty_lines_between_and_behind_frames_are_harmless(tmp_path):
    (tmp_path / "a.xyz").write_text("1\nc\nH 0 0 0\n\n \n1\nc\nH 0 0 0\n\n")
    assert [piece.first_frame for piece in find_pieces(tmp_path / "a.xyz", 10)] == [0, 1]


def test_formats_of_folders_and_patterns(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.extxyz.gz").touch()
    (tmp_path / "y.parquet").touch()
    assert format_of(str(tmp_path / "a")) == "ase" and format_of(str(tmp_path / "*.parquet")) == "huggingface"
    with pytest.raises(ValueError, match="several formats"):
        format_of(str(tmp_path / "**" / "*.*"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        FileSource(path=str(tmp_path / "*.xyz"), labels=ENERGY, format="ase").parts()


def test_columns_are_for_tables(tmp_path):
    with pytest.raises(ValueError, match="columns.positions is for Hugging Face datasets, not format 'ase'"):
        FileSource(path="a.xyz", labels=ENERGY, format="ase", columns={"positions": "xyz"})
    with pytest.raises(ValueError, match="split is for Hugging Face datasets, not format 'ase'"):
        FileSource(path="a.xyz", labels=ENERGY, format="ase", split="train")


def _write_h2(path: Path) -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    write(path, [atoms] * 2, format="extxyz")


def test_a_file_name_may_hold_a_number_sign(tmp_path):
    _write_h2(tmp_path / "a#1.xyz")
    assert [s.id for s in read(FileSource(path=str(tmp_path / "a#1.xyz"), labels=ENERGY, format="ase"))] == ["a#1-0", "a#1-1"]


def test_files_that_differ_in_their_suffix_alone_keep_their_ids_apart(tmp_path):
    for name in ("x.xyz", "x.extxyz"):
        _write_h2(tmp_path / name)
    ids = [s.id for s in read(FileSource(path=str(tmp_path), labels=ENERGY, format="ase"))]
    assert len(set(ids)) == len(ids) == 4


def test_a_folder_of_several_formats_is_refused(tmp_path):
    _write_h2(tmp_path / "stray.xyz")
    (tmp_path / "data0000.aselmdb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several formats \(ase, aselmdb\); state format="):
        format_of(str(tmp_path))
