"""Several sets of a user's own in one run: each keeps its level of theory in a head of its own, all train the same backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from unipot.data.spec import free_head_name
from unipot.errors import InputError
from unipot.workflows.finetuning.schema import FurtherSetConfig
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.user_frames import UserFrames, open_user_frames


def open_further_sets(
    first: UserFrames, configs: Mapping[str, FurtherSetConfig], taken: Sequence[str], *, seed: int, cache: Path, console: Console
) -> UserFrames:
    """`first` with the further sets of section `also` in its `further`.

    Args:
        first: the frames at `data`.
        configs: name of a set -> how to open it.
        taken: names of heads that are in the checkpoint.
        seed, cache, console: as for `data`.

    Raises:
        ValueError: a set has the name of another, or the head of one; see also `open_user_frames`.
        FileNotFoundError: a path is not there.
    """
    heads, opened = [*taken, first.dataset.spec.head], []
    for name, config in configs.items():
        if name == first.dataset.spec.name:
            raise InputError(f"also.{name} has the name of the set at data; give it another name, or name that one with name=...")
        if config.name is not None:
            raise InputError(f"also.{name}.name is {config.name!r}, but the key is the name already; leave it out")
        head = config.head or free_head_name(name, heads)
        if head in heads:
            raise InputError(f"also.{name}: head {head!r} exists already; each set gets a head of its own, so choose another name")
        heads.append(head)
        opened.append(open_user_frames(config.path, replace(config, name=name), head=head, seed=seed, cache=cache, console=console))
    weighed = [
        replace(frames, dataset=replace(frames.dataset, spec=replace(frames.dataset.spec, weight=config.weight)))
        for frames, config in zip(opened, configs.values(), strict=True)
    ]
    return replace(first, further=tuple(weighed))


def own_datasets(frames: UserFrames) -> list[OpenDataset]:
    """The user's sets, that of `data` first."""
    return [each.dataset for each in (frames, *frames.further)]


def also_summary(frames: UserFrames) -> dict[str, Any]:
    """What the summary tells of a further set."""
    own = frames.dataset
    sizes = {"n_frames": frames.n_frames, "n_training": len(own.train_indices), "n_validation": len(own.validation_indices)}
    return {"dataset": own.spec.name, "head": own.spec.head, "level_of_theory": own.spec.level_of_theory, **sizes}
