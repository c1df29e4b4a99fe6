"""Bad data on the command line: one sentence and exit code 2, or an entry in the quarantine; never a store that is half written."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.cli import main
from unipot.data.quality.quarantine import read_quarantine
from unipot.data.storage.shard import ShardWriter
from unipot.data.store import Store
from unipot.resources import data_recipes_dir

WATER = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]


def water(k: int = 0, **labels: object) -> Atoms:
    atoms = Atoms("OHH", positions=np.array(WATER) + 0.3 * np.random.default_rng(k).random((3, 3)))
    atoms.calc = SinglePointCalculator(atoms, **(labels or {"energy": -14.0, "forces": np.zeros((3, 3))}))
    return atoms


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `unipot prepare` with these words; its one sentence, after checking that nothing reads as a store."""

    def run(*words: str) -> str:
        capsys.readouterr()
        out = tmp_path / "out.unipot"
        assert main(["prepare", f"out={out}", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("unipot: error: ") and "Traceback" not in error
        assert not out.exists()
        return error

    return run


@pytest.fixture
def prepared(tmp_path: Path):
    """Run `unipot prepare` with these words; the store."""

    def run(*words: str) -> Store:
        assert main(["prepare", f"out={tmp_path / 'out.unipot'}", *words]) == 0
        return Store(tmp_path / "out.unipot")

    return run


def path(file: Path) -> list[str]:
    return [f"path={file}", "level_of_theory=PBE"]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)])
