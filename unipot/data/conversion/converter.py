"""`convert`: a source becomes a store, part by part in worker processes; a killed run goes on where it was.

While it is made, everything lies in `.<store name>.partial/` beside the store:
  plan.json            what is converted and how; a run with another plan starts over
  parts/<number>.json  parts that are through
  shards/<part>-<k>/   finished shards, see `unipot.data.conversion.part_conversion`
The store appears under its name when everything in it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from unipot.data.conversion.disk import writing_to
from unipot.data.conversion.part_conversion import (
    PartProgress,
    PartTask,
    ShardSettings,
    convert_part,
    finished_progress,
    part_note,
    shard_folders,
)
from unipot.data.conversion.parts import PartSource
from unipot.data.conversion.review import REVIEW
from unipot.data.conversion.workers import run_all
from unipot.data.storage.format import FORMAT_VERSION
from unipot.data.storage.shard import read_shard_info
from unipot.errors import InputError
from unipot.neighbors import prepare_engine

_PLAN, _LOCK = "plan.json", "lock"


class BusyError(InputError):
    """Another process converts to the same store."""


@dataclass(frozen=True)
class Conversion:
    """Finished shards, ready to be looked at as a whole and assembled.

    Attributes:
        folder: of the partial conversion.
        shards: folders of all shards, in the order of the store.
        notes: per part the file with the review of what came behind its last shard.
    """

    folder: Path
    shards: tuple[Path, ...]
    notes: tuple[Path, ...]


@dataclass
class ConversionProgress:
    """How far a conversion is.

    Attributes:
        parts: in all.
        parts_done: through, also in earlier runs.
        structures: kept so far, also by earlier runs.
        resumed: kept by earlier runs.
        skipped: items that were left out.
        quarantined: structures that broke a threshold.
    """

    parts: int
    parts_done: int = 0
    structures: int = 0
    resumed: int = 0
    skipped: int = 0
    quarantined: int = 0

    def add(self, message: PartProgress) -> None:
        """Count what a worker reports."""
        self.structures += message.structures
        self.resumed += message.resumed
        self.skipped += message.skipped
        self.quarantined += message.quarantined
        self.parts_done += message.finished


@dataclass(kw_only=True)
class Converter:
    """Makes the shards of one store.

    Args:
        source: what is read.
        path: of the store that will be made.
        settings: of the shards.
        workers: processes; 0 and 1 convert in this one.
        on_progress: called after every batch.
        say: prints a sentence.
    """

    source: PartSource
    path: Path
    settings: ShardSettings
    workers: int = 1
    on_progress: Callable[[ConversionProgress], None] = lambda progress: None
    say: Callable[[str], None] = lambda sentence: None
    _lock: FileLock | None = field(default=None, init=False, repr=False)
    _discarded: bool = field(default=False, init=False, repr=False)

    @property
    def folder(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    def __enter__(self) -> Converter:
        """Take the folder for this process.

        Raises:
            BusyError: another process has it.
        """
        with writing_to(self.path, f"converting to {self.path}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise BusyError(
                    f"{self.path} is being made by another process; wait for it, or stop it and run this command again"
                ) from error
        self._lock = lock
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the folder back; it goes when nothing in it is worth continuing."""
        assert self._lock is not None
        if self._discarded:
            self._lock.release()  # the folder is gone; one of that name would be another process's
            return
        if not any((self.folder / "shards").glob("[0-9]*/shard.json")):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif kind is not None:
            self.say(f"what is finished stays in {self.folder}; the same command goes on from there")
        self._lock.release()

    def convert(self) -> Conversion:
        """Make every shard that is not there yet.

        Raises:
            ValueError: the source cannot be read, or holds what is refused.
            OSError: something cannot be written, or a worker died.
        """
        with writing_to(self.path, f"converting to {self.path}"):
            parts = self._agreed_parts()
            progress = ConversionProgress(parts=len(parts))
            todo = []
            for number in range(len(parts)):
                if part_note(self.folder, number).exists():
                    _count_finished(self.folder, number, progress)
                else:
                    todo.append(number)
            self.on_progress(progress)
            if progress.parts_done or any((self.folder / "shards").glob("[0-9]*/shard.json")):
                n_shards = sum(1 for _ in (self.folder / "shards").glob("[0-9]*/shard.json"))
                self.say(f"continuing: {n_shards:,} shards and {progress.parts_done:,} of {len(parts):,} parts are finished already")
            self._convert_parts(parts, todo, progress)
            shards = [folder for number in range(len(parts)) for folder in shard_folders(self.folder, number)]
            return Conversion(self.folder, tuple(shards), tuple(part_note(self.folder, number) for number in range(len(parts))))

    def discard(self) -> None:
        """Remove the partial conversion, after the store was made of it, and what killed runs left beside it."""
        for pattern in ("assembling", "old"):
            for leftover in self.path.parent.glob(f".{self.path.name}.{pattern}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._discarded = True

    def _convert_parts(self, parts: list[str], todo: list[int], progress: ConversionProgress) -> None:
        tasks = [
            PartTask(
                source=self.source, part=parts[n], number=n, alone=len(parts) == 1, folder=self.folder, settings=self.settings
            )
            for n in todo
        ]

        if self.workers > 1:
            prepare_engine()  # what is compiled here, the workers find on disk

        def receive(_: int, message: PartProgress) -> None:
            progress.add(message)
            self.on_progress(progress)

        run_all(convert_part, tasks, self.workers, receive)

    def _agreed_parts(self) -> list[str]:
        """The parts of the plan in the folder, after discarding what another plan left there."""
        plan = {
            "format_version": FORMAT_VERSION,
            "source": self.source.fingerprint(),
            "settings": {k: v for k, v in asdict(self.settings).items() if k not in _NOT_IN_PLAN},
            "parts": self.source.parts(),
        }
        plan = json.loads(json.dumps(plan))
        file = self.folder / _PLAN
        old = _read_plan(file)
        if old is not None and old != plan:
            changed = ", ".join(_differences(old, plan))
            self.say(f"starting over: since the unfinished conversion in {self.folder} these have changed: {changed}")
        if old != plan:
            for name in ("shards", "parts"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            unfinished = file.with_suffix(".tmp")
            unfinished.write_text(json.dumps(plan, indent=1))
            os.replace(unfinished, file)
        # of shards that were open, and of an assembly that was under way, when a run was killed
        for leftover in [*(self.folder / "shards").glob(".*"), *self.path.parent.glob(f".{self.path.name}.assembling-*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        return plan["parts"]


#: a broken item stops a run or is listed; finished shards are the same either way
_NOT_IN_PLAN = ("on_invalid",)


def _count_finished(folder: Path, number: int, progress: ConversionProgress) -> None:
    """Add what an earlier run made of a part that is through."""
    infos = [read_shard_info(path) for path in shard_folders(folder, number)]
    note = json.loads(part_note(folder, number).read_text())
    progress.parts_done += 1
    for n_structures, review in (*((info.n_structures, info.extra[REVIEW]) for info in infos), (0, note[REVIEW])):
        progress.add(finished_progress(n_structures, review))


def _read_plan(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the values that differ."""
    names = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict) and key != "files":
            names += _differences(a, b, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names
