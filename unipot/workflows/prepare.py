"""`unipot prepare`: structures from a file or a recipe into a store, with a census and a quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from unipot.data.catalog.raw_files import RawFolder, bytes_to_fetch, contents_size, raw_folder
from unipot.data.catalog.recipes import Recipe, load_recipe
from unipot.data.conversion.disk import in_words, require_space
from unipot.data.conversion.parts import FileSource, RecipeSource, find_files, format_of
from unipot.data.labels import LabelSource
from unipot.data.quality.quarantine import Thresholds
from unipot.data.readers.label_notes import notes_of_files
from unipot.data.readers.unipot_store import store_folders
from unipot.data.spec import allowed_name
from unipot.data.store import SUFFIX, Store
from unipot.errors import InputError
from unipot.properties import property_named
from unipot.reporting.console import report_console
from unipot.resources import data_recipes_dir
from unipot.workflows.settings.compose import require_complete
from unipot.workflows.settings.schema import PrepareConfig
from unipot.workflows.stores.fetch import fetch_raw_files, find_raw_files
from unipot.workflows.stores.make_store import Job, StoreOptions, make_store, refuse_existing
from unipot.workflows.stores.own_formats import described_job, described_name
from unipot.workflows.stores.to_parquet import export_store

#: bytes of a record besides its atoms, and per atom, at float64 with energy and forces
_BYTES_PER_STRUCTURE, _BYTES_PER_ATOM = 450, 50


def prepare(config: PrepareConfig, console: Console | None = None) -> Store:
    """Convert a file or the structures of a recipe to a store and print its census.

    A run that was interrupted goes on where it was when the same command is given again.

    Args:
        config: what to read and where to write.
        console: where progress and census go; standard output by default.

    Returns:
        The finished store; its folder also holds `census.json` and `quarantine.jsonl`. With `to=parquet` the store that was
        exported.

    Raises:
        FileNotFoundError: the source is not there.
        FileExistsError: the store is there already and `overwrite` is false.
        ValueError: an option is wrong, the source cannot be read, a structure is broken, or labels contradict energies.
        OSError: a download fails, the disk is full, or writing is not allowed.
    """
    require_complete(config, "prepare")
    console = console or report_console()
    _check_settings(config)
    if config.to == "parquet":
        return _prepare_parquet(config, console)
    options = StoreOptions(
        precision=config.precision,
        compression=config.compression,
        structures_per_shard=config.structures_per_shard,
        workers=config.workers,
        on_invalid=config.on_invalid or ("skip" if config.recipe else "refuse"),
        check_labels=config.check_labels,
        check_disk=config.check_disk,
        overwrite=config.overwrite,
    )
    job = _recipe_job(config, console) if config.recipe else _path_job(config, console)
    path = _target(config, job.name)
    console.print(f"preparing {path} from {config.recipe or config.path}", highlight=False, soft_wrap=True)
    limits = ", ".join(f"{name} {value}" for name, value in job.thresholds.to_dict().items() if value is not None)
    console.print(f"  quarantine beyond: {limits}", highlight=False, soft_wrap=True)
    return make_store(job, path, options, console)


def _prepare_parquet(config: PrepareConfig, console: Console) -> Store:
    """Export a store as it is, or make one of the source first; it stays, so that nothing is converted twice."""
    changes = (config.labels, config.level_of_theory, config.energy_kind, config.quarantine, config.precision != PrepareConfig.precision)
    existing = store_folders(config.path) if config.path else []
    as_it_is = not any(changes) and [Path(str(config.path))] == existing
    name = config.name or _default_name(config)
    folder = Path(config.out or f"{name}-parquet")
    refuse_existing(folder, config.overwrite)
    if as_it_is:
        store = Store(existing[0])
    else:
        target = folder.parent / f"{name}{SUFFIX}"
        if any(target.absolute() == store.absolute() for store in existing):
            raise InputError(f"{target} would have to be changed before the export; give the changed store a name of its own with name=")
        if target.exists() and not config.overwrite:
            raise FileExistsError(
                f"{target}, the store to be exported, exists already; export it: unipot prepare path={target} to=parquet out={folder}, "
                "or allow it to be replaced with overwrite=true"
            )
        store = prepare(replace(config, to="store", name=name, out=str(target)), console)
    export_store(store, folder, name=config.name, overwrite=config.overwrite, check_disk=config.check_disk, console=console)
    return store


def _target(config: PrepareConfig, name: str) -> Path:
    return Path(config.out or f"{name}{SUFFIX}")


def _check_settings(config: PrepareConfig) -> None:
    if config.to not in ("store", "parquet"):
        raise InputError(f"to is {config.to!r}; use store or parquet")
    if (config.path is None) == (config.recipe is None):
        raise InputError("give either path=<structures> or recipe=<name>, and not both")
    if config.recipe is not None:
        for key in ("labels", "level_of_theory", "columns", "split", "group_key", "id_key"):
            if getattr(config, key):
                hint = f"; its own choice is options.{key}" if key == "split" else ""
                raise InputError(f"recipe {config.recipe!r} states its own {key.replace('_', ' ')}; leave {key} out{hint}")
        return
    for key, value in (("options", config.options), ("raw", config.raw), ("allow_missing", config.allow_missing)):
        if value:
            what = f"options.{next(iter(config.options))}" if key == "options" else key
            raise InputError(f"{what} is for recipes; {config.path} is a file, leave it out")


def _recipe_job(config: PrepareConfig, console: Console) -> Job:
    assert config.recipe is not None
    recipe = load_recipe(data_recipes_dir(), config.recipe)
    recipe.check_options(config.options)
    thresholds = Thresholds.from_card({**recipe.card["quarantine"], **config.quarantine})
    target = _target(config, config.name or recipe.name)
    refuse_existing(target, config.overwrite)  # before anything is downloaded
    raw = _raw_files(recipe, config, target, console)
    return Job(
        source=RecipeSource(folder=data_recipes_dir(), name=config.recipe, raw=raw.path if raw else None, options=config.options),
        name=config.name or recipe.name,
        level_of_theory=recipe.level_for(config.options),
        energy_kind=recipe.energy_kind,
        labels=recipe.labels,
        thresholds=thresholds,
        total=recipe.n_structures(config.options),
        n_bytes=0,  # looked at before the download
        provenance={
            "recipe": recipe.name,
            "options": dict(config.options),
            "card": recipe.card,
            "raw_files": list(raw.files) if raw else [],
            "missing_files": list(raw.missing) if raw else [],
        },
    )


def _raw_files(recipe: Recipe, config: PrepareConfig, target: Path, console: Console) -> RawFolder | None:
    """The recipe's raw files, ready to read; None for a recipe that reads none."""
    if not recipe.reads_files:
        if config.raw or config.offline:
            raise InputError(f"recipe {recipe.name!r} computes its structures and reads no files; leave raw and offline out")
        return None
    needed = recipe.needed_files(config.options)
    folder = Path(config.raw).expanduser() if config.raw else raw_folder(recipe.name)
    existing = config.raw is not None or config.offline
    to_fetch = 0 if existing else bytes_to_fetch(needed, folder)
    store_bytes = _store_bytes(recipe, config.options)
    fetched = f"{in_words(to_fetch)} to download and unpack, " if to_fetch else ""
    size = f"about {in_words(store_bytes)} for the store" if store_bytes else "the size of the store is not known beforehand"
    console.print(f"raw files in {folder}: {fetched}{size}", highlight=False, soft_wrap=True)
    if config.check_disk:
        require_space({folder: to_fetch, target.parent: store_bytes}, f"recipe {recipe.name!r}")
    if existing:
        return find_raw_files(needed, folder, verify=config.verify, allow_missing=config.allow_missing, console=console)
    return fetch_raw_files(needed, folder, verify=config.verify, console=console)


