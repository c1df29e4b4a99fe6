"""From a source to a finished store: estimate, shards with a progress bar, a look at the whole, one rename."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unipot.data.conversion.converter import Conversion, ConversionProgress, Converter
from unipot.data.conversion.disk import in_words, require_space, writing_to
from unipot.data.conversion.finishing import Finished, finishing_pass
from unipot.data.conversion.part_conversion import ShardSettings
from unipot.data.conversion.parts import FileSource, PartSource
from unipot.data.conversion.review import REVIEW
from unipot.data.quality.census import Census
from unipot.data.quality.quarantine import FILE_NAME, NOT_READ, Thresholds, quarantine_lines
from unipot.data.quality.quarantine_summary import quarantine_table, summarize_quarantine
from unipot.data.spec import check_dataset_name
from unipot.data.storage.assembly import assemble_store
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import read_shard_info
from unipot.data.store import Store
from unipot.data.unread_keys import sentences
from unipot.errors import InputError
from unipot.properties import check_energy_kind
from unipot.resources import n_available_cores

#: bytes of raw files below which starting worker processes costs more than it saves
_SMALL = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What becomes a store.

    Attributes:
        source: of the structures.
        name: of the dataset.
        level_of_theory, energy_kind: of its labels.
        labels: properties its structures may carry.
        optional: those of them that nobody asked for; where no structure has one, the store does without.
        also_read: keys and columns of the source that something else reads.
        thresholds: of the quarantine.
        total: structures to expect, None where it is not known; for the progress bar.
        n_bytes: of the store as far as it can be estimated, 0 where it cannot.
        provenance: JSON-able, kept in the store's metadata.
    """

    source: PartSource
    name: str
    level_of_theory: str
    labels: tuple[str, ...]
    energy_kind: str = "total"
    optional: tuple[str, ...] = ()
    also_read: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    total: int | None = None
    n_bytes: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        check_energy_kind(self.energy_kind, f"dataset {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How a store is made.

    Attributes:
        precision, compression: of the records.
        structures_per_shard: limit; what is lost at most when a run is killed, per worker.
        workers: processes; None takes one per processor where there is enough to do.
        on_invalid: `refuse` stops at a broken structure, `skip` lists it in the quarantine.
        check_labels: stop when labels contradict the energies of near-identical frames.
        check_disk: stop before the work when free space will not do.
        overwrite: replace a store that is there.
        show_census: print the whole table, not only the counts.
    """

    precision: str = "float64"
    compression: str | None = None
    structures_per_shard: int = 100_000
    workers: int | None = None
    on_invalid: str = "refuse"
    check_labels: bool = True
    check_disk: bool = True
    overwrite: bool = False
    show_census: bool = True

    def __post_init__(self) -> None:
        if self.on_invalid not in ("refuse", "skip"):
            raise InputError(f"on_invalid is {self.on_invalid!r}; use refuse or skip")
        if self.structures_per_shard < 1:
            raise InputError(f"structures_per_shard is {self.structures_per_shard}; it must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers is {self.workers}; give a number of processes, or 0 to convert in this one")


def make_store(job: Job, path: Path, options: StoreOptions, console: Console) -> Store:
    """Convert `job` to a store at `path` and say what happened.

    Returns:
        The finished store, with `census.json` and `quarantine.jsonl`.

    Raises:
        FileExistsError: the store is there already and `overwrite` is false.
        BusyError: another process makes the same store.
        ValueError: a structure is refused, the source cannot be read, labels contradict energies, or nothing is left.
        OSError: the disk is full, writing is not allowed, or a worker died.
    """
    refuse_existing(path, options.overwrite)
    if options.check_disk and job.n_bytes:
        require_space({path.parent: job.n_bytes}, f"converting {job.name} to {path}")
    say: Callable[[str], None] = lambda sentence: console.print(f"  {sentence}", highlight=False, soft_wrap=True)  # noqa: E731
    settings = ShardSettings(
        name=job.name,
        level_of_theory=job.level_of_theory,
        labels=job.labels,
        precision=options.precision,
        compression=options.compression,
        structures_per_shard=options.structures_per_shard,
        thresholds=job.thresholds,
        on_invalid=options.on_invalid,
    )
    if isinstance(job.source, FileSource):
        for sentence in job.source.remarks():
            say(sentence)
    workers = _n_workers(options.workers, job.source)
    with Converter(source=job.source, path=path, settings=settings, workers=workers, say=say) as converter:
        with _bar(job, console) as converter.on_progress:
            conversion = converter.convert()
        job = _without_absent_labels(job, conversion)
        finished = _finish_store(job, conversion, path, options, console)
        converter.discard()
    return _report_store(Store(path), finished, options, console)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Before any work: is the name free?

    Raises:
        FileExistsError: it is not, and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name with out=, or allow it to be replaced with overwrite=true")


def _n_workers(wanted: int | None, source: PartSource) -> int:
    if wanted is not None:
        return wanted
    available = n_available_cores()
    return available if source.size() > _SMALL else 1


@contextmanager
def _bar(job: Job, console: Console) -> Iterator[Callable[[ConversionProgress], None]]:
    """One bar over all parts, or over the structures where their number is known."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"converting {job.name}", total=None, counts="")

        def show(state: ConversionProgress) -> None:
            seconds = progress.tasks[0].elapsed or 0.0
            speed = f", {(state.structures - state.resumed) / seconds:,.0f}/s" if seconds > 0.1 else ""
            counts = f"{state.structures:,} structures{speed}, {state.skipped:,} skipped, {state.quarantined:,} in quarantine"
            if job.total:
                progress.update(task, completed=min(state.structures + state.skipped, job.total), total=job.total, counts=counts)
            else:
                words = f"part {state.parts_done:,}/{state.parts:,}: {counts}" if state.parts > 1 else counts
                progress.update(task, completed=state.parts_done, total=state.parts if state.parts > 1 else None, counts=words)

        yield show


def _reviews(conversion: Conversion) -> Iterator[dict[str, Any]]:
    """The review of every shard and of what came behind the last shard of each part."""
    for folder in conversion.shards:
        yield read_shard_info(folder).extra[REVIEW]
    for note in conversion.notes:
        yield json.loads(note.read_text())[REVIEW]


def _without_absent_labels(job: Job, conversion: Conversion) -> Job:
    """`job` without the optional labels that no structure has.

    Raises:
        ValueError: another label is in no structure, or none is in any.
    """
    counts: Counter[str] = Counter()
    for folder in conversion.shards:
        counts.update(read_shard_info(folder).label_counts)
    absent = [label for label in job.labels if not counts[label]]
    present = tuple(label for label in job.labels if counts[label] or (label not in job.optional))
    stated = [label for label in absent if label not in job.optional] or (absent if not present else [])
    if stated and (counts or not any(review["quarantine"] for review in _reviews(conversion))):
        raise InputError(job.source.explain_missing(stated))
    known = job.provenance.get("labels")
    provenance = {**job.provenance, "labels": {name: known[name] for name in known if name in present}} if known else job.provenance
    return replace(job, labels=present, provenance=provenance)


def _finish_store(job: Job, conversion: Conversion, path: Path, options: StoreOptions, console: Console) -> Finished:
    """Look at the whole, print what was found, and assemble the store."""
    finished = finishing_pass(
        conversion.shards,
        _reviews(conversion),
        job.thresholds,
        name=job.name,
        level_of_theory=job.level_of_theory,
        codec=RecordCodec(job.labels, options.precision),
        energy_kind=job.energy_kind,
        compression=options.compression,
    )
    census = finished.census
    if options.show_census and census.n_structures:
        console.print(census.table())
    if options.show_census and finished.entries:
        console.print(quarantine_table(summarize_quarantine(finished.entries)))
    _say_notes(job, finished, console)
    _refuse_nothing_left(job, finished)
    if options.check_labels:
        _check_labels(job, census, console)
    with writing_to(path, f"making {path}"):
        assemble_store(
            path,
            conversion.shards,
            name=job.name,
            level_of_theory=job.level_of_theory,
            energy_kind=job.energy_kind,
            labels=job.labels,
            precision=options.precision,
            compression=options.compression,
            provenance={**job.provenance, "quarantine": job.thresholds.to_dict()},
            attachments={
                "census.json": (json.dumps(census.to_dict(), indent=1) + "\n").encode(),
                FILE_NAME: b"".join(quarantine_lines(finished.entries)),
            },
            keep=finished.keep,
            overwrite=options.overwrite,
        )
    return finished


def _say_notes(job: Job, finished: Finished, console: Console) -> None:
    """What the reading found, and every key of the files that is there and not used."""
    unread = [item for item in finished.census.unread.values() if item.key not in job.also_read]
    for note in (*finished.notes, *sentences(unread)):
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)


