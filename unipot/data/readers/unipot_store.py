"""unipot's own stores as a source: to another precision or compression, with fewer labels, or several as one."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from unipot.data.conversion.source_description import SourceDescription
from unipot.data.labels import SkippedItem
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.structure import Structure


def store_folders(path: str | Path) -> list[Path]:
    """The stores that `path` stands for: one, those of a folder that holds nothing else, or those of a pattern with `*`.

    [] where it stands for anything else.
    """
    path = str(path)
    if _is_store(Path(path)):
        return [Path(path)]
    if "*" in path:
        found = [Path(name) for name in glob.glob(path)]
    else:
        found = [entry for entry in Path(path).glob("*") if not entry.name.startswith(".")] if Path(path).is_dir() else []
    return sorted(found) if all(_is_store(entry) for entry in found) else []


def describe_stores(path: str | Path) -> SourceDescription:
    """What the stores behind `path` say of themselves together.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: they are of different levels of theory or energy kinds.
    """
    stores = [Store(folder) for folder in store_folders(path)]
    if not stores:
        raise FileNotFoundError(f"{path}: there is no unipot store (a folder with metadata.json)")
    first = SourceDescription.of_store(stores[0])
    if len(stores) == 1:
        return first
    for store in stores[1:]:
        for what in ("level_of_theory", "energy_kind"):
            if getattr(store, what) != getattr(first, what):
                raise InputError(
                    f"{path}: {stores[0].path} has {what} {getattr(first, what)!r} and {store.path} {getattr(store, what)!r}; "
                    "only stores of one level of theory and one kind of energy can become one"
                )
    descriptions = [SourceDescription.of_store(store) for store in stores]
    return SourceDescription(
        name="-".join(store.name for store in stores),
        level_of_theory=first.level_of_theory,
        energy_kind=first.energy_kind,
        precision="float64" if any(d.precision == "float64" for d in descriptions) else first.precision,
        labels={name: source for d in descriptions for name, source in d.labels.items()},
        provenance={"merged": [{"name": store.name, "provenance": store.metadata["provenance"]} for store in stores]},
    )


def read_store(path: str | Path, *, labels: Iterable[str] | None = None, rows: range | None = None) -> Iterator[Structure | SkippedItem]:
    """Stream the structures of a store, in its order.

    Args:
        path: the store's folder.
        labels: properties to keep; None keeps all.
        rows: which structures; None takes all.

    Yields:
        Structures, and a `SkippedItem` for each that has none of `labels`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: a record is damaged.
    """
    store = Store(path)
    wanted = store.labels if labels is None else tuple(labels)
    for index in range(len(store)) if rows is None else rows:
        structure = store[index]
        kept = {name: structure.labels[name] for name in wanted if name in structure.labels}
        if len(kept) == len(structure.labels):
            yield structure
        elif kept:
            yield structure.with_labels(**kept)
        else:
            yield SkippedItem(where=structure.id, reason=f"has none of the labels {', '.join(wanted)}", invalid=False)


def _is_store(folder: Path) -> bool:
    return (folder / "metadata.json").is_file()