def _store_bytes(recipe: Recipe, options: Mapping[str, Any]) -> int:
    """Estimate from the counts of the card where it has numbers, else from the sizes of its raw files."""
    counts, needed = recipe.card["counts"], recipe.needed_files(options)
    structures, atoms = counts.get("structures"), counts.get("atoms")
    if isinstance(structures, int) and isinstance(atoms, int) and len(needed) == len(recipe.sources):
        return structures * _BYTES_PER_STRUCTURE + atoms * _BYTES_PER_ATOM
    return sum(contents_size(source.file, source.size or 0) for source in needed)


def _path_job(config: PrepareConfig, console: Console) -> Job:
    assert config.path is not None
    described = described_job(config, console)
    if described is not None:
        return described
    if not config.level_of_theory:
        raise InputError(
            f"level_of_theory of {config.path} is not stated; state what its labels were computed with, for example level_of_theory=PBE"
        )
    format = format_of(config.path) if config.format == "auto" else config.format
    stated = {name: LabelSource(**asdict(label)) for name, label in config.labels.items()}
    labels = stated or _assumed_labels(config.path, format, console)
    if format == "ase":
        files = find_files(config.path, format).by_kind[format]
        for note in notes_of_files(files, labels, option="labels", level_of_theory=config.level_of_theory):
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    source = FileSource(
        path=config.path,
        labels=labels,
        format=format,
        group_key=config.group_key,
        id_key=config.id_key,
        columns=config.columns,
        split=config.split,
        keep_unconverged=config.keep_unconverged,
    )
    return Job(
        source=source,
        name=config.name or _name_of(config.path),
        level_of_theory=config.level_of_theory,
        energy_kind=config.energy_kind or "total",
        labels=tuple(labels),
        optional=() if stated else tuple(name for name in labels if name != "energy"),
        thresholds=Thresholds.from_card(config.quarantine),
        n_bytes=source.size(),
        provenance={"path": config.path, "format": format, "labels": {name: label.to_dict() for name, label in labels.items()}},
    )


def _default_name(config: PrepareConfig) -> str:
    if config.recipe:
        return load_recipe(data_recipes_dir(), config.recipe).name
    return described_name(str(config.path)) or _name_of(str(config.path))


def _name_of(path: str) -> str:
    """A dataset's name out of a path: without suffixes, and for a pattern the folder before its first `*`."""
    stem = Path(path).name if "*" not in path else Path(path.partition("*")[0] + "x").parent.name
    return allowed_name(stem.partition(".")[0]) or "structures"


def _assumed_labels(path: str, format: str, console: Console) -> dict[str, LabelSource]:
    if format != "ase":
        raise InputError(
            f"{path}: the labels of a {format} source must be stated, for example labels.energy.key=energy labels.energy.unit=eV "
            "labels.forces.key=forces labels.forces.unit=eV/A"
        )
    from unipot.data.readers.assumed_labels import assumed_labels

    assumed = assumed_labels(find_files(path, format).by_kind[format])
    for name, source in assumed.labels.items():
        sign = f", sign {property_named(name).sign}" if name == "stress" and not source.virial else ""
        sign = ", a virial: -dE/d(strain)" if source.virial else sign
        console.print(f"labels.{name} is not stated: reading key '{source.key}' in {source.unit}{sign}", highlight=False)
    for remark in assumed.remarks:
        console.print(f"  {remark}, for example with labels.{remark.split()[0]}.key=...", highlight=False, style="yellow", soft_wrap=True)
    return assumed.labels
