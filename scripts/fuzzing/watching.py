"""Mutants are read in processes of their own, which are watched: one that dies or does not end costs one mutant, not the search."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzzing.containers import damaged
from fuzzing.outcomes import CRASH, HANG, OTHER, Outcome, outcome_of
from fuzzing.readers import Reader, Reading

#: bytes of address space that reading may take beyond what the process had when it began
MEMORY = 3 << 30
_STACKS = "stacks.txt"


class Inputs:
    """The sound inputs of all readers, made when they are first needed.

    Args:
        folder: for them and for the mutants.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[str, Reading] = {}

    def original(self, reader: Reader) -> Path:
        return self.folder / "sound" / reader.name

    def sound(self, reader: Reader) -> Reading:
        """The reading of the sound input.

        Raises:
            RuntimeError: it cannot be made or read, or two readings differ; the lines of the process say why.
        """
        if reader.name not in self._sound:
            original, log = self.original(reader), self.folder / f"{reader.name}.log"
            original.mkdir(parents=True)
            made = in_process(lambda send: reader.make(original, self.folder / "shared"), log, 600.0)
            if next(made, None) is not None:
                raise RuntimeError(f"the sound input of reader {reader.name} cannot be made:\n{log.read_text()[-3000:]}")
            # read here, so that what is compiled and imported on the way is there in every process that is forked
            readings = []
            for name in ("a", "b"):  # of no consequence are paths, times, and what a reader keeps in the folder
                copy = self.folder / "mutants" / reader.name / name
                shutil.copytree(original, copy)
                readings.append(reader.read(copy / reader.entry))
                shutil.rmtree(copy)
            if readings[0] != readings[1]:
                raise RuntimeError(f"two readings of the sound input of reader {reader.name} differ")
            self._sound[reader.name] = readings[0]
        return self._sound[reader.name]

    def mutant(self, reader: Reader, seed: int, number: int) -> tuple[Path, str, str, str]:
        """Make mutant `number`: its folder, the file that was changed, the pattern that names it, and how it was changed."""
        original = self.original(reader)
        rng = random.Random(f"{seed}/{reader.name}/{number}")
        there = [(sorted(original.glob(entry[0])), *entry) for entry in reader.files]
        there = [entry for entry in there if entry[0]]
        files, pattern, kind, _ = rng.choices(there, [entry[3] for entry in there])[0]
        file = rng.choice(files)
        folder = self.folder / "mutants" / reader.name / str(number)
        shutil.copytree(original, folder)
        content, said = damaged(rng, file.read_bytes(), kind)
        (folder / file.relative_to(original)).write_bytes(content)
        return folder, str(file.relative_to(original)), pattern, said


def read_mutants(
    inputs: Inputs, reader: Reader, seed: int, numbers: range, timeout: float, seconds: float, keep: Callable[[int, Outcome, Path], None]
) -> int:
    """Read mutants one after the other until `seconds` are over; the number of the first that was not read.

    Args:
        inputs: that are damaged.
        reader: of them.
        seed: decides, with the number, what is done to a mutant.
        numbers: of mutants.
        timeout: seconds after which a mutant hangs.
        seconds: after which no new one is begun.
        keep: takes number, outcome and folder of each; the folder is gone afterwards.
    """
    sound = inputs.sound(reader)
    log = inputs.folder / f"{reader.name}.log"

    def work(send: Callable[[Any], None]) -> None:
        end = time.monotonic() + seconds
        for number in numbers:
            folder, file, pattern, said = inputs.mutant(reader, seed, number)
            send({"number": number, "folder": str(folder), "file": file, "pattern": pattern, "damage": said})
            start = time.monotonic()
            outcome = outcome_of(reader, folder / reader.entry, sound)
            send({"outcome": outcome.to_dict() | {"seconds": time.monotonic() - start}})
            if time.monotonic() > end:
                return

    begun: dict[str, Any] | None = None
    last = numbers.start
    for message in in_process(work, log, timeout):
        if isinstance(message, dict) and "number" in message:
            begun = message
            continue
        if begun is None:
            raise RuntimeError(f"reader {reader.name}: mutant {last} cannot be made:\n{log.read_text()[-3000:]}")
        outcome = Outcome(**message["outcome"]) if isinstance(message, dict) else _outcome_of_death(message, log)
        outcome.file, outcome.damage = begun["file"], begun["damage"]
        if outcome.kind == OTHER:
            outcome.fault += f" ({begun['pattern']})"
        keep(begun["number"], outcome, Path(begun["folder"]))
        shutil.rmtree(begun["folder"], ignore_errors=True)
        last, begun = begun["number"] + 1, None
    return last


def _outcome_of_death(how: str, log: Path) -> Outcome:
    text = log.read_text(errors="replace")
    ours = re.findall(r'File ".*?(unipot/[^"]+)", line (\d+) in (\w+)', text)
    where = f"{ours[0][0]}:{ours[0][1]} {ours[0][2]}" if ours else "no Python line known"
    return Outcome(kind=HANG if how == HANG else CRASH, fault=f"{how} at {where}", detail=text[-6000:])


def in_process(work: Callable[[Callable[[Any], None]], None], log: Path, timeout: float) -> Iterator[Any]:
    """What `work` sends, run in a forked process; at the end a text if it died: `hang`, or how it ended.

    Args:
        work: takes the function that sends JSON-able values.
        log: file for what the process prints.
        timeout: seconds without a message after which it hangs.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _work_in_child(work, writing, log)
    os.close(writing)
    ended = ""
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            waiting = b""
            while not ended:
                if not select.select([pipe], [], [], timeout)[0]:
                    ended = HANG
                    os.kill(process, signal.SIGUSR1)  # writes where it is
                    time.sleep(1.0)
                elif not (piece := pipe.read(1 << 16)):
                    break
                else:
                    *lines, waiting = (waiting + piece).split(b"\n")
                    yield from map(json.loads, lines)
    finally:
        if ended or not _has_ended(process):
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0) if process not in _ENDED else (0, _ENDED.pop(process))
    if not ended and status != 0:
        ended = f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    if ended:
        yield ended


#: status of processes that were found to have ended
_ENDED: dict[int, int] = {}


def _has_ended(process: int) -> bool:
    """Whether a process whose pipe is closed ends by itself, within a second."""
    for _ in range(100):
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            _ENDED[process] = status
            return True
        time.sleep(0.01)
    return False


def _work_in_child(work: Callable[[Callable[[Any], None]], None], writing: int, log: Path) -> None:
    """The forked process; it never returns."""
    status = 70
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            faulthandler.enable(file)
            faulthandler.register(signal.SIGUSR1, file, all_threads=False)
            warnings.simplefilter("ignore")
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                work(lambda message: os.write(writing, (json.dumps(message) + "\n").encode()) and None)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc(file=file)
    finally:
        os._exit(status)
