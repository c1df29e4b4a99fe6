"""Scalar properties of a user's frames: read beside the labels, or alone where there are no energies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from unipot.data.readers.assumed_labels import keys_of
from unipot.data.readers.scalars import read_scalar_frames
from unipot.data.scalar_columns import attach_scalars
from unipot.data.storage.format import SUFFIX
from unipot.data.storage.writer import StoreWriter
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.properties import ScalarProperty
from unipot.workflows.inputs.datasets import store_at
from unipot.workflows.settings.schema import DatasetConfig, PropertyConfig


def scalars_of_config(configs: Mapping[str, PropertyConfig]) -> list[ScalarProperty]:
    """Checked properties, in the order given.

    Raises:
        ValueError: a name, key, unit, kind or threshold is not allowed.
    """
    return [
        ScalarProperty(name=name, key=config.key, unit=config.unit, kind=config.kind, threshold=config.threshold)
        for name, config in configs.items()
    ]


def store_with_scalars(
    path: str,
    config: DatasetConfig,
    properties: Sequence[ScalarProperty],
    *,
    labels: Sequence[str] | None,
    name: str,
    cache: Path,
    console: Console,
) -> Path:
    """`store_at`, with a column for each property; without energies a store of structures and properties alone.

    Args:
        path: a file that ASE reads, or a prepared store, which must have the properties already.
        config: how to read it.
        properties: what to read beside the labels; without any this is `store_at`.
        labels: asked for; an empty list leaves all labels out.
        name: of the dataset.
        cache: folder for a store made from a file.
        console: counts are said here.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a property is absent everywhere, not one number, or in another unit than the store's.
    """
    if not properties:
        return store_at(path, config, name=name, cache=cache, console=console)
    if (Path(path) / "metadata.json").is_file():
        _require_scalars(Store(path), properties, labels)
        return Path(path)
    if not Path(path).is_file():
        if Path(path).is_dir() or "*" in path:
            raise InputError(f"{path}: properties are read from one structure file or a prepared store; join the files, or prepare a store")
        raise FileNotFoundError(f"{path}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    alone = labels is not None and not labels
    alone |= labels is None and not config.sources and "energy" not in keys_of(path)
    if alone:
        return _store_of_scalars(Path(path), config, properties, name, cache, console)
    read = [prop.key for prop in properties]
    store = store_at(path, config, name=name, cache=cache, console=console, also_read=read)
    values: dict[str, dict[str, float]] = {prop.name: {} for prop in properties}
    for structure, found in read_scalar_frames(path, properties, group_key=config.group_key, id_key=config.id_key):
        for key, value in found.items():
            values[key][structure.id] = value
    _say_properties(console, name, properties, attach_scalars(store, properties, values), len(Store(store)))
    return store


def _store_of_scalars(
    path: Path, config: DatasetConfig, properties: Sequence[ScalarProperty], name: str, cache: Path, console: Console
) -> Path:
    """A store of the frames that have a value, without labels."""
    stat = path.stat()
    what = [str(path.absolute()), stat.st_size, stat.st_mtime_ns, config.level_of_theory, config.group_key, config.id_key]
    what += [[prop.name, prop.key, prop.unit] for prop in properties]
    target = cache / f"{name}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}{SUFFIX}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):  # one process of a run makes it, the others find it
        if (target / "scalars.json").is_file():
            return target
        skipped = 0
        values: dict[str, dict[str, float]] = {prop.name: {} for prop in properties}
        writer = StoreWriter(
            target,
            name=name,
            level_of_theory=config.level_of_theory,
            labels=(),
            overwrite=True,
            provenance={"path": str(path)},
        )
        with writer:
            for structure, found in read_scalar_frames(path, properties, group_key=config.group_key, id_key=config.id_key):
                for key, value in found.items():
                    values[key][structure.id] = value
                skipped += not found
                if found:
                    writer.add(structure)
        n_structures = len(Store(target))
        console.print(f"  {name}: properties alone, no energies; {skipped} frames without any value were skipped", highlight=False)
        _say_properties(console, name, properties, attach_scalars(target, properties, values), n_structures)
    return target


def _say_properties(console: Console, name: str, properties: Sequence[ScalarProperty], counts: Mapping[str, int], n: int) -> None:
    for prop in properties:
        have = f"{counts[prop.name]} of {n} frames have a value"
        console.print(f"  {name}: {prop.name} ({prop.kind}) from {prop.key!r} in {prop.unit}: {have}", highlight=False, markup=False)


def _require_scalars(store: Store, properties: Sequence[ScalarProperty], labels: Sequence[str] | None) -> None:
    if labels is not None and not labels and store.labels:
        raise InputError(f"{store.path}: labels=[] is for structure files; this store brings its own labels, so leave labels=[] out")
    for prop in properties:
        stored = store.scalars.get(prop.name)
        if stored is None:
            raise InputError(
                f"properties.{prop.name}: {store.path} has no such column, it has: {', '.join(store.scalars) or 'none'}; attach it with "
                "unipot.data.scalar_columns.attach_scalars, or give the structure file"
            )
        if stored["unit"] != prop.unit:
            raise InputError(
                f"properties.{prop.name}.unit is {prop.unit!r}, but {store.path} has it in {stored['unit']!r}; correct one of them"
            )
