"""`unipot prepare`: structures from a file or a recipe into a store, with a census."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from unipot.data.census import Census
from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers import detect_format, read_structures
from unipot.data.recipes import load_recipe
from unipot.data.store import SUFFIX, Store
from unipot.data.store_writer import StoreWriter
from unipot.properties import property_named
from unipot.resources import data_recipes_dir
from unipot.structure import Structure
from unipot.workflows.config import LabelConfig


@dataclass(kw_only=True)
class PrepareConfig:
    """Options of `unipot prepare`; give `path` or `recipe`.

    `labels` maps a property to its key, unit and (stress) sign in the source, for example `labels.energy.key=REF_energy
    labels.energy.unit=eV`. Without it a structure file is read with ASE's names and units, and the log says so.
    """

    path: str | None = None
    recipe: str | None = None
    name: str | None = None  # null: the recipe's name, or the file's
    out: str | None = None  # folder to make; null: <name>.unipot here
    level_of_theory: str | None = None  # must be stated for a path
    labels: dict[str, LabelConfig] = field(default_factory=dict)
    format: str = "auto"  # auto, ase, aselmdb, huggingface
    group_key: str | None = None  # info key or column of the material or trajectory
    id_key: str | None = None  # info key or column of a unique id
    columns: dict[str, str] = field(default_factory=dict)  # Hugging Face: geometry field -> column, e.g. columns.positions=xyz
    split: str | None = None  # Hugging Face: which split, where there are several
    options: dict[str, Any] = field(default_factory=dict)  # of the recipe
    precision: str = "float64"  # of positions and forces on disk, float64 or float32
    on_invalid: str = "refuse"  # a broken structure: refuse stops, skip counts it
    check_labels: bool = True  # stop when labels contradict the energies of near-identical frames
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """A stream of structures and what is known of it.

    Attributes:
        name: of the dataset.
        level_of_theory: of its labels.
        labels: properties its structures may carry.
        items: the structures, and what a reader skipped.
        total: how many items to expect, for the progress bar.
        provenance: JSON-able, kept in the store's metadata.
    """

    name: str
    level_of_theory: str
    labels: tuple[str, ...]
    items: Iterable[Structure | SkippedItem]
    total: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


def prepare(config: PrepareConfig, console: Console | None = None) -> Store:
    """Convert a file or the structures of a recipe to a store and print its census.

    Args:
        config: what to read and where to write.
        console: where progress and census go; standard output by default.

    Returns:
        The finished store; its folder also holds `census.json`.

    Raises:
        FileNotFoundError: the source is not there.
        FileExistsError: the store is there already and `overwrite` is false.
        ValueError: an option is wrong, the source cannot be read, a structure is broken, or labels contradict energies.
    """
    console = console or Console()
    _check(config)
    source = _recipe_source(config) if config.recipe else _path_source(config, console)
    path = Path(config.out or f"{source.name}{SUFFIX}")
    console.print(f"preparing {path} from {config.recipe or config.path}", highlight=False)
    return write_store(
        source,
        path,
        precision=config.precision,
        on_invalid=config.on_invalid,
        check_labels=config.check_labels,
        overwrite=config.overwrite,
        console=console,
    )


def write_store(
    source: Source,
    path: Path,
    *,
    precision: str = "float64",
    on_invalid: str = "refuse",
    check_labels: bool = True,
    overwrite: bool = False,
    show_census: bool = True,
    console: Console,
) -> Store:
    """Write the items of `source` to a store at `path` that also holds their census.

    Args:
        source: structures and what they are.
        path: folder to make.
        precision: see `StoreWriter`.
        on_invalid: `refuse` stops at a broken structure, `skip` counts it.
        check_labels: stop when labels contradict the energies of near-identical frames.
        overwrite: replace a store that is there.
        show_census: print the whole table, not only the counts.
        console: for progress and census.

    Raises:
        FileExistsError: the store is there already and `overwrite` is false.
        ValueError: a structure is broken, labels contradict energies, or nothing is left to store.
    """
    census = Census(source.name, source.level_of_theory)
    with StoreWriter(
        path,
        name=source.name,
        level_of_theory=source.level_of_theory,
        labels=source.labels,
        precision=precision,
        overwrite=overwrite,
        provenance=source.provenance,
    ) as writer:
        _write(source, writer, census, on_invalid, console)
        if show_census and len(writer):
            console.print(census.table())
        if check_labels:
            census.consistency().refuse_contradictions(source.name)
        writer.attach("census.json", census.to_dict())
    store = Store(path)
    console.print(f"wrote {path}: {len(store):,} structures, {census.n_skipped:,} skipped", highlight=False)
    if not show_census:
        for reason, n in census.skipped.most_common():
            console.print(f"  skipped {n:,}: {reason} (for example {census.skipped_examples[reason][0]})", highlight=False)
    return store


def _check(config: PrepareConfig) -> None:
    if (config.path is None) == (config.recipe is None):
        raise ValueError("give either path=<structures> or recipe=<name>, and not both")
    if config.on_invalid not in ("refuse", "skip"):
        raise ValueError(f"on_invalid is {config.on_invalid!r}; use refuse or skip")
    if config.recipe is not None and (config.labels or config.level_of_theory):
        raise ValueError(f"recipe {config.recipe!r} states its own labels and level of theory; leave labels and level_of_theory out")
    if config.path is not None and config.options:
        raise ValueError(f"options.{next(iter(config.options))} is for recipes; {config.path} is a file, leave it out")


def _recipe_source(config: PrepareConfig) -> Source:
    assert config.recipe is not None
    recipe = load_recipe(data_recipes_dir(), config.recipe)
    return Source(
        name=config.name or recipe.name,
        level_of_theory=recipe.level_of_theory,
        labels=recipe.labels,
        items=recipe.structures(**config.options),
        total=recipe.n_structures(config.options),
        provenance={"recipe": recipe.name, "options": dict(config.options), "card": recipe.card},
    )


def _path_source(config: PrepareConfig, console: Console) -> Source:
    assert config.path is not None
    if not config.level_of_theory:
        raise ValueError(
            f"level_of_theory of {config.path} is not stated; state what its labels were computed with, for example level_of_theory=PBE"
        )
    format = detect_format(config.path) if config.format == "auto" else config.format
    labels = {name: LabelSource(**asdict(label)) for name, label in config.labels.items()} or _assumed_labels(config.path, format, console)
    items = read_structures(
        config.path,
        labels=labels,
        format=format,
        group_key=config.group_key,
        id_key=config.id_key,
        columns=config.columns,
        split=config.split,
    )
    return Source(
        name=config.name or Path(config.path).stem,
        level_of_theory=config.level_of_theory,
        labels=tuple(labels),
        items=items,
        total=None,
        provenance={"path": str(config.path), "format": format, "labels": {name: asdict(source) for name, source in labels.items()}},
    )


def _assumed_labels(path: str, format: str, console: Console) -> dict[str, LabelSource]:
    if format != "ase":
        raise ValueError(
            f"{path}: the labels of a {format} source must be stated, for example labels.energy.key=energy labels.energy.unit=eV "
            "labels.forces.key=forces labels.forces.unit=eV/A"
        )
    from unipot.data.readers.ase_files import default_labels

    labels = default_labels(path)
    for name, source in labels.items():
        sign = f", sign {property_named(name).sign}" if name == "stress" else ""
        console.print(f"labels.{name} is not stated: reading key '{source.key}' in {source.unit}{sign}", highlight=False)
    return labels


def _write(source: Source, writer: StoreWriter, census: Census, on_invalid: str, console: Console) -> None:
    for item in _with_progress(source.items, source.total, f"reading {source.name}", console):
        if isinstance(item, Structure):
            census.add(writer.add(item))
        elif item.invalid and on_invalid == "refuse":
            raise ValueError(
                f"dataset {source.name!r}, {item.where}: {item.reason}; repair it, or leave such structures out: "
                "unipot prepare with on_invalid=skip"
            )
        else:
            census.skip(item)


def _with_progress(items: Iterable[Any], total: int | None, title: str, console: Console) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            yield item
            progress.advance(task)
