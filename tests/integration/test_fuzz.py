"""`scripts/fuzz.py`: outcomes are told apart, mutants can be made again, and real readers stand a few hundred of them."""

import json
import os
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONTENT = b"numbers: 1 2 3; words: none"


@pytest.fixture(scope="module")
def tools():
    """The modules of the script."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(SCRIPTS))
    patch.setattr(os, "environ", dict(os.environ))
    import fuzz
    from fuzzing import outcomes, readers, watching

    yield type("Tools", (), {"fuzz": fuzz, "outcomes": outcomes, "readers": readers, "watching": watching})
    patch.undo()


@pytest.fixture
def search(tools, tmp_path):
    """Counts of kinds, and the search, for a reader that is a function of the bytes of one file."""

    def searched(read, n=12, timeout=5.0, seed=0, **options):
        def make(folder, shared):
            (folder / "file.bin").write_bytes(CONTENT)

        planted = tools.readers.Reader(
            name="planted", make=make, entry="file.bin", files=(("*", "bytes", 1),), read=lambda path: read(path.read_bytes()), **options
        )
        found = tools.fuzz.Search([planted], tmp_path / "out", seed=seed, keep=2)
        found.run(60.0, timeout=timeout, mutants=n, folder=tmp_path / "work")
        return dict(found.counts["planted"]), found

    return searched


def changed(content):
    return content != CONTENT


def refusing(content):
    if changed(content):
        raise OSError("file.bin is damaged, copy it again")
    return {"numbers": "1"}


def test_a_refusal_in_one_sentence_that_names_the_file_is_no_fault(search):
    counts, found = search(refusing)
    assert counts == {"refused in one sentence": 12} and not found.faults


def test_a_refusal_that_does_not_name_the_file_is_a_fault(search):
    def read(content):
        if changed(content):
            raise OSError("something is damaged here")
        return {"numbers": "1"}

    counts, found = search(read)
    assert counts == {"refused, unclear": 12} and len(found.faults) == 1


def test_numbers_that_stay_are_told_from_numbers_that_do_not(search):
    assert search(lambda content: {"numbers": "1"})[0] == {"same numbers": 12}


def test_other_numbers_are_a_fault(search):
    counts, _ = search(lambda content: {"numbers": content.hex()})
    assert counts["OTHER NUMBERS"] >= 11 and counts["OTHER NUMBERS"] + counts.get("same numbers", 0) == 12


def test_other_words_are_none(search):
    counts, found = search(lambda content: {"numbers": "1", "description": content.hex()})
    assert counts["other description"] >= 11 and not found.faults


def test_numbers_that_a_plain_reader_finds_too_are_none(search):
    says = {"says_so": lambda entry, reading, sound: reading["numbers"] == entry.read_bytes().hex()}
    counts, found = search(lambda content: {"numbers": content.hex()}, **says)
    assert counts["as the file says"] >= 11 and not found.faults


def test_an_error_that_is_no_users_mistake_is_a_fault_with_its_line(search):
    counts, found = search(lambda content: {"numbers": str(1 // (not changed(content)))})
    assert counts == {"traceback": 12}
    ((_, _, fault),) = found.faults
    assert fault.startswith("ZeroDivisionError at ") and "test_fuzz.py" in fault


def test_a_process_that_dies_costs_one_mutant(search):
    counts, found = search(lambda content: os.abort() if changed(content) else {"numbers": "1"}, n=4)
    assert counts == {"crash": 4} and "SIGABRT" in next(iter(found.faults))[2]


def test_a_reader_that_does_not_end_is_stopped(search):
    counts, _ = search(lambda content: time.sleep(100) if changed(content) else {"numbers": "1"}, n=2, timeout=0.5)
    assert counts == {"hang": 2}


def test_memory_without_bounds_is_no_refusal(search):
    counts, _ = search(lambda content: {"numbers": str(len(bytes(1 << 40 if changed(content) else 1)))}, n=3)
    assert counts == {"traceback": 3}


def test_mutants_are_made_again_from_the_seed(search, tools, tmp_path):
    _, found = search(lambda content: {"numbers": content.hex()})
    rows = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    kept = [(tmp_path / "out" / "faults" / f"planted-{row['number']}" / "input" / "file.bin") for row in rows[:2]]
    inputs = tools.watching.Inputs(tmp_path / "work")
    for row, file in zip(rows, kept, strict=False):
        folder, *_ = inputs.mutant(found.readers[0], seed=0, number=row["number"])
        assert (folder / "file.bin").read_bytes() == file.read_bytes() != CONTENT


def test_another_seed_makes_other_mutants(search, tools, tmp_path):
    _, found = search(lambda content: {"numbers": content.hex()}, n=1)
    inputs = tools.watching.Inputs(tmp_path / "work")
    made = {(inputs.mutant(found.readers[0], seed, 100 + seed)[0] / "file.bin").read_bytes() for seed in range(8)}
    assert len(made) > 4


@pytest.mark.parametrize(("name", "n"), [("xyz", 200), ("yaml", 8)])
def test_real_readers_neither_die_nor_show_a_traceback(tools, tmp_path, name, n):
    found = tools.fuzz.Search([tools.readers.READERS[name]], tmp_path / "out", seed=1)
    found.run(100.0, timeout=60.0, mutants=n, folder=tmp_path / "work")
    assert found.counts[name].total() == n
    assert not {"traceback", "crash", "hang"} & set(found.counts[name]), found.fault_lines()
