"""From the `datasets` section to opened, checked and split stores."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.data.conversion.converter import BusyError
from unipot.data.conversion.parts import FileSource, find_files, format_of
from unipot.data.label_use import refuse_void_stress
from unipot.data.labels import LabelSource
from unipot.data.mixture.selection import Selection
from unipot.data.mixture.splits import containing, split
from unipot.data.readers.assumed_labels import assumed_labels
from unipot.data.readers.label_notes import notes_of_files
from unipot.data.spec import DatasetSpec, energy_kinds_of_heads, levels_of_heads
from unipot.data.statistics import elements_present
from unipot.data.storage.columns import chunks
from unipot.data.storage.local_cache import locally
from unipot.data.store import Store, open_dataset
from unipot.errors import InputError
from unipot.training.distributed import is_main_process
from unipot.workflows.settings.schema import DatasetConfig
from unipot.workflows.stores.make_store import Job, StoreOptions, make_store

#: s
_LONGEST_CONVERSION = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class OpenDataset:
    """One dataset ready for training.

    Attributes:
        spec: what was asked for, with `path` the store.
        store: training structures (and, without `validation_path`, the held-out ones).
        train_indices: positions in `store`.
        validation_store: where `validation_indices` count; often `store` itself.
        validation_indices: positions of held-out structures; may be empty.
    """

    spec: DatasetSpec
    store: Store
    train_indices: Selection | np.ndarray
    validation_store: Store
    validation_indices: Selection | np.ndarray


def open_datasets(
    configs: Mapping[str, DatasetConfig], *, cache: Path, seed: int, console: Console, local_cache: str | None = None
) -> list[OpenDataset]:
    """Open every dataset, converting structure files first, and split it.

    Args:
        configs: dataset name -> configuration.
        cache: folder for the stores made from structure files.
        seed: of the splits.
        console: what is assumed and skipped is said here.
        local_cache: folder on a disk of this machine from which stores are read, see `unipot.data.storage.local_cache`.

    Raises:
        ValueError: there are no datasets, one head has several levels of theory or kinds of energy, or a configured label is absent.
        FileNotFoundError: a path is not there.
    """
    if not configs:
        raise InputError("no dataset is given; add datasets.<name>.path=... and datasets.<name>.level_of_theory=... for each")
    specs = [_spec(name, config) for name, config in configs.items()]
    levels_of_heads(specs)
    opened = [_open_dataset(spec, configs[spec.name], cache, seed, console, local_cache) for spec in specs]
    energy_kinds_of_heads([item.spec for item in opened])
    return _with_known_elements(opened, console)


def trained_elements(datasets: Sequence[OpenDataset]) -> dict[str, np.ndarray]:
    """Head -> (119,) bool, elements of its training structures."""
    found: dict[str, np.ndarray] = {}
    for item in datasets:
        present = elements_present(item.store, item.train_indices)
        found[item.spec.head] = found.get(item.spec.head, np.zeros_like(present)) | present
    return found


def store_at(
    path: str, config: DatasetConfig, *, name: str, cache: Path, console: Console, also_read: Sequence[str] = ()
) -> Path:
    """`path` itself if it is a store, else the store in `cache` made from the structures at `path`.

    Args:
        path: a store, or what holds structures.
        config: how to read it.
        name: of the dataset.
        cache: folder of the store.
        console: what is assumed and left out is said here.
        also_read: keys that the caller reads itself.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: labels cannot be found or read.
    """
    if (Path(path) / "metadata.json").is_file() or path.rstrip("/").endswith(".unipot"):
        return Path(path)
    source = FileSource(
        path=path,
        labels=_sources(path, config, name, console),
        format=_format(path, config),
        group_key=config.group_key,
        id_key=config.id_key,
        columns=config.columns,
        split=config.split,
        keep_unconverged=config.keep_unconverged,
    )
    # the name carries what went in, so that a changed file or another unit makes another store
    what = {**source.fingerprint(), "path": str(Path(path).absolute()), "level_of_theory": config.level_of_theory}
    what |= {} if config.energy_kind in (None, "total") else {"energy_kind": config.energy_kind}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    target = cache / f"{name}-{digest}.unipot"
    if not (target / "metadata.json").is_file() and is_main_process():
        _convert(source, config, name, target, console, tuple(also_read))
    wait_for_store(target)
    return target


def _format(path: str, config: DatasetConfig) -> str:
    return format_of(path) if config.format == "auto" else config.format


def wait_for_store(store: Path) -> None:
    """Other processes of a run wait here while the first one converts.

    Raises:
        TimeoutError: it did not finish within six hours.
    """
    deadline = time.monotonic() + _LONGEST_CONVERSION
    while not (store / "metadata.json").is_file():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{store}: the first process has not made this store; convert the data first with unipot prepare")
        time.sleep(1.0)


def _spec(name: str, config: DatasetConfig) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        path=config.path,
        level_of_theory=config.level_of_theory,
        energy_kind=config.energy_kind,
        labels=tuple(config.labels),
        head=config.head or "",
        weight=config.weight,
        validation_path=config.validation_path,
        validation_fraction=config.validation_fraction,
        split_by=config.split_by or "group",
        held_out_elements=tuple(config.held_out_elements or ()),
        test_path=config.test_path,
    )


def _open_dataset(
    spec: DatasetSpec, config: DatasetConfig, cache: Path, seed: int, console: Console, local_cache: str | None
) -> OpenDataset:
    path = locally(store_at(spec.path, config, name=spec.name, cache=cache, console=console), local_cache)
    store = open_dataset(replace(spec, path=str(path)))
    refuse_void_stress(store, spec.labels, f"dataset {spec.name!r}")
    spec = replace(spec, energy_kind=store.energy_kind)  # the held-out store must have it too
    if spec.validation_path is None:
        train, validation = split(store, spec.split(seed), cache)
        return OpenDataset(spec=spec, store=store, train_indices=train, validation_store=store, validation_indices=validation)
    held_path = locally(
        store_at(spec.validation_path, config, name=f"{spec.name}-validation", cache=cache, console=console), local_cache
    )
    held_out = open_dataset(replace(spec, path=str(held_path)))
    return OpenDataset(
        spec=spec,
        store=store,
        train_indices=Selection.everything(len(store)),
        validation_store=held_out,
        validation_indices=Selection.everything(len(held_out)),
    )


def _sources(path: str, config: DatasetConfig, name: str, console: Console) -> dict[str, LabelSource]:
    if config.sources:
        return {
            property: LabelSource(key=label.key, unit=label.unit, sign=label.sign, virial=label.virial, order=label.order)
            for property, label in config.sources.items()
        }
    if _format(path, config) != "ase":
        raise InputError(
            f"dataset {name!r}: keys and units of the labels in {path} are not stated; add datasets.{name}.sources.energy.key=... "
            "and .unit=..., or convert it first with unipot prepare"
        )
    assumed = assumed_labels(find_files(path, "ase").by_kind["ase"], _labels_asked_for(config))
    said = ", ".join(
        f"{label} from {source.key!r} in {source.unit}{' (a virial, -dE/d(strain))' * source.virial}"
        for label, source in assumed.labels.items()
    )
    how = "as ASE writes them" if all(source.key == label for label, source in assumed.labels.items()) else "by their names"
    console.print(f"  {name}: labels taken {how}: {said}", highlight=False)
    for remark in assumed.remarks:
        what = remark.split()[0]
        console.print(f"  {name}: {remark}, with sources.{what}='{{key: ..., unit: ...}}'", highlight=False, markup=False, style="yellow")
    return assumed.labels


def _labels_asked_for(config: DatasetConfig) -> list[str]:
    """Labels that a file must have; whether forces and stress are there is seen when its store is opened."""
    later = ("forces", "stress") if "energy" in config.labels else ()
    return [label for label in config.labels if label not in later]


def _convert(
    source: FileSource, config: DatasetConfig, name: str, target: Path, console: Console, also_read: tuple[str, ...]
) -> None:
    """Make the store; when another process is at it already, wait for that one instead."""
    if source.format == "ase":
        for note in notes_of_files(source.files(), source.labels, option="sources", level_of_theory=config.level_of_theory):
            console.print(f"  {name}: {note}", highlight=False, markup=False, soft_wrap=True)
    job = Job(
        source=source,
        name=name,
        level_of_theory=config.level_of_theory,
        energy_kind=config.energy_kind or "total",
        labels=tuple(source.labels),
        optional=() if config.sources else tuple(label for label in source.labels if label not in _labels_asked_for(config)),
        also_read=also_read,
        provenance={"path": source.path, "labels": {label: where.to_dict() for label, where in source.labels.items()}},
    )
    waiting = False
    while not (target / "metadata.json").is_file():
        try:
            make_store(job, target, StoreOptions(overwrite=True, show_census=False, check_labels=config.check_labels), console)
        except BusyError:
            if not waiting:
                console.print(f"  {name}: another process converts it; waiting", highlight=False)
            waiting = True
            time.sleep(1.0)


def _with_relatives(item: OpenDataset, chosen: Selection) -> Selection:
    """`chosen` and every held-out structure of the same group (or composition), which a split must not divide."""
    key = item.store.column({"composition": "formula", "structure": "id_hash"}.get(item.spec.split_by, "group"))
    keys = np.unique(key[np.asarray(chosen)])
    related = Selection.from_mask([np.isin(key[first:last], keys) for first, last in chunks(len(key))], len(key))
    return item.validation_indices & related


def _with_known_elements(opened: Sequence[OpenDataset], console: Console) -> list[OpenDataset]:
    """Move held-out structures with elements that their head never trains on to training (or leave them out)."""
    trained = trained_elements(opened)
    result = []
    for item in opened:
        strange = ~trained[item.spec.head]
        possible = strange[list(item.validation_store.elements)].any()
        moved = item.validation_indices & containing(item.validation_store, strange) if possible else ()
        if len(moved):
            # elements that were held out on purpose stay out of training
            own = item.validation_store is item.store and item.spec.split_by != "elements"
            moved = _with_relatives(item, moved) if own else moved
            train = item.train_indices | moved if own else item.train_indices
            item = replace(item, train_indices=train, validation_indices=item.validation_indices & moved.complement())
            verb = "moved to training" if own else "left out of validation"
            what = f"{len(moved)} held-out structures have elements that training lacks"
            console.print(f"  {item.spec.name}: {what}; {verb}", highlight=False)
        result.append(item)
    return result
