"""One part of a source into finished shards; after a kill only the shard that was open is made again.

A shard's `shard.json` says under `extra` how many items of the part it and the shards before it consumed (`stop`), and
holds the state of its `ShardReview`: census, skipped items, quarantine. When a part is through, `parts/<number>.json`
says so and holds the review of what came behind its last shard.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from unipot.data.conversion.disk import DiskError
from unipot.data.conversion.parts import PartSource
from unipot.data.conversion.review import REVIEW, ShardReview
from unipot.data.labels import SkippedItem
from unipot.data.quality.measurements import Measurements
from unipot.data.quality.quarantine import NOT_READ, Thresholds
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import ShardWriter, read_shard_info
from unipot.data.unread_keys import UnreadKey
from unipot.errors import InputError, UserError
from unipot.structure import Structure

#: structures, atoms and items of one batch at most
BATCH_STRUCTURES, BATCH_ATOMS, BATCH_ITEMS = 250, 20_000, 5000
#: Å and Å³: a lattice this small has so many neighbours that looking for them would not end
_MIN_HEIGHT, _MIN_VOLUME_PER_ATOM = 0.3, 0.02
#: from there on neighbour lists refuse a structure (`unipot.neighbors`)
_MOST_CELLS_AWAY = 2e7
_BYTES_PER_ATOM, _BYTES_PER_STRUCTURE = 56, 400


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What shapes the shards.

    Attributes:
        name: of the dataset.
        level_of_theory: of its labels.
        labels: properties that records may carry.
        precision, compression: of the records.
        structures_per_shard, bytes_per_shard: limits.
        thresholds: of the quarantine.
        on_invalid: a broken item: `refuse` stops, `skip` lists it in the quarantine.
    """

    name: str
    level_of_theory: str
    labels: tuple[str, ...]
    precision: str = "float64"
    compression: str | None = None
    structures_per_shard: int = 100_000
    bytes_per_shard: int = 1 << 30
    thresholds: Thresholds = field(default_factory=Thresholds)
    on_invalid: str = "refuse"


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """One part to convert.

    Attributes:
        source: it is read from.
        part: its name.
        number: its place among the parts.
        alone: it is the only part.
        folder: of the partial conversion.
        settings: of the shards.
    """

    source: PartSource
    part: str
    number: int
    alone: bool
    folder: Path
    settings: ShardSettings

    @property
    def words(self) -> str:
        """For messages."""
        return f"dataset {self.settings.name!r}" + (f", part {self.part!r}" if self.part and not self.alone else "")


    @property
    def batch_structures(self) -> int:
        return min(BATCH_STRUCTURES, self.settings.structures_per_shard)


@dataclass(frozen=True)
class PartProgress:
    """What happened since the last report.

    Attributes:
        structures, skipped, quarantined: new ones.
        resumed: of the structures, those of an earlier run.
        finished: parts that are through.
    """

    structures: int = 0
    skipped: int = 0
    quarantined: int = 0
    resumed: int = 0
    finished: int = 0


def shard_folders(folder: Path, number: int) -> list[Path]:
    """Finished shards of part `number`, in order."""
    return sorted((folder / "shards").glob(f"{number:06d}-*"))


def part_note(folder: Path, number: int) -> Path:
    """The file that says that a part is through."""
    return folder / "parts" / f"{number:06d}.json"


def convert_part(task: PartTask, send: Callable[[PartProgress], None]) -> None:
    """Make the shards of a part that are not there yet.

    Raises:
        ValueError: an item is broken and `on_invalid` is `refuse`, or the part cannot be read.
        OSError: a shard cannot be written.
    """
    with FileLock(task.folder / f"{task.number:06d}.lock"):  # a worker of a killed run may take a moment to end
        finished = [read_shard_info(path) for path in shard_folders(task.folder, task.number)]
        for info in finished:
            send(finished_progress(info.n_structures, info.extra[REVIEW]))
        batches = _batches(task, finished[-1].extra["stop"] if finished else 0)
        number = len(finished)
        while True:
            review = ShardReview(task.settings.name, task.settings.level_of_theory, task.settings.thresholds, part=task.part)
            first = next((kept for batch in batches if (kept := _screen_batch(batch, review, task, send)).structures), None)
            if first is None:
                break
            _write_shard(task, f"{task.number:06d}-{number:06d}", first, batches, review, send)
            number += 1
        note = part_note(task.folder, task.number)
        note.parent.mkdir(exist_ok=True)
        partial = note.with_suffix(".tmp")
        partial.write_text(json.dumps({"part": task.part, "shards": number, REVIEW: review.state()}))
        os.replace(partial, note)
        send(PartProgress(finished=1))


@dataclass(frozen=True)
class _Batch:
    """Structures with ids, items to leave out, keys that nothing reads, and how many items of the part are consumed with it."""

    structures: list[Structure]
    skipped: list[SkippedItem]
    unread: list[UnreadKey]
    stop: int


@dataclass(frozen=True)
class _Kept:
    """What the quarantine leaves of a batch."""

    structures: list[Structure]
    measurements: Measurements
    stop: int


