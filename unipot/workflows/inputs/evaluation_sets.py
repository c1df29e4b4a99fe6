"""The sets a fine-tuning run is measured on before the first step and after the last: the user's, and the pretraining's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.data.mixture.selection import Selection
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.evaluation.records import Evaluation, evaluate_head
from unipot.models.potential import Potential
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets, store_at
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.inputs.user_frames import UserFrames, frames_batches
from unipot.workflows.settings.compose import RESOLVED_CONFIG, checked_config, read_yaml
from unipot.workflows.settings.schema import DatasetConfig, EvaluationSetConfig, MixtureConfig, PretrainConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Some structures of a store and the head that they are compared with."""

    name: str
    head: str
    store: Store
    indices: Selection | np.ndarray

    def measure(self, potential: Potential, model: str, mixture: MixtureConfig, head: str | None = None) -> Evaluation:
        """Errors of `potential` through `head` (default: its own).

        Raises:
            ValueError: the head predicts another kind of energy than the structures are labelled with.
        """
        head = head or self.head
        require_same_energy_kind(potential, head, self.store)
        batches = frames_batches(potential, self.store, self.indices, head, mixture)
        return evaluate_head(potential, batches, dataset=self.name, model=model, head=head, device=potential.device)


def open_evaluation_sets(
    configs: Mapping[str, EvaluationSetConfig],
    pretrain_run: str | None,
    potential: Potential,
    *,
    n_frames: int,
    cache: Path,
    console: Console,
) -> list[EvaluationSet]:
    """The pretraining sets to watch.

    Args:
        configs: section `forgetting`.
        pretrain_run: folder of the run that made the checkpoint; its validation sets are added.
        potential: the checkpoint.
        n_frames: of each set at most, evenly spread.
        cache: folder for stores made from files.
        console: for what is said while files are converted.

    Raises:
        KeyError: a head does not exist.
        ValueError: a set and its head differ in level of theory.
        FileNotFoundError: a path is not there.
    """
    found = [_evaluation_set(name, config, potential, cache, console) for name, config in configs.items()]
    if pretrain_run is not None:
        sets = validation_sets(pretrain_run, console)
        found += [
            EvaluationSet(name=d.spec.name, head=d.spec.head, store=d.validation_store, indices=d.validation_indices)
            for d in sets
            if len(d.validation_indices) and d.spec.head in potential.heads.names  # the checkpoint may be of an earlier run
        ]
    return [
        EvaluationSet(name=y.name, head=y.head, store=y.store, indices=y.indices[spread(len(y.indices), n_frames)])
        if len(y.indices) > n_frames
        else y
        for y in found
    ]


def validation_sets(run: str | Path, console: Console) -> list[OpenDataset]:
    """The datasets of a pretraining run, split as the run split them.

    Raises:
        FileNotFoundError: `run` is not the folder of a pretraining run.
    """
    config = pretrain_config(run)
    cache = Path(config.cache) if config.cache else Path(run) / "data"
    return open_datasets(config.datasets, cache=cache, seed=config.seed, console=console)


def pretrain_config(run: str | Path) -> PretrainConfig:
    """The configuration of a pretraining run.

    Raises:
        FileNotFoundError: `run` is not the folder of a pretraining run.
    """
    path = Path(run) / RESOLVED_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, so {str(run)!r} is not a run folder; give the one that `unipot pretrain run=...` made")
    content = read_yaml(path)
    if "datasets" not in content:
        raise FileNotFoundError(f"{path} is not of a pretraining run (it has no datasets); give the folder of `unipot pretrain run=...`")
    return checked_config(PretrainConfig, content)


def require_same_energy_kind(potential: Potential, head: str, store: Store) -> None:
    """Energies of `store` and of `head` may be compared; without energies in the store there is nothing to compare.

    Raises:
        ValueError: their kinds differ.
    """
    kind = potential.heads[head].energy_kind
    if "energy" in store.labels and store.energy_kind != kind:
        raise InputError(
            f"{store.path} has {store.energy_kind} energies, head {head!r} predicts {kind} ones, which are not comparable; choose another "
            f"head, or, if the labels are {kind} energies, say so with energy_kind={kind} when they are prepared or read"
        )


def _evaluation_set(name: str, config: EvaluationSetConfig, potential: Potential, cache: Path, console: Console) -> EvaluationSet:
    head = config.head or name
    potential.heads.index(head)
    level = potential.heads[head].level_of_theory
    kind = potential.heads[head].energy_kind
    reading = DatasetConfig(
        path=config.path, level_of_theory=level, energy_kind=kind, format=config.format, sources=dict(config.sources)
    )
    store = Store(store_at(config.path, reading, name=name, cache=cache, console=console))
    if store.level_of_theory != level:
        raise InputError(f"forgetting.{name}: {config.path} is {store.level_of_theory!r}, head {head!r} is {level!r}; give its own head")
    require_same_energy_kind(potential, head, store)
    return EvaluationSet(name=name, head=head, store=store, indices=Selection.everything(len(store)))


def save_evaluations(folder: Path, evaluations: Mapping[str, Evaluation | Sequence[Evaluation] | None]) -> None:
    """Write each evaluation as `<key>`, and each of a list as `<key>_<dataset>`."""
    for key, value in evaluations.items():
        if isinstance(value, Evaluation):
            value.save(folder / key)
        elif value is not None:
            for evaluation in value:
                evaluation.save(folder / f"{key}_{evaluation.dataset}")


def user_evaluation_sets(frames: UserFrames) -> list[EvaluationSet]:
    """What each of the user's sets is measured on; sets without test and held-out frames are left out."""
    found = [user_evaluation_set(each) for each in (frames, *frames.further)]
    return [evaluation_set for evaluation_set in found if evaluation_set is not None]


def evaluations_by_name(head: str, **evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """File name -> evaluation: `final` of `head`, that of the set at `data`, and `final_<head>` of a further set."""
    return {kind if e.head == head else f"{kind}_{e.head}": e for kind, found in evaluations.items() for e in found}


def user_evaluation_set(frames: UserFrames) -> EvaluationSet | None:
    """The test frames, or the held-out ones without them, or None."""
    own = frames.dataset
    if frames.test is not None:
        whole = Selection.everything(len(frames.test))
        return EvaluationSet(name=f"{own.spec.name} (test)", head=own.spec.head, store=frames.test, indices=whole)
    if len(own.validation_indices):
        name = f"{own.spec.name} (held out)"
        return EvaluationSet(name=name, head=own.spec.head, store=own.validation_store, indices=own.validation_indices)
    return None
