"""A folder is searched for whatever ASE reads; what is left out has a reason, and no file is run or changed."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console

from unipot.data.conversion import parts
from unipot.data.conversion.parts import FileSource, format_of
from unipot.data.labels import ASE_LABELS
from unipot.data.readers import detect_format, read_structures
from unipot.data.readers import folder_search as search
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig

ENERGY = {"energy": ASE_LABELS["energy"]}
POSCAR = "Cu\n1.0\n3 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\n0 0 0\n"


def vasprun(energies: list[float]) -> str:
    """What VASP writes of a copper atom in a cube, as far as ASE looks at it."""
    varray = lambda name, rows: f'<varray name="{name}">' + "".join(f"<v>{row}</v>" for row in rows) + "</varray>"  # noqa: E731
    crystal = f'<crystal>{varray("basis", ["3 0 0", "0 3 0", "0 0 3"])}</crystal>{varray("positions", ["0 0 0"])}'
    energy = lambda e: "".join(f'<i name="{name}">{e}</i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))  # noqa: E731
    steps = "".join(
        f"<calculation><scstep><energy>{energy(e)}</energy></scstep><structure>{crystal}</structure>{varray('forces', ['0 0 0'])}"
        f"{varray('stress', ['0 0 0'] * 3)}<energy>{energy(e)}</energy></calculation>"
        for e in energies
    )
    atoms = '<atominfo><atoms>1</atoms><array name="atoms"><set><rc><c>Cu</c><c>1</c></rc></set></array></atominfo>'
    kpoints = f'<kpoints>{varray("kpointlist", ["0 0 0"])}{varray("weights", ["1"])}</kpoints>'
    return f'<?xml version="1.0"?><modeling>{kpoints}{atoms}<structure name="initialpos">{crystal}</structure>{steps}</modeling>'


def labelled(energy: float = 2.0) -> Atoms:
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.5 + 5 * (energy - 1.6)]])
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((2, 3)))
    return atoms


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two VASP runs with all that lies beside them, a trajectory, a database, and files of other kinds; seven frames."""
    root = tmp_path / "dft"
    for name, energies in (("a", [1.0, 1.1]), ("b", [0.9])):
        (root / name).mkdir(parents=True)
        (root / name / "vasprun.xml").write_text(vasprun(energies))
        (root / name / "OUTCAR").write_text("of the same run\n")
        (root / name / "POSCAR").write_text(POSCAR)
        for other in ("INCAR", "KPOINTS"):
            (root / name / other).write_text("ENCUT = 500\n")
    write(root / "md.traj", [labelled(2.0), labelled(2.1)])
    write(root / "rows.db", labelled(2.2))
    write(root / "frames.extxyz", labelled(2.3))
    (root / "empty.log").touch()
    (root / "settings.json").write_text('{"a": 1}')
    (root / "run.py").write_text("raise SystemExit('I was run')\n")
    (root / "own.unipot").mkdir()
    (root / "own.unipot" / "metadata.json").write_text("{}")
    os.symlink(root / "a", root / "link")
    return root


def names(files: list[Path]) -> list[str]:
    return sorted(file.name for file in files)


def test_every_kind_of_labelled_file_is_found_and_the_rest_has_a_reason(runs):
    found = search.search(runs)
    assert names(found.by_kind["ase"]) == ["frames.extxyz", "md.traj", "rows.db", "vasprun.xml", "vasprun.xml"]
    assert {reason: names(files) for reason, files in found.left_out.items()} == {
        search.SAME_RUN: ["OUTCAR", "OUTCAR"],
        search.NO_LABELS: ["POSCAR", "POSCAR"],
        search.UNKNOWN: ["INCAR", "INCAR", "KPOINTS", "KPOINTS", "run.py", "settings.json"],
        search.EMPTY: ["empty.log"],
        search.STORES: ["own.unipot"],
        search.NOT_FOLLOWED: ["link"],
    }


def test_prepare_reads_the_folder_and_says_once_what_it_left_out(runs, tmp_path, capsys):
    store = prepare(PrepareConfig(path=str(runs), level_of_theory="PBE", out=f"{tmp_path}/o.unipot"), Console(width=200))
    said = capsys.readouterr().out
    assert store.metadata["label_counts"] == {"energy": 7, "forces": 7, "stress": 3}
    assert said.count("POSCAR (2); their format holds no energies and forces") == 1
    assert said.count("OUTCAR (2); another file beside them holds the same calculation") == 1
    assert said.count("the frames of each of the 5 files are a group") == 1


def test_frames_of_one_file_are_one_group_unless_told_otherwise(runs, tmp_path):
    read = lambda **options: [i for i in read_structures(runs, labels=ENERGY, **options)]  # noqa: E731
    assert [(s.id, s.group) for s in read() if s.group.startswith("a/")] == [("a/vasprun-0", "a/vasprun"), ("a/vasprun-1", "a/vasprun")]
    assert {s.group for s in read(group_key="")} == {""}
    source = FileSource(path=str(runs), labels=ENERGY, format="ase")
    structures = lambda source: [s for part in source.parts() for s in source.items(part) if isinstance(s, Structure)]  # noqa: E731
    assert [(s.id, s.group) for s in structures(source)] == [(s.id, s.group) for s in read()]
    assert {s.group for s in structures(FileSource(path=str(runs / "md.traj"), labels=ENERGY, format="ase"))} == {""}


