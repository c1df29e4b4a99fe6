"""XYZ files as people have them: every frame is read and equals what ASE reads, or the line that is at fault is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import iread, write
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.readers import xyz_frames
from unipot.data.readers.extxyz_pieces import find_pieces
from unipot.data.readers.xyz_atoms import UNNAMED_COLUMNS, read_xyz

NUMBER = st.floats(-1e6, 1e6).map(lambda x: round(x, 8))
#: without backslashes, which ASE does not write so that it could read them
WORD = st.text("abcdef _-\"'={}[]éÅ", min_size=1, max_size=10).map(lambda text: f"x{text}".strip())


@st.composite
def frame(draw) -> Atoms:
    n = draw(st.integers(1, 6))
    triples = st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=n, max_size=n).map(np.array)
    atoms = Atoms(draw(st.lists(st.sampled_from(["H", "Cl", "Cu", "U"]), min_size=n, max_size=n)), positions=draw(triples))
    if draw(st.booleans()):
        atoms.set_cell(np.diag(draw(st.tuples(*[st.floats(1, 20).map(lambda x: round(x, 6))] * 3))))
        atoms.pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    keys = st.sampled_from(["config", "REF_energy", "step", "charge"])
    atoms.info = draw(st.dictionaries(keys, st.one_of(NUMBER, WORD, st.integers(-9, 9))))
    if draw(st.booleans()):
        atoms.arrays["dft_forces"] = draw(triples)
    if draw(st.booleans()):
        atoms.arrays["mask"] = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if draw(st.booleans()):
        atoms.calc = SinglePointCalculator(atoms, energy=draw(NUMBER), forces=draw(triples))
    return atoms


def as_text(frames: list[Atoms]) -> str:
    buffer = io.StringIO()
    write(buffer, frames, format="extxyz")
    return buffer.getvalue()


def read(path) -> list[Atoms]:
    return list(read_xyz(path))


def assert_equal(ours: Atoms, ases: Atoms) -> None:
    for name in ("numbers", "positions", "cell", "pbc"):
        assert np.array_equal(getattr(ours, name), getattr(ases, name)), name
    assert ours.info.keys() == {key for key, value in ases.info.items() if value is not True or key in ours.info}
    assert all(np.array_equal(value, ases.info[key]) for key, value in ours.info.items())
    assert ours.arrays.keys() == ases.arrays.keys() and all(np.array_equal(ours.arrays[name], ases.arrays[name]) for name in ours.arrays)
    results = ases.calc.results if ases.calc else {}
    assert (ours.calc.results if ours.calc else {}).keys() == results.keys()
    assert all(np.array_equal(ours.calc.results[name], value) for name, value in results.items())


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(frame(), min_size=1, max_size=4),
    blank=st.sampled_from(["", "\n", " \n\n", "\t\n"]),
    end=st.sampled_from(["\n", "\r\n", " \n", "\t\n"]),
    separator=st.sampled_from([None, "\t", "   "]),
    piece_bytes=st.integers(1, 600),
    ended=st.booleans(),
)
def test_frames_that_ase_wrote_are_read_as_ase_reads_them(tmp_path_factory, frames, blank, end, separator, piece_bytes, ended):
    folder = tmp_path_factory.mktemp("xyz")
    clean = as_text(frames)
    (folder / "clean.xyz").write_text(clean, encoding="utf-8")
    # as editors, spreadsheets and other systems leave them
    blocks = []
    lines = iter(clean.splitlines())
    for count in lines:
        comment, *atoms = [next(lines) for _ in range(int(count) + 1)]
        atoms = [line if separator is None else separator.join(line.split()) for line in atoms]
        blocks.append(end.join([f"  {count} ", comment, *atoms]) + end)
    messy = (blank.join(blocks) + blank).encode()
    (folder / "messy.xyz").write_bytes(messy if ended else messy.rstrip())
    expected = list(iread(str(folder / "clean.xyz"), ":", format="extxyz"))
    found = read(folder / "messy.xyz")
    assert len(found) == len(expected) == len(frames)
    for ours, ases in zip(found, expected, strict=True):
        assert_equal(ours, ases)
    pieces = find_pieces(folder / "messy.xyz", piece_bytes)
    again = [atoms for piece in pieces for atoms in read_xyz(folder / "messy.xyz", piece)]
    assert [atoms.positions.tolist() for atoms in again] == [atoms.positions.tolist() for atoms in found]


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(frame(), min_size=1, max_size=3), data=st.data())
def test_a_lost_or_doubled_line_is_refused(tmp_path_factory, frames, data):
    file = tmp_path_factory.mktemp("xyz") / "damaged.xyz"
    lines = as_text(frames).splitlines()
    place = data.draw(st.integers(0, len(lines) - 1))
    damaged = [*lines[:place], *lines[place + 1 :]] if data.draw(st.booleans()) else [*lines[: place + 1], *lines[place:]]
    file.write_text("\n".join(damaged) + "\n", encoding="utf-8")
    try:
        found = read(file)
    except ValueError as error:
        assert "damaged.xyz, line " in str(error)
    else:  # a lost first line of a frame of one atom, or the like, leaves a file of other frames at most where the text allows it
        assert len(damaged) == sum(len(atoms) + 2 for atoms in found)


BLOCK = '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0\nH 0 0 0 0 0 1\nH 0 0 0.7 0 0 -1\n'


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("H 0 0 0.7 0 0 -1\n", ""), "line 8: frame 1 cannot be read: .* 7 columns that Properties states: one has 1"),
        (("0 0 -1\n", "0 0 -1\nH 0 0 2\n"), "line 5: frame 1 cannot be read: the number of atoms should stand here, but it says 'H 0 0 2'"),
        (("0 0 -1", "0 -1"), "line 4: frame 0 cannot be read: .* 7 columns that Properties states: one has 6"),
        (("0 0 -1", "0 0 -1 5"), "line 4: frame 0 cannot be read: .* 7 columns that Properties states: one has 8"),
        (("0 0 -1", "0 0 ****"), r"line 4: frame 0 cannot be read: its column 'forces' holds '\*\*\*\*', which is no number"),
        (("0 0 -1", "0 0 1_0"), "line 4: frame 0 cannot be read: its column 'forces' holds '1_0', which is no number"),
        (("H 0 0 0.7", "Qq 0 0 0.7"), "line 4: frame 0 cannot be read: .* 'Qq', which is no element symbol"),
        (("H 0 0 0.7", "1 0 0 0.7"), "line 4: frame 0 cannot be read: .* '1', which is no element symbol; .* Z:I:1"),
        (("energy", 'Lattice="1 2 3" energy'), "line 2: frame 0 cannot be read: its Lattice '1 2 3' is not nine numbers"),
        (("energy", 'pbc="T maybe F" energy'), "line 2: frame 0 cannot be read: its pbc 'T maybe F' is not three of T and F"),
        (("pos:R:3", "place:R:3"), "line 2: frame 0 cannot be read: Properties=.* has no columns species and pos"),
        (("2\nP", "2.0\nP"), "line 1: frame 0 cannot be read: the number of atoms should stand here, but it says '2.0'"),
        (("2\nP", "\x00\x00\nP"), "line 1: frame 0 cannot be read: the number of atoms should stand here"),
        (("2\nP", "99999999999999\nP"), "line 1: frame 0 cannot be read: the file ends within this frame, behind 6 of 9+ atoms"),
    ],
)
def test_damage_is_one_sentence_with_the_line(tmp_path, damage, said):
    text = BLOCK.replace(*damage, 1) + BLOCK if damage[1] else BLOCK + BLOCK.replace(*damage, 1) + BLOCK
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xyz, {said}"):
        read(tmp_path / "a.xyz")


def test_a_piece_counts_lines_and_frames_from_the_beginning_of_the_file(tmp_path):
    (tmp_path / "a.xyz").write_text(BLOCK + "\n" + BLOCK + BLOCK.replace("-1\n", "--1\n"))
    *_, last = find_pieces(tmp_path / "a.xyz", 1)
    with pytest.raises(ValueError, match=r"a\.xyz, line 13: frame 2 cannot be read: .* '--1'"):
        list(read_xyz(tmp_path / "a.xyz", last))


def test_frames_longer_than_what_is_read_at_a_time(tmp_path, monkeypatch):
    (tmp_path / "a.xyz").write_text((BLOCK + "\n") * 5)
    whole = read(tmp_path / "a.xyz")
    monkeypatch.setattr(xyz_frames, "_SCAN_BYTES", 7)
    assert [atoms.get_potential_energy() for atoms in read(tmp_path / "a.xyz")] == [a.get_potential_energy() for a in whole] == [-1.0] * 5


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_archives_are_read_whole_or_called_damaged(tmp_path, suffix, pack):
    file = tmp_path / f"a.xyz{suffix}"
    packed = pack((BLOCK * 300 + "\n" + BLOCK).encode())
    file.write_bytes(packed)
    assert len(read(file)) == 301
    file.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=rf"a\.xyz{suffix} is cut short or damaged"):
        read(file)


def test_a_byte_order_mark_and_another_encoding_of_the_comment_are_no_damage(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"\xef\xbb\xbf" + BLOCK.replace("energy", "unit=Å energy").encode("latin-1"))
    (atoms,) = read(tmp_path / "a.xyz")
    assert atoms.info["unit"] == "xc5" and len(atoms) == 2


def test_format_keys_in_lower_case_are_what_they_are(tmp_path):
    text = BLOCK.replace("Properties", 'lattice="9 0 0 0 9 0 0 0 9" PBC="T T F" properties')
    (tmp_path / "a.xyz").write_text(text)
    (atoms,) = read(tmp_path / "a.xyz")
    assert atoms.cell.lengths().tolist() == [9, 9, 9] and atoms.pbc.tolist() == [True, True, False] and "forces" in atoms.calc.results


def test_columns_behind_those_that_are_named_are_counted(tmp_path):
    (tmp_path / "a.xyz").write_text("2\nenergy=1\nH 0 0 0 0.1 0.2\nH 0 0 1 0.1 0.2\n")
    (atoms,) = read(tmp_path / "a.xyz")
    assert atoms.info[UNNAMED_COLUMNS] == 2


def test_lattice_vectors_behind_the_atoms_are_the_cell(tmp_path):
    text = "1\nc\nH 0 0 0\nVEC1 3 0 0\nVEC2 0 4 0\n"
    (tmp_path / "a.xyz").write_text(text + "\n" + text)
    for atoms in read(tmp_path / "a.xyz"):
        assert atoms.cell.lengths().tolist() == [3, 4, 0] and atoms.pbc.tolist() == [True, True, False]


def test_deuterium_and_tritium_are_hydrogen_of_their_mass(tmp_path):
    (tmp_path / "a.xyz").write_text("4\nenergy=1\nO 0 0 0\nD 0 0 1\nT 0 1 0\nH 1 0 0\n")
    (atoms,) = read(tmp_path / "a.xyz")
    assert atoms.numbers.tolist() == [8, 1, 1, 1]
    assert atoms.get_masses() == pytest.approx([15.999, 2.0141, 3.0160, 1.008], abs=1e-3)


def test_nine_numbers_of_a_stress_stay_nine(tmp_path):
    stress = "1 2 3 4 5 6 7 8 9"
    (tmp_path / "a.xyz").write_text(f'1\nenergy=1 stress="{stress}"\nH 0 0 0\n')
    (atoms,) = read(tmp_path / "a.xyz")
    assert atoms.calc.results["stress"].T.ravel().tolist() == list(range(1, 10))  # so that it can be refused; ASE keeps six


def test_fixed_atoms_are_constraints(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([1]))
    write(tmp_path / "a.xyz", atoms, format="extxyz", columns=["symbols", "positions", "move_mask"])
    (found,) = read(tmp_path / "a.xyz")
    assert found.constraints[0].get_indices().tolist() == [1]
