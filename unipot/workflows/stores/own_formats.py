"""Sources that say themselves what they are: unipot's stores, and what it exported to Parquet."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unipot.data.conversion.parts import FileSource, PartSource
from unipot.data.conversion.source_description import SourceDescription
from unipot.data.conversion.store_source import StoreSource
from unipot.data.labels import LabelSource
from unipot.data.quality.quarantine import Thresholds
from unipot.data.readers.exported import describe_dataset
from unipot.data.readers.unipot_store import describe_stores, store_folders
from unipot.errors import InputError
from unipot.workflows.stores.make_store import Job

if TYPE_CHECKING:
    from unipot.workflows.settings.schema import PrepareConfig


def described_job(config: PrepareConfig, console: Console) -> Job | None:
    """The job for a source that describes itself; None for any other. What the command line states wins, and is said.

    Raises:
        ValueError: stores of different levels of theory are to become one, or an option does not apply.
    """
    assert config.path is not None
    if config.format in ("auto", "unipot") and store_folders(config.path):
        described = describe_stores(config.path)
        _refuse_options_of_files(config)
        labels = _chosen_labels(config, described)
        source: PartSource = StoreSource(path=config.path, labels=tuple(labels))
        format = "unipot"
    elif config.format in ("auto", "huggingface") and (found := describe_dataset(config.path)) is not None:
        described, format = found, "huggingface"
        labels = {name: LabelSource(**asdict(label)) for name, label in config.labels.items()} or dict(described.labels)
        source = FileSource(
            path=config.path,
            labels=labels,
            format=format,
            group_key=config.group_key or described.group_key,
            id_key=config.id_key or described.id_key,
            columns=config.columns,
            split=config.split,
        )
    else:
        return None
    _say_what_differs(config, described, console)
    return Job(
        source=source,
        name=config.name or described.name,
        level_of_theory=config.level_of_theory or described.level_of_theory,
        energy_kind=config.energy_kind or described.energy_kind,
        labels=tuple(labels),
        thresholds=Thresholds.from_card(config.quarantine),
        n_bytes=source.size(),
        provenance=_provenance(config.path, format, described),
    )


def described_name(path: str) -> str | None:
    """What a self-describing source calls its dataset; None for any other."""
    described = describe_stores(path) if store_folders(path) else describe_dataset(path)
    return None if described is None else described.name


def _refuse_options_of_files(config: PrepareConfig) -> None:
    for key in ("group_key", "id_key", "columns", "split"):
        if getattr(config, key):
            raise InputError(f"{config.path} is a store, whose structures carry their id and group; leave {key} out")


def _chosen_labels(config: PrepareConfig, described: SourceDescription) -> dict[str, LabelSource]:
    chosen = {name: LabelSource(**asdict(label)) for name, label in config.labels.items()}
    for name, source in chosen.items():
        if name not in described.labels:
            raise InputError(f"{config.path} has no label {name!r}; it has: {', '.join(described.labels)}")
        if source != described.labels[name]:
            own = described.labels[name]
            sign = f" labels.{name}.sign={own.sign}" if name == "stress" else ""
            raise InputError(
                f"{config.path} is a store, whose labels are in canonical units; to keep {name}, write labels.{name}.key={own.key} "
                f"labels.{name}.unit={own.unit}{sign}"
            )
    return chosen or dict(described.labels)


def _say_what_differs(config: PrepareConfig, described: SourceDescription, console: Console) -> None:
    for key in ("level_of_theory", "energy_kind"):
        stated, own = getattr(config, key), getattr(described, key)
        if stated and stated != own:
            console.print(f"{key} is {stated!r} as stated on the command line; {config.path} says {own!r}", highlight=False, soft_wrap=True)


def _provenance(path: str, format: str, described: SourceDescription) -> dict[str, Any]:
    return {"path": path, "format": format, "source": dict(described.provenance)}
