"""From the `datasets` section to opened, checked and split stores."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.data.labels import LabelSource
from unipot.data.readers import detect_format, read_structures
from unipot.data.readers.ase_files import default_labels
from unipot.data.spec import DatasetSpec, levels_of_heads
from unipot.data.splits import split_by_group
from unipot.data.statistics import composition_counts
from unipot.data.store import Store, open_dataset
from unipot.training.distributed import is_main_process
from unipot.workflows.config import DatasetConfig
from unipot.workflows.prepare import Source, write_store

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
    train_indices: np.ndarray
    validation_store: Store
    validation_indices: np.ndarray


def open_datasets(configs: Mapping[str, DatasetConfig], *, cache: Path, seed: int, console: Console) -> list[OpenDataset]:
    """Open every dataset, converting structure files first, and split it.

    Args:
        configs: dataset name -> configuration.
        cache: folder for the stores made from structure files.
        seed: of the splits.
        console: what is assumed and skipped is said here.

    Raises:
        ValueError: there are no datasets, one head has several levels of theory, or a configured label is absent.
        FileNotFoundError: a path is not there.
    """
    if not configs:
        raise ValueError("no dataset is given; add datasets.<name>.path=... and datasets.<name>.level_of_theory=... for each")
    specs = [_spec(name, config) for name, config in configs.items()]
    levels_of_heads(specs)
    opened = [_open(spec, configs[spec.name], cache, seed, console) for spec in specs]
    return _with_known_elements(opened, console)


def store_at(path: str, config: DatasetConfig, *, name: str, cache: Path, console: Console) -> Path:
    """`path` itself if it is a store, else the store in `cache` made from the structures at `path`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: labels cannot be found or read.
    """
    if (Path(path) / "metadata.json").is_file() or path.rstrip("/").endswith(".unipot"):
        return Path(path)
    sources = _sources(path, config, name, console)
    # the name carries what went in, so that a changed file or another unit makes another store
    stat = Path(path).stat() if Path(path).is_file() else None
    what = [str(Path(path).absolute()), stat and stat.st_size, stat and stat.st_mtime_ns]
    what += [config.level_of_theory, config.format, config.group_key, config.id_key, {k: vars(v) for k, v in sources.items()}]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    target = cache / f"{name}-{digest}.unipot"
    if not (target / "metadata.json").is_file() and is_main_process():
        _convert(path, config, sources, name, target, console)
    _wait_for(target)
    return target


def _wait_for(store: Path) -> None:
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
        labels=tuple(config.labels),
        head=config.head or "",
        weight=config.weight,
        validation_path=config.validation_path,
        validation_fraction=config.validation_fraction,
        test_path=config.test_path,
    )


def _open(spec: DatasetSpec, config: DatasetConfig, cache: Path, seed: int, console: Console) -> OpenDataset:
    path = store_at(spec.path, config, name=spec.name, cache=cache, console=console)
    store = open_dataset(replace(spec, path=str(path)))
    if spec.validation_path is None:
        train, validation = split_by_group(store, spec.validation_fraction, seed)
        return OpenDataset(spec=spec, store=store, train_indices=train, validation_store=store, validation_indices=validation)
    held_path = store_at(spec.validation_path, config, name=f"{spec.name}-validation", cache=cache, console=console)
    held_out = open_dataset(replace(spec, path=str(held_path)))
    return OpenDataset(
        spec=spec,
        store=store,
        train_indices=np.arange(len(store)),
        validation_store=held_out,
        validation_indices=np.arange(len(held_out)),
    )


def _sources(path: str, config: DatasetConfig, name: str, console: Console) -> dict[str, LabelSource]:
    if config.sources:
        return {
            property: LabelSource(key=label.key, unit=label.unit, sign=label.sign, virial=label.virial)
            for property, label in config.sources.items()
        }
    chosen = detect_format(path) if config.format == "auto" else config.format
    if chosen != "ase":
        raise ValueError(
            f"dataset {name!r}: keys and units of the labels in {path} are not stated; add datasets.{name}.sources.energy.key=... "
            "and .unit=..., or convert it first with unipot prepare"
        )
    sources = default_labels(path)
    said = ", ".join(f"{name} from {source.key!r} in {source.unit}" for name, source in sources.items())
    console.print(f"  {name}: labels taken as ASE writes them: {said}", highlight=False)
    return sources


def _convert(path: str, config: DatasetConfig, sources: Mapping[str, LabelSource], name: str, target: Path, console: Console) -> None:
    items = read_structures(path, labels=sources, format=config.format, group_key=config.group_key, id_key=config.id_key)
    provenance = {"path": path, "labels": {label: asdict(source) for label, source in sources.items()}}
    source = Source(name=name, level_of_theory=config.level_of_theory, labels=tuple(sources), items=items, provenance=provenance)
    write_store(source, target, overwrite=True, show_census=False, console=console)


def _with_known_elements(opened: Sequence[OpenDataset], console: Console) -> list[OpenDataset]:
    """Move held-out structures with elements that their head never trains on to training (or leave them out)."""
    trained: dict[str, np.ndarray] = {}
    for item in opened:
        present = composition_counts(item.store, item.train_indices).any(axis=0)
        trained[item.spec.head] = trained.get(item.spec.head, np.zeros_like(present)) | present
    result = []
    for item in opened:
        counts = composition_counts(item.validation_store, item.validation_indices)
        strange = (counts[:, ~trained[item.spec.head]] > 0).any(axis=1)
        moved = item.validation_indices[strange]
        if len(moved):
            own = item.validation_store is item.store
            train = np.sort(np.concatenate([item.train_indices, moved])) if own else item.train_indices
            item = replace(item, train_indices=train, validation_indices=item.validation_indices[~strange])
            verb = "moved to training" if own else "left out of validation"
            what = f"{len(moved)} held-out structures have elements that training lacks"
            console.print(f"  {item.spec.name}: {what}; {verb}", highlight=False)
        result.append(item)
    return result
