"""Damage every kind of file that the project reads, and see what the readers make of it.

    python scripts/fuzz.py                                   # ten minutes, all readers
    python scripts/fuzz.py --seconds 3600 --seed 7 --readers store,artifact --out damaged
    python scripts/fuzz.py replay damaged/faults/store-17    # one mutant that was kept: what happens, with the traceback

Mutants are bit flips, truncations, insertions, splices and numbers that cannot be; and, inside of what a checksum would hide, fields of
cards and metadata that are gone or of another kind, members of archives, headers of arrays, records of LMDB files, lines and words of
texts. Each is made from the seed, the reader and its number alone, and read in a process that is watched: 3 GB of memory, `--timeout`
seconds. What comes of it is one of:

    refused in one sentence   an error for the user that names the file, in one line
    same numbers              as before: the damage was in nothing that is read, or undone
    as the file says          text formats have no checksum: a plain reader of its own finds the same in the damaged file
    other description         names, licences or other words differ, no number
    refused, unclear          an error for the user without file, of several lines, or without words
    OTHER NUMBERS             read as if it were sound, and other numbers come out
    traceback                 an error that is no user's mistake
    crash, hang               the process died, or did not end

The last five are faults. Up to `--keep` mutants of each are kept with the command that replays them; `bad.jsonl` lists them all, with the
number that makes them again. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(_name, "1")
sys.path[:0] = [str(Path(__file__).resolve().parent), *([] if os.environ.get("PYTHONPATH") else [str(Path(__file__).resolve().parents[1])])]

from fuzzing.outcomes import BAD, OUTCOMES, Outcome, outcome_of  # noqa: E402
from fuzzing.readers import READERS, Reader  # noqa: E402
from fuzzing.watching import Inputs, in_process, read_mutants  # noqa: E402

#: seconds that one reader has before the next one's turn
_TURN = 5.0


class Search:
    """Outcomes by reader, and the mutants that are kept.

    Args:
        readers: whose files are damaged.
        out: folder for faults and counts.
        seed: of all mutants.
        keep: mutants of one fault.
    """

    def __init__(self, readers: list[Reader], out: Path, *, seed: int, keep: int = 25) -> None:
        self.readers, self.out, self.seed, self._keep = readers, out, seed, keep
        self.counts: dict[str, Counter[str]] = {reader.name: Counter() for reader in readers}
        self.faults: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self.next = {reader.name: 0 for reader in readers}
        (out / "faults").mkdir(parents=True, exist_ok=True)

    def run(self, seconds: float, *, timeout: float, mutants: int | None = None, folder: Path) -> None:
        """Readers take turns until the time is over, or each has had `mutants`."""
        inputs, end = Inputs(folder), time.monotonic() + seconds
        active = list(self.readers)
        for reader in active:
            inputs.sound(reader)
        while active and time.monotonic() < end:
            reader = active.pop(0)
            last = 10**9 if mutants is None else mutants
            numbers = range(self.next[reader.name], last)
            turn = min(_TURN, max(0.1, end - time.monotonic()))
            self.next[reader.name] = read_mutants(inputs, reader, self.seed, numbers, timeout, turn, self._taker(reader))
            if self.next[reader.name] < last:
                active.append(reader)

    def _taker(self, reader: Reader):  # noqa: ANN202
        def take(number: int, outcome: Outcome, folder: Path) -> None:
            self.counts[reader.name][outcome.kind] += 1
            if outcome.kind in BAD:
                self._record_fault(reader, number, outcome, folder)

        return take

    def _record_fault(self, reader: Reader, number: int, outcome: Outcome, folder: Path) -> None:
        numbers = self.faults[reader.name, outcome.kind, outcome.fault]
        numbers.append(number)
        kept = self.out / "faults" / f"{reader.name}-{number}"
        row = {"reader": reader.name, "number": number, "seed": self.seed, **outcome.to_dict()}
        if len(numbers) <= self._keep:
            row["replay"] = f"python scripts/fuzz.py replay {kept}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept / "input")
            (kept / "what.json").write_text(json.dumps(row, indent=1) + "\n")
        else:
            row["replay"] = f"python scripts/fuzz.py --seed {self.seed} --readers {reader.name} --only {number}"
        with (self.out / "bad.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def table(self) -> str:
        """Counts, readers in rows."""
        shown = [kind for kind in OUTCOMES]
        rows = [["reader", *shown, "mutants"]]
        rows += [[name, *(str(c[kind] or "-") for kind in shown), str(c.total())] for name, c in self.counts.items()]
        total = sum(self.counts.values(), Counter())
        rows.append(["all", *(str(total[kind] or "-") for kind in shown), str(total.total())])
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        cells = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join([row[0].ljust(widths[0]), *padded[1:]]) for row, padded in zip(rows, cells, strict=True))

    def fault_lines(self) -> list[str]:
        """One line per fault: how often, where, and the first mutant."""
        found = sorted(self.faults.items(), key=lambda item: (item[0][0], -len(item[1])))
        return [f"{len(n):6d}  {reader}: {kind}: {fault}; {self.out / 'faults' / f'{reader}-{n[0]}'}" for (reader, kind, fault), n in found]


def replay(folder: Path) -> int:
    """Read a mutant that was kept, and show what happens."""
    what = json.loads((folder / "what.json").read_text())
    reader = READERS[what["reader"]]
    print(f"{what['reader']}, {what['file']}: {what['damage']}")
    with tempfile.TemporaryDirectory(prefix="unipot-fuzz-") as temporary:
        inputs = Inputs(Path(temporary))
        sound = inputs.sound(reader)
        copy = Path(temporary) / "mutants" / "replayed"
        shutil.copytree(folder / "input", copy)
        log = Path(temporary) / "replay.log"
        (found, *_) = in_process(lambda send: send(outcome_of(reader, copy / reader.entry, sound).to_dict()), log, 60.0)
        print(log.read_text(), end="")
    if isinstance(found, str):
        print(f"the process died: {found}")
        return 1
    print(f"{found['kind']}: {found['fault']}\n{found['detail']}")
    return 1 if found["kind"] in BAD else 0


def main(words: list[str] | None = None) -> int:
    """Exit code 0 if nothing bad was found, 1 if something was, 2 for a mistake in the options."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["replay"] and len(words) == 2:
        return replay(Path(words[1]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for all readers together, after their inputs are made")
    parser.add_argument("--readers", default=",".join(READERS), help=f"names with commas between them; all: {', '.join(READERS)}")
    parser.add_argument("--seed", type=int, default=0, help="of all mutants")
    parser.add_argument("--mutants", type=int, help="of each reader, at most")
    parser.add_argument("--only", type=int, help="this mutant of each reader alone")
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="folder for faults and counts; it must not be there")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds after which a mutant hangs")
    parser.add_argument("--keep", type=int, default=25, help="mutants of one fault that are kept as files")
    options = parser.parse_args(words)
    names = options.readers.split(",")
    if unknown := [name for name in names if name not in READERS]:
        parser.error(f"reader {unknown[0]!r} is not known; readers are: {', '.join(READERS)}")
    if options.out.exists():
        parser.error(f"{options.out} exists; choose another folder, or remove it")
    _import_everything()
    search = Search([READERS[name] for name in names], options.out, seed=options.seed, keep=options.keep)
    if options.only is not None:
        search.next, options.mutants = dict.fromkeys(search.next, options.only), options.only + 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unipot-fuzz-", ignore_cleanup_errors=True) as folder:
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "datasets")
        search.run(options.seconds, timeout=options.timeout, mutants=options.mutants, folder=Path(folder))
    spent = time.monotonic() - start
    n = sum(search.counts.values(), Counter()).total()
    lines = [search.table(), "", f"seed {options.seed}, {n} mutants in {spent:.0f} s, {n / spent * 3600:,.0f} an hour"]
    lines += [f"{len(search.faults)} faults", *search.fault_lines()] if search.faults else ["no faults"]
    (options.out / "table.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 1 if search.faults else 0


def _import_everything() -> None:
    """Once, before processes are forked."""
    import ase.io  # noqa: F401
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch

    import unipot.calculator
    import unipot.cli
    import unipot.data.readers
    import unipot.workflows.finetune
    import unipot.zoo.compiled_package  # noqa: F401

    torch.set_num_threads(1)
    print(f"unipot from {Path(unipot.cli.__file__).parent}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
