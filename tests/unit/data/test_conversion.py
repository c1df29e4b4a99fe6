"""Parts into shards: nothing finished is made twice, the result does not depend on workers or on where a run was killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console

from unipot.data.conversion import part_conversion, parts
from unipot.data.conversion.converter import BusyError, Converter
from unipot.data.conversion.part_conversion import ShardSettings
from unipot.data.conversion.parts import FileSource, RecipeSource
from unipot.data.conversion.workers import run_all
from unipot.data.labels import ASE_LABELS, LabelSource
from unipot.data.storage import assembly as store_assembly
from unipot.data.store import Store
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig
from unipot.workflows.stores.make_store import Job, StoreOptions, make_store

CARD = {
    "name": "numbers", "title": "t", "licence": "CC0-1.0", "citation": ["nobody"], "level_of_theory": "toy", "software": {},
    "energy_kind": "total", "elements": ["H"], "properties": {"energy": {"unit": "eV", "sign": "positive", "coverage": "all"}},
    "sources": [], "counts": {}, "command": "unipot prepare recipe=numbers", "group": "all", "quarantine": {}, "known_traps": [],
    "verified": True, "checked": ["everything"],
}  # fmt: skip
RECIPE = '''
import time
from unipot.data.labels import SkippedItem
from unipot.structure import Structure

def parts(raw):
    return sorted(f.name for f in raw.glob("*.txt"))

def structures(raw, part, pause=0.0):
    with open(raw / part) as lines:
        for line in lines:
            time.sleep(pause)
            if line.startswith("bad"):
                yield SkippedItem(where=f"{part}-{line.strip()}", reason="it is bad")
                continue
            if line.startswith("stop"):
                raise RuntimeError("the reader broke")
            k = int(line)
            distance = 0.7 + 0.001 * k if k % 7 else 0.01  # every seventh has atoms that coincide
            yield Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, distance]], labels={"energy": float(k)},
                            id=f"{part}-{k}", group=f"{part}")
'''
QUIET = Console(quiet=True)


@pytest.fixture
def numbers(tmp_path: Path) -> RecipeSource:
    """A recipe of three parts with 25, 9 and 0 structures and a few broken lines."""
    recipe, raw = tmp_path / "recipes" / "numbers", tmp_path / "raw"
    recipe.mkdir(parents=True)
    raw.mkdir()
    (recipe / "recipe.py").write_text(RECIPE)
    (recipe / "card.yaml").write_text(yaml.safe_dump(CARD))
    (raw / "a.txt").write_text("".join(f"{k}\n" for k in range(1, 26)) + "bad1\n")
    (raw / "b.txt").write_text("bad2\n" + "".join(f"{k}\n" for k in range(1, 10)))
    (raw / "c.txt").write_text("bad3\n")
    return RecipeSource(folder=recipe.parent, name="numbers", raw=raw)


def job(source: RecipeSource) -> Job:
    return Job(source=source, name="numbers", level_of_theory="toy", labels=("energy",))


def options(**values: object) -> StoreOptions:
    return StoreOptions(**{"structures_per_shard": 4, "workers": 1, "on_invalid": "skip", "show_census": False, **values})


def converter(source: RecipeSource, path: Path, **settings: object) -> Converter:
    chosen = {"name": "numbers", "level_of_theory": "toy", "labels": ("energy",), "structures_per_shard": 4, "on_invalid": "skip"}
    return Converter(source=source, path=path, settings=ShardSettings(**{**chosen, **settings}))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Finished shard -> inode and time of change of its records."""
    files = {p.parent.name: p.stat() for p in sorted((folder / "shards").glob("[0-9]*/data.mdb"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def test_every_part_is_cut_into_shards_in_order(numbers, tmp_path):
    store = make_store(job(numbers), tmp_path / "o.unipot", options(), QUIET)
    kept = [f"{part}.txt-{k}" for part, n in (("a", 25), ("b", 9)) for k in range(1, n + 1) if k % 7]
    assert list(store.ids) == kept
    assert max(shard["n_structures"] for shard in store.metadata["shards"]) <= 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.unipot", "raw", "recipes"]


def test_broken_and_implausible_structures_are_listed_with_reason_and_value(numbers, tmp_path):
    make_store(job(numbers), tmp_path / "o.unipot", options(), QUIET)
    lines = [json.loads(line) for line in (tmp_path / "o.unipot" / "quarantine.jsonl").read_text().splitlines()]
    found = {line["id"]: line for line in lines}
    assert set(found) == {"a.txt-7", "a.txt-14", "a.txt-21", "b.txt-7", "a.txt-bad1", "b.txt-bad2", "c.txt-bad3"}
    assert found["a.txt-7"]["reason"] == "min_closest" and found["a.txt-7"]["value"] < found["a.txt-7"]["limit"]
    assert found["b.txt-bad2"]["reason"] == "invalid" and found["b.txt-bad2"]["part"] == "b.txt"
    census = json.loads((tmp_path / "o.unipot" / "census.json").read_text())
    assert census["skipped"]["it is bad"]["items"] == 3 and census["n_structures"] == 30


def test_the_store_does_not_depend_on_the_number_of_workers(numbers, tmp_path):
    one = make_store(job(numbers), tmp_path / "one.unipot", options(), QUIET)
    two = make_store(job(numbers), tmp_path / "two.unipot", options(workers=2), QUIET)
    assert two.metadata["content_hash"] == one.metadata["content_hash"] and list(two.ids) == list(one.ids)
    two.verify()


def test_a_failure_leaves_shards_that_the_next_run_keeps(numbers, tmp_path):
    target = tmp_path / "o.unipot"
    text = (numbers.raw / "b.txt").read_text()
    (numbers.raw / "b.txt").write_text(text + "stop\n")
    with pytest.raises(ValueError, match=r"part 'b.txt', behind 'b.txt-9': cannot be read \(RuntimeError: the reader broke\)"):
        make_store(job(numbers), target, options(), QUIET)
    assert not target.exists()
    partial = tmp_path / ".o.unipot.partial"
    before = stamps(partial)
    assert len(before) >= 6
    with converter(numbers, target) as unchanged, pytest.raises(ValueError, match="the reader broke"):
        unchanged.convert()
    assert stamps(partial).items() >= before.items()


def test_a_changed_file_starts_over_and_says_so(numbers, tmp_path):
    with converter(numbers, tmp_path / "o.unipot") as first:
        first.convert()
    before = stamps(first.folder)
    os.utime(numbers.raw / "a.txt", ns=(1, 1))
    said: list[str] = []
    again = converter(numbers, tmp_path / "o.unipot")
    again.say = said.append
    with again:
        again.convert()
    assert "starting over" in said[0] and "source.files" in said[0]
    assert len(before) == len(stamps(again.folder)) and not set(before.values()) & set(stamps(again.folder).values())


def test_another_limit_starts_over_but_another_treatment_of_broken_items_does_not(numbers, tmp_path):
    with converter(numbers, tmp_path / "o.unipot") as first:
        first.convert()
    said: list[str] = []
    for settings in ({"on_invalid": "refuse"}, {"structures_per_shard": 5}):
        again = converter(numbers, tmp_path / "o.unipot", **settings)
        again.say = said.append
        with again:
            again._agreed_parts()
    assert len(said) == 1 and "settings.structures_per_shard" in said[0]


def test_two_processes_do_not_convert_to_the_same_store(numbers, tmp_path):
    with (
        converter(numbers, tmp_path / "o.unipot"),
        pytest.raises(BusyError, match="is being made by another process"),
        converter(numbers, tmp_path / "o.unipot"),
    ):
        pass


def test_a_run_that_ended_while_the_store_was_put_together_makes_no_shard_again(numbers, tmp_path, monkeypatch):
    target, made = tmp_path / "o.unipot", []
    with monkeypatch.context() as patched:
        patched.setattr(store_assembly, "replace_folder", lambda *_: made.append(stamps(tmp_path / ".o.unipot.partial")) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_store(job(numbers), target, options(), QUIET)
    (tmp_path / ".o.unipot.assembling-1").mkdir()  # as a killed run leaves it
    assert not target.exists() and len(made[0]) > 8
    store = make_store(job(numbers), target, options(), QUIET)
    assert sorted(os.stat(file).st_ino for file in (store.path / "shards").iterdir()) == sorted(inode for inode, _ in made[0].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.unipot", "raw", "recipes"]


def _die(argument: int, send: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(argument: int, send: object) -> None:
    raise KeyError(f"no {argument}")


def test_a_worker_that_dies_or_fails_is_one_sentence():
    with pytest.raises(OSError, match="a worker process was ended by signal 9, as when memory runs out"):
        run_all(_die, [1, 2], 2, lambda *_: None)
    with pytest.raises(KeyError, match="no [12]"):
        run_all(_refuse, [1, 2], 2, lambda *_: None)


SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from unipot.data.conversion.parts import RecipeSource
from unipot.workflows.stores.make_store import Job, StoreOptions, make_store
if __name__ == "__main__":
    root, workers = Path(sys.argv[1]), int(sys.argv[2])
    source = RecipeSource(folder=root / "recipes", name="numbers", raw=root / "raw", options={"pause": 0.02})
    job = Job(source=source, name="numbers", level_of_theory="toy", labels=("energy",))
    options = StoreOptions(structures_per_shard=4, workers=workers, on_invalid="skip", show_census=False)
    make_store(job, root / "o.unipot", options, Console(quiet=True))
"""


def _wait_for_shards(folder: Path, n: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(stamps(folder)) < n:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_go_on_where_they_were(numbers, tmp_path, workers):
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), str(workers)]
    paused = RecipeSource(folder=numbers.folder, name="numbers", raw=numbers.raw, options={"pause": 0.02})
    whole = make_store(job(paused), tmp_path / "whole.unipot", options(), QUIET)
    partial, before = tmp_path / ".o.unipot.partial", {}
    for n_shards in (1, 3, 6):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, stderr=subprocess.PIPE)
        _wait_for_shards(partial, n_shards, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.2)  # workers notice that their parent is gone
        assert stamps(partial).items() >= before.items(), "a finished shard was made again"
        before = stamps(partial)
        assert not (tmp_path / "o.unipot").exists()
    finished = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    store = Store(tmp_path / "o.unipot")
    assert store.metadata["content_hash"] == whole.metadata["content_hash"] and list(store.ids) == list(whole.ids)
    kept = {os.stat(file).st_ino for file in (store.path / "shards").iterdir()}
    assert {inode for inode, _ in before.values()} <= kept
    assert (store.path / "quarantine.jsonl").read_text() == (whole.path / "quarantine.jsonl").read_text()
    store.verify()


def frames(n: int, first: int = 0) -> list[Atoms]:
    result = []
    for k in range(first, first + n):
        atoms = Atoms("OHH", positions=[[0, 0, 0], [0.96, 0, 0.001 * k], [-0.24, 0.93, 0]])
        force = 0.001 * k
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 - 1e-5 * k, forces=np.array([[force, 0, 0], [-force, 0, 0], [0, 0, 0]]))
        result.append(atoms)
    return result


def test_a_long_file_is_read_in_pieces_with_the_same_result(tmp_path, monkeypatch):
    write(tmp_path / "w.extxyz", frames(60))
    whole = prepare(PrepareConfig(path=f"{tmp_path}/w.extxyz", level_of_theory="x", out=f"{tmp_path}/whole.unipot"), QUIET)
    monkeypatch.setattr(parts, "_SMALLEST_PIECE", 3000)
    source = FileSource(path=f"{tmp_path}/w.extxyz", labels=ASE_LABELS, format="ase")
    assert len(source.parts()) > 3
    cut = prepare(PrepareConfig(path=f"{tmp_path}/w.extxyz", level_of_theory="x", out=f"{tmp_path}/cut.unipot"), QUIET)
    assert len(cut.metadata["shards"]) > 3 and cut.ids[59] == "w-59"
    assert [bytes(cut.record(k)) for k in range(60)] == [bytes(whole.record(k)) for k in range(60)]


def test_a_file_with_a_cut_frame_is_one_part_and_refused_by_the_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_SMALLEST_PIECE", 3000)
    write(tmp_path / "w.extxyz", frames(60))
    text = (tmp_path / "w.extxyz").read_text()
    (tmp_path / "w.extxyz").write_text(text[: len(text) - 200])
    with pytest.raises(ValueError, match="w.extxyz, line 296: frame 59 cannot be read"):
        prepare(PrepareConfig(path=f"{tmp_path}/w.extxyz", level_of_theory="x", out=f"{tmp_path}/o.unipot"), QUIET)
    assert not (tmp_path / "o.unipot").exists()


@pytest.mark.parametrize("pattern", ["set", "set/*/*.extxyz"])
def test_a_folder_or_pattern_is_one_dataset_with_a_part_per_file(tmp_path, pattern):
    for name, first in (("train", 0), ("valid", 10)):
        (tmp_path / "set" / name).mkdir(parents=True)
        write(tmp_path / "set" / name / "w.extxyz", frames(3, first))
    store = prepare(PrepareConfig(path=f"{tmp_path}/{pattern}", level_of_theory="x", out=f"{tmp_path}/o.unipot"), QUIET)
    assert list(store.ids) == [f"{name}/w-{k}" for name in ("train", "valid") for k in range(3)]
    assert store.name == "set"


def test_a_label_that_only_some_files_have_is_kept(tmp_path):
    few = frames(2)
    for atoms in few:
        del atoms.calc.results["forces"]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.extxyz", few)
    write(tmp_path / "set" / "b.extxyz", frames(2))
    labels = {name: LabelSource(key=name, unit=unit) for name, unit in (("energy", "eV"), ("forces", "eV/A"))}
    source = FileSource(path=f"{tmp_path}/set", labels=labels, format="ase")
    made = Job(source=source, name="set", level_of_theory="x", labels=("energy", "forces"))
    store = make_store(made, tmp_path / "o.unipot", StoreOptions(show_census=False), QUIET)
    assert store.metadata["label_counts"] == {"energy": 4, "forces": 2}


def test_compressed_files_are_read_as_one_part(tmp_path):
    write(tmp_path / "w.extxyz", frames(3))
    (tmp_path / "w.extxyz.gz").write_bytes(gzip.compress((tmp_path / "w.extxyz").read_bytes()))
    store = prepare(PrepareConfig(path=f"{tmp_path}/w.extxyz.gz", level_of_theory="x", out=f"{tmp_path}/o.unipot"), QUIET)
    assert len(store) == 3 and store.name == "w"


def test_batches_end_at_the_same_items_wherever_reading_begins(numbers, monkeypatch):
    monkeypatch.setattr(part_conversion, "BATCH_STRUCTURES", 4)
    settings = ShardSettings(name="n", level_of_theory="toy", labels=("energy",), structures_per_shard=4)
    task = part_conversion.PartTask(source=numbers, part="a.txt", number=0, alone=False, folder=Path(), settings=settings)
    ends = [batch.stop for batch in part_conversion._batches(task, 0)]
    for start in ends:
        assert [batch.stop for batch in part_conversion._batches(task, start)] == [end for end in ends if end > start]


def test_atoms_too_far_from_their_cell_are_skipped_with_the_reason(tmp_path):
    rows = "1\nLattice=\"9 0 0 0 9 0 0 0 9\" Properties=species:S:1:pos:R:3 energy=-1.{k} pbc=\"T T T\"\nCu {x} 0 0\n"
    (tmp_path / "a.extxyz").write_text("".join(rows.format(k=k, x=x) for k, x in enumerate((0.1, 1e9, 0.2))))
    source = FileSource(path=str(tmp_path / "a.extxyz"), labels={"energy": ASE_LABELS["energy"]}, format="ase")
    store = make_store(job(source), tmp_path / "o.unipot", options(), QUIET)
    assert len(store) == 2
    assert "atoms lie more than 2e+07 cells outside the periodic cell" in (store.path / "quarantine.jsonl").read_text()