def test_small_files_share_a_part_and_a_long_file_is_cut(runs, monkeypatch):
    whole = FileSource(path=str(runs), labels=ENERGY, format="ase")
    assert whole.parts() == ["files 1 to 5"]
    monkeypatch.setattr(parts, "_SMALLEST_BUNDLE", 1500)
    monkeypatch.setattr(parts, "_SMALLEST_PIECE", 100)
    write(runs / "frames.extxyz", [labelled(2.0 + 0.1 * k) for k in range(4)])
    cut = FileSource(path=str(runs), labels=ENERGY, format="ase")
    assert [part for part in cut.parts() if part.startswith("frames.extxyz#")] and len(cut.parts()) > 4
    ids = lambda source: [s.id for part in source.parts() for s in source.items(part) if hasattr(s, "labels")]  # noqa: E731
    assert ids(cut) == ids(FileSource(path=str(runs), labels=ENERGY, format="ase")) and len(ids(cut)) == 10


def test_a_folder_of_runs_is_no_hugging_face_dataset(runs):
    assert detect_format(runs) == format_of(str(runs)) == format_of(f"{runs}/*/vasprun.xml") == "ase"


def test_a_folder_without_labels_says_what_is_in_it(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR)
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(FileNotFoundError, match="nothing with labels .*POSCAR; their format holds no .*notes.txt; ASE does not read"):
        detect_format(tmp_path)


def test_one_run_that_cannot_be_read_is_named_or_skipped(runs, tmp_path):
    (runs / "b" / "vasprun.xml").write_text(vasprun([0.9])[:200])
    config = PrepareConfig(path=str(runs), level_of_theory="PBE", out=f"{tmp_path}/o.unipot")
    with pytest.raises(ValueError, match=r"b/vasprun: frame 0 cannot be read by ASE .*on_invalid=skip"):
        prepare(config, Console(quiet=True))
    config.on_invalid = "skip"
    store = prepare(config, Console(quiet=True))
    assert len(store) == 6
    assert [json.loads(line)["id"] for line in (store.path / "quarantine.jsonl").read_text().splitlines()] == ["b/vasprun"]


def test_outputs_of_one_folder_are_paired_by_what_tells_them_apart(tmp_path):
    for name in ("vasprun.relax1.xml", "OUTCAR.relax1", "OUTCAR.relax2", "OUTCAR"):
        (tmp_path / name).write_text("x\n")
    found = search.search(tmp_path)
    assert names(found.by_kind["ase"]) == ["OUTCAR", "OUTCAR.relax2", "vasprun.relax1.xml"]


def test_a_database_of_something_else_is_not_written_to(tmp_path):
    with sqlite3.connect(tmp_path / "mail.db") as connection:
        connection.execute("CREATE TABLE mail (text TEXT)")
    connection.close()
    before = (tmp_path / "mail.db").read_bytes()
    assert search.search(tmp_path).left_out == {search.UNREADABLE: [tmp_path / "mail.db"]}
    with pytest.raises(ValueError, match="it is a database of something else"):
        list(read_structures(tmp_path / "mail.db", labels=ENERGY))
    assert (tmp_path / "mail.db").read_bytes() == before


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "frames.xyz")
    assert search.search(tmp_path).left_out == {search.NOT_FOLLOWED: [tmp_path / "frames.xyz"]}


@pytest.mark.parametrize("name", ["from_OUTCAR.xyz", "my_vasp_run.xyz", "x@5.xyz", "a b.extxyz", "CONFIG.XYZ"])
def test_the_suffix_of_xyz_files_counts_whatever_else_is_in_the_name(tmp_path, name):
    write(tmp_path / name, labelled(), format="extxyz")
    (structure,) = read_structures(tmp_path / name, labels=ENERGY)
    assert float(structure.labels["energy"]) == 2.0


def test_an_at_sign_in_the_name_of_any_file_is_part_of_it(tmp_path):
    write(tmp_path / "md@300K.traj", labelled())
    assert len(list(read_structures(tmp_path / "md@300K.traj", labels=ENERGY))) == 1


def test_rows_of_databases_bring_their_pairs_and_data(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "rows.db") as database:
        database.write(Atoms("H"), REF_energy=-2.0, charge=1, data={"spin": 2})
    source = {"energy": ASE_LABELS["energy"].__class__(key="REF_energy", unit="eV")}
    (structure,) = read_structures(tmp_path / "rows.db", labels=source)
    assert (float(structure.labels["energy"]), structure.total_charge, structure.spin_multiplicity) == (-2.0, 1.0, 2)
