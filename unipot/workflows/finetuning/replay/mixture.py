"""What a fine-tuning run keeps training on beside the user's frames: pretraining sets, or structures that the model labels itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.workflows.finetuning.replay.pseudo_labels import self_labelled_sets
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.inputs.evaluation_sets import require_same_energy_kind, validation_sets
from unipot.zoo.card import read_card
from unipot.zoo.locate import model_path


def open_replay(config: FinetuneConfig, potential: Potential, cache: Path, console: Console) -> tuple[list[OpenDataset], list[OpenDataset]]:
    """The replayed pretraining sets, with their labels, and the self-labelled ones.

    Args:
        config: of the run.
        potential: the checkpoint, in the dtype of the run.
        cache: folder for stores made from structure files.
        console: for what is said while they are made.

    Raises:
        KeyError: a head does not exist.
        ValueError: a set and its head differ in level of theory or kind of energy, a set is named twice, or options
            contradict each other.
        FileNotFoundError: a path is not there.
    """
    sets: list[OpenDataset] = []
    if config.replay:
        local_cache = config.trainer.local_cache
        sets += open_datasets(config.replay, cache=cache, seed=config.seed, console=console, local_cache=local_cache)
    for item in sets:
        _check_fits_head(item, potential, f"replay.{item.spec.name}")
    if config.replay_pretrain_run:
        sets += _of_pretraining(config, potential, {item.spec.name for item in sets}, console)
    own_labels = self_labelled_sets(
        config.self_replay, potential, read_card(model_path(config.checkpoint)), seed=config.seed, cache=cache, console=console
    )
    return sets, own_labels


def weighted(own: Sequence[OpenDataset], replay: Sequence[OpenDataset], replay_share: float) -> list[OpenDataset]:
    """The user's sets and the replay sets with their shares of the draws.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not replay and len(own) == 1:
        return list(own)
    if replay and not 0 < replay_share < 1:
        raise InputError(f"replay_share is {replay_share}; it must be above 0 and below 1")
    found = []
    for sets, share in ((own, 1 - replay_share if replay else 1.0), (replay, replay_share)):
        total = sum(d.spec.weight or 1.0 for d in sets)
        found += [replace(d, spec=replace(d.spec, weight=share * (d.spec.weight or 1.0) / total)) for d in sets]
    return found


def _of_pretraining(config: FinetuneConfig, potential: Potential, named: set[str], console: Console) -> list[OpenDataset]:
    """Every dataset of `pretrain_run` that is not named in `replay`, split as it was there, with its weight of then."""
    if config.pretrain_run is None:
        raise InputError("replay_pretrain_run=true replays the datasets of pretrain_run; give that run's folder: pretrain_run=runs/...")
    sets = [item for item in validation_sets(config.pretrain_run, console) if item.spec.name not in named]
    for item in sets:
        _check_fits_head(item, potential, f"dataset {item.spec.name!r} of {config.pretrain_run}")
    return sets


def _check_fits_head(item: OpenDataset, potential: Potential, what: str) -> None:
    level = potential.heads[item.spec.head].level_of_theory
    if level != item.spec.level_of_theory:
        raise InputError(f"{what} is {item.spec.level_of_theory!r}, but head {item.spec.head!r} is {level!r}; give its own head")
    require_same_energy_kind(potential, item.spec.head, item.store)