def _write_shard(
    task: PartTask, name: str, first: _Kept, batches: Iterator[_Batch], review: ShardReview, send: Callable[[PartProgress], None]
) -> None:
    """Write `first` and the batches behind it, until the shard is full or the part ends."""
    settings, kept, n_bytes = task.settings, first, 0
    codec = RecordCodec(settings.labels, settings.precision)
    with ShardWriter(task.folder / "shards", name, codec, compression=settings.compression, dataset=settings.name) as shard:
        while True:
            if kept.structures:
                shard.extend(kept.structures, kept.measurements)
            n_bytes += sum(_BYTES_PER_ATOM * s.n_atoms + _BYTES_PER_STRUCTURE for s in kept.structures)
            if shard.n_structures + task.batch_structures > settings.structures_per_shard or n_bytes >= settings.bytes_per_shard:
                break
            batch = next(batches, None)
            if batch is None:
                break
            kept = _screen_batch(batch, review, task, send)
        shard.extra = {"part": task.part, "stop": kept.stop, REVIEW: review.state()}


def _screen_batch(batch: _Batch, review: ShardReview, task: PartTask, send: Callable[[PartProgress], None]) -> _Kept:
    """Count what is left out of a batch, and return the rest."""
    for item in batch.skipped:
        if item.invalid and task.settings.on_invalid == "refuse":
            raise InputError(
                f"{task.words}, {item.where}: {item.reason}; repair it, or leave such structures out: unipot prepare with on_invalid=skip"
                f"{_other_labels(item.reason)}"
            )
        review.skip(item)
    for key in batch.unread:
        review.unread(key)
    kept, measurements = review.screen(batch.structures) if batch.structures else ([], {})
    send(PartProgress(len(kept), len(batch.skipped), len(batch.structures) - len(kept)))
    return _Kept(list(kept), measurements, batch.stop)


def _other_labels(reason: str) -> str:
    """How to leave a label out of a file, where a structure is refused for one; "" where it is for anything else."""
    found = re.search(r"leave its label '(\w+)' out", reason)
    if found is None:
        return ""
    return (
        f"; to read the file without {found[1]}, state the other labels alone, labels.energy.key=... labels.energy.unit=... of unipot "
        "prepare, sources.energy='{key: ..., unit: ...}' of other commands"
    )


def finished_progress(n_structures: int, review: dict[str, Any]) -> PartProgress:
    """What an earlier run did, as its shard or note says."""
    skipped = sum(review["census"]["skipped"].values())
    broken = sum(entry["reason"] in NOT_READ for entry in review["quarantine"])
    return PartProgress(n_structures, skipped, len(review["quarantine"]) - broken, resumed=n_structures)


def _batches(task: PartTask, start: int) -> Iterator[_Batch]:
    """The items of a part behind the first `start`, in batches whose ends do not depend on `start`'s being one of them."""
    structures: list[Structure] = []
    skipped: list[SkippedItem] = []
    unread: list[UnreadKey] = []
    n_atoms = 0
    for number, item in _numbered_items(task, start):
        if isinstance(item, Structure):
            item = item if item.id else replace(item, id=f"{task.part or task.settings.name}-{number}")
            reason = _endless(item)
            if reason:
                item = SkippedItem(where=item.id, reason=reason)
        if isinstance(item, SkippedItem):
            skipped.append(item)
        elif isinstance(item, UnreadKey):
            unread.append(item)
        elif isinstance(item, Structure):
            structures.append(item)
            n_atoms += item.n_atoms
        else:
            raise InputError(f"{task.words}: item {number} is a {type(item).__name__}; a source gives Structure or SkippedItem")
        if len(structures) >= task.batch_structures or n_atoms >= BATCH_ATOMS or len(skipped) >= BATCH_ITEMS:
            yield _Batch(structures, skipped, unread, number + 1)
            structures, skipped, unread, n_atoms = [], [], [], 0
    if structures or skipped or unread:
        yield _Batch(structures, skipped, unread, number + 1)


def _numbered_items(task: PartTask, start: int) -> Iterator[tuple[int, Structure | SkippedItem | UnreadKey]]:
    """Number and item; whatever the source raises becomes one sentence."""
    number, last = 0, ""
    try:
        for number, item in enumerate(task.source.items(task.part)):
            last = item.id if isinstance(item, Structure) else getattr(item, "where", "")
            if number >= start:
                yield number, item
    except DiskError:
        raise
    except Exception as error:  # parsers raise whatever their code runs into
        raise InputError(f"{task.words}{f', behind {last!r}' if last else ''}: {_reading_words(error)}") from error


def _reading_words(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip().partition("\n")[0]
    if isinstance(error, FileNotFoundError | ImportError | UserError) or type(error) is ValueError:
        return text  # a sentence already
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"cannot be read ({what}); the file may be cut short or damaged, or of another format than expected: fetch it again"


def _endless(structure: Structure) -> str:
    """Why the neighbours of a structure cannot be looked for; "" when they can."""
    if not structure.pbc.any():
        return ""
    # distance between lattice planes along each periodic axis
    inverse = np.linalg.inv(structure.cell) if structure.pbc.all() else np.linalg.pinv(structure.cell[structure.pbc])
    heights = 1 / np.sqrt(np.einsum("ij,ij->j", inverse, inverse))
    if heights.min() < _MIN_HEIGHT:
        return f"lattice planes are {heights.min():.2g} Å apart, less than any crystal's; the cell is wrong or in another unit"
    if np.abs(structure.positions).max() / heights.min() > _MOST_CELLS_AWAY:
        return f"atoms lie more than {_MOST_CELLS_AWAY:.0e} cells outside the periodic cell; wrap them, or correct positions and cell (Å)"
    if structure.pbc.all() and structure.volume / structure.n_atoms < _MIN_VOLUME_PER_ATOM:
        return f"the cell has {structure.volume / structure.n_atoms:.2g} Å³ per atom, less than any crystal; it is wrong or in another unit"
    return ""