def test_truncated_compressed_file(tmp_path, refused, suffix, compress):
    write(tmp_path / "w.extxyz", [water(k) for k in range(200)])
    content = compress((tmp_path / "w.extxyz").read_bytes())
    (tmp_path / f"w.extxyz.{suffix}").write_bytes(content[: len(content) // 2])
    error = refused(*path(tmp_path / f"w.extxyz.{suffix}"))
    assert f"w.extxyz.{suffix} is cut short or damaged" in error


def test_truncated_hdf5(tmp_path, refused):
    raw = shutil.copytree(data_recipes_dir() / "spice2" / "sample", tmp_path / "raw")
    (file,) = raw.glob("*.hdf5")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert file.name in refused("recipe=spice2", f"raw={raw}", "verify=false")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that reads `frames.tar.gz`, and its raw folder beside it."""
    folder, raw = tmp_path / "mine", tmp_path / "raw"
    shutil.copytree(data_recipes_dir() / "_template", folder)
    raw.mkdir()
    with tarfile.open(raw / "all.tar.gz", "w:gz") as tar:
        tar.add(folder / "sample" / "frames.jsonl.gz", "frames.jsonl.gz")
    text = (folder / "recipe.py").read_text().replace("raw.glob", '(raw / "all").glob').replace("raw / part", 'raw / "all" / part')
    (folder / "recipe.py").write_text(text)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    digest = hashlib.sha256((raw / "all.tar.gz").read_bytes()).hexdigest()
    source = {"file": "all.tar.gz", "urls": ["http://127.0.0.1:9/all.tar.gz"], "sha256": digest, "unpack": "tar"}
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "name": "mine", "sources": [source]}))
    return folder


def test_good_archive_becomes_a_store(recipe, tmp_path, prepared):
    assert len(prepared(f"recipe={recipe}", f"raw={tmp_path / 'raw'}")) == 2


def test_truncated_tar(recipe, tmp_path, refused):
    file = tmp_path / "raw" / "all.tar.gz"
    file.write_bytes(file.read_bytes()[:-100])
    assert "all.tar.gz cannot be unpacked" in refused(f"recipe={recipe}", f"raw={tmp_path / 'raw'}", "verify=false")


def test_wrong_hash(recipe, tmp_path, refused):
    (tmp_path / "raw" / "all.tar.gz").write_bytes(b"something else")
    assert "all.tar.gz: sha256 is" in refused(f"recipe={recipe}", f"raw={tmp_path / 'raw'}")


def test_web_page_instead_of_a_file(recipe, tmp_path, refused):
    (tmp_path / "raw" / "all.tar.gz").write_bytes(b"<!DOCTYPE html><html>Please log in</html>")
    assert "is a web page, not the file" in refused(f"recipe={recipe}", f"raw={tmp_path / 'raw'}", "verify=false")


def test_missing_raw_file_is_listed(recipe, tmp_path, refused, monkeypatch):
    monkeypatch.setenv("UNIPOT_RAW", str(tmp_path / "cache"))
    (tmp_path / "cache" / "mine").mkdir(parents=True)
    error = refused(f"recipe={recipe}", "offline=true")
    assert f"{tmp_path / 'cache' / 'mine' / 'all.tar.gz'} from http://127.0.0.1:9/all.tar.gz" in error


def test_unknown_recipe(refused):
    assert "recipe 'mptrjj' is not known (did you mean 'mptrj'?)" in refused("recipe=mptrjj")


def test_full_disk_is_noticed_before_the_work(tmp_path, refused, monkeypatch):
    write(tmp_path / "w.extxyz", [water()])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 100))
    error = refused(*path(tmp_path / "w.extxyz"))
    assert "needs about" in error and "100 bytes are free" in error and "check_disk=false" in error


def test_disk_that_fills_up_leaves_what_can_be_continued(tmp_path, refused, monkeypatch):
    write(tmp_path / "w.extxyz", [water(k) for k in range(9)])
    words = [*path(tmp_path / "w.extxyz"), "structures_per_shard=3"]
    original = ShardWriter._finish

    def full(self: ShardWriter) -> None:
        if self.name.endswith("000002"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self)

    monkeypatch.setattr(ShardWriter, "_finish", full)
    assert "is full" in refused(*words)
    shards = {p.name: p.stat().st_ino for p in (tmp_path / ".out.unipot.partial" / "shards").iterdir()}
    assert set(shards) == {"000000-000000", "000000-000001"}
    monkeypatch.setattr(ShardWriter, "_finish", original)
    assert main(["prepare", f"out={tmp_path / 'out.unipot'}", *words]) == 0
    assert len(Store(tmp_path / "out.unipot")) == 9 and not (tmp_path / ".out.unipot.partial").exists()


def test_folder_that_must_not_be_written_to(tmp_path, refused, monkeypatch):
    write(tmp_path / "w.extxyz", [water()])
    original = Path.mkdir

    def mkdir(self: Path, *arguments: object, **options: object) -> None:
        if ".out.unipot.partial" in str(self):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        original(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "no permission for" in refused(*path(tmp_path / "w.extxyz"))


def test_frame_without_energy_keeps_its_forces_and_one_without_labels_is_counted(tmp_path, prepared):
    bare = Atoms("OHH", positions=WATER)
    write(tmp_path / "w.extxyz", [water(), water(1, forces=np.zeros((3, 3))), bare])
    store = prepared(*path(tmp_path / "w.extxyz"))
    assert store.metadata["label_counts"] == {"energy": 1, "forces": 2}
    assert json.loads((store.path / "census.json").read_text())["skipped"]["it has none of the labels energy, forces"]["items"] == 1


def test_file_without_energies(tmp_path, refused):
    write(tmp_path / "w.extxyz", [water(1, forces=np.zeros((3, 3)))])
    assert "no frame has the label key 'energy'" in refused(*path(tmp_path / "w.extxyz"))


def test_duplicate_ids(tmp_path, refused):
    frames = [water(k) for k in range(3)]
    for atoms, name in zip(frames, ("a", "b", "a"), strict=True):
        atoms.info["name"] = name
    write(tmp_path / "w.extxyz", frames)
    error = refused(*path(tmp_path / "w.extxyz"), "id_key=name")
    assert "'a'" in error and "this id was used before" in error


def test_element_symbols_from_the_wrong_column(tmp_path, refused):
    write(tmp_path / "w.extxyz", [water()])
    text = (tmp_path / "w.extxyz").read_text()
    (tmp_path / "w.extxyz").write_text(text.replace("\nO ", "\nOW1 ").replace("\nH ", "\nHW2 "))
    error = refused(*path(tmp_path / "w.extxyz"))
    assert "w.extxyz, line 3: frame 0 cannot be read" in error and "which is no element symbol" in error
    (tmp_path / "w.extxyz").write_text(text.replace("\nO ", "\nX "))
    assert "atomic number 0 is outside 1..118; check which column holds the elements" in refused(*path(tmp_path / "w.extxyz"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.nan), "positions contain 1 non-finite value"),
        (lambda atoms: atoms.set_cell([[3, 0, 0], [6, 0, 0], [0, 0, 3]]), "zero volume"),
        (lambda atoms: atoms.set_cell(np.eye(3) * 1e-3), "lattice planes are 0.001 Å apart"),
    ],
)
def test_broken_geometry_is_refused_or_listed(tmp_path, refused, prepared, spoil, words):
    frames = []
    for _ in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((4, 3)))
        frames.append(atoms)
    calculator = frames[1].calc
    spoil(frames[1])
    frames[1].calc = calculator
    write(tmp_path / "w.extxyz", frames)
    error = refused(*path(tmp_path / "w.extxyz"))
    assert "w-1" in error and words in error and "on_invalid=skip" in error
    store = prepared(*path(tmp_path / "w.extxyz"), "on_invalid=skip")
    (entry,) = read_quarantine(store.path)
    assert len(store) == 1 and entry.id == "w-1" and entry.reason == "invalid" and words in entry.detail


def test_frame_of_a_hundred_thousand_atoms(tmp_path, prepared):
    atoms = bulk("Cu", cubic=True).repeat(30)[:100_000]
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5e5, forces=np.zeros((100_000, 3)))
    write(tmp_path / "w.extxyz", [atoms, water()])
    store = prepared(*path(tmp_path / "w.extxyz"))
    assert store.n_atoms.tolist() == [100_000, 3] and len(store[0].positions) == 100_000


def test_forces_in_another_unit_than_stated(tmp_path, refused):
    frames, rng = [], np.random.default_rng(0)
    for _ in range(40):
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8 + 0.02 * rng.random()]])
        stretch = atoms.positions[1, 2] - 0.74
        force = 40.0 * stretch * 23.06  # kcal/mol/A, stated as eV/A
        atoms.calc = SinglePointCalculator(atoms, energy=20 * stretch**2, forces=np.array([[0, 0, force], [0, 0, -force]]))
        frames.append(atoms)
    write(tmp_path / "w.extxyz", frames)
    error = refused(*path(tmp_path / "w.extxyz"))
    assert "the forces labels contradict the energies" in error and "their unit is wrong" in error


def test_store_of_a_newer_format(tmp_path, prepared, capsys):
    write(tmp_path / "w.extxyz", [water(k) for k in range(4)])
    store = prepared(*path(tmp_path / "w.extxyz"))
    metadata = json.loads((store.path / "metadata.json").read_text())
    (store.path / "metadata.json").write_text(json.dumps({**metadata, "format_version": 99}))
    words = [f"run={tmp_path / 'run'}", "experiment=smoke", f"datasets.w.path={store.path}", "datasets.w.level_of_theory=PBE"]
    capsys.readouterr()
    assert main(["pretrain", *words]) == 2
    assert "store format 99 is newer than this unipot reads" in capsys.readouterr().err