def _check_labels(job: Job, census: Census, console: Console) -> None:
    """Stop where labels contradict the energies of near-identical frames; doubts are said."""
    found, labels = census.consistency(), getattr(job.source, "labels", {})
    stress = labels.get("stress") if isinstance(labels, Mapping) else None
    found.refuse_contradictions(job.name, stress.order if stress else "voigt")
    for doubt in found.doubts():
        console.print(f"warning: {doubt}", style="yellow", highlight=False, soft_wrap=True)


def _refuse_nothing_left(job: Job, finished: Finished) -> None:
    if finished.keep.any() or not finished.entries:
        return
    reasons = "; ".join(row.in_words() for row in summarize_quarantine(finished.entries))
    raise InputError(
        f"dataset {job.name!r}: nothing is left to store, all structures read are in quarantine: {reasons}; correct the source, or, where "
        "the numbers are meant, change the limit: unipot prepare ... quarantine.<reason>=<number or null>"
    )


def _report_store(store: Store, finished: Finished, options: StoreOptions, console: Console) -> Store:
    census = finished.census
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    counts = f"{len(store):,} structures, {census.n_skipped:,} skipped, {len(finished.entries):,} in quarantine"
    console.print(f"wrote {store.path}: {counts}, {in_words(size)}", highlight=False, soft_wrap=True)
    if not options.show_census:
        for reason, n in census.skipped.most_common():
            console.print(f"  skipped {n:,}: {reason} (for example {census.skipped_examples[reason][0]})", highlight=False)
        for row in summarize_quarantine(entry for entry in finished.entries if entry.reason not in NOT_READ):
            worst = "" if row.worst is None else f", worst {row.worst:.4g}"
            console.print(f"  in quarantine {row.count:,}: {row.reason} {row.limit}{worst} (for example {row.example})", highlight=False)
    return store
