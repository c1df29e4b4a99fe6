"""Models of the folds that small-data mode has tried, kept to calibrate the error bars of the one trained on all frames."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.finetune.search.halving import Rung
from unipot.finetune.uncertainty.out_of_fold import FoldFrames
from unipot.workflows.finetuning.search.trials import Fold, TrialRunner
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.frame_limits import evenly
from unipot.workflows.inputs.user_frames import counted_batches
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import MixtureConfig
from unipot.zoo.artifact import load_potential


@dataclass(frozen=True, kw_only=True)
class FoldModel:
    """Where the model of a fold is."""

    fold: Fold
    path: Path


@dataclass(frozen=True, kw_only=True)
class FoldModels:
    """One model per fold, each trained without the held-out frames of the fold.

    Attributes:
        models: of the folds that the chosen candidate was tried on.
        start_has_seen: whether the readout that they started from was solved for on all frames.
        dataset: frames with the labels that the models have learned; None: the user's own.
    """

    models: tuple[FoldModel, ...]
    start_has_seen: bool
    dataset: OpenDataset | None = None

    def missing(self) -> list[Path]:
        """Files that are not there."""
        return [model.path for model in self.models if not model.path.is_file()]


def start_models(runner: TrialRunner, run: RunFolder) -> FoldModels:
    """Where nothing is trained the result, which is the start, has seen no frame of any fold but for its alignment."""
    models = tuple(FoldModel(fold=fold, path=run.best) for fold in runner.folds)
    return FoldModels(models=models, start_has_seen=runner.start_has_seen)


def trial_models(runner: TrialRunner, candidate: str, steps: int | None, rungs: Sequence[Rung]) -> FoldModels:
    """Of every fold that `candidate` was tried on its trial closest to `steps` (None: the longest); all other weights are deleted."""
    models = []
    for number, fold in enumerate(runner.folds):
        own = [rung for rung in rungs if number in rung.folds]
        if own:
            nearest = max(own, key=lambda rung: (-abs(rung.steps - steps) if steps else 0, rung.steps))
            models.append(FoldModel(fold=fold, path=runner.weights_of(candidate, number, nearest)))
    forget_trials(runner.weights, keep=[model.path for model in models])
    return FoldModels(models=tuple(models), start_has_seen=runner.start_has_seen)


def forget_trials(folder: Path, keep: Sequence[Path] = ()) -> None:
    """Delete the weights of trials in `folder`, but for those to `keep`."""
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.glob("*.safetensors"):
        if path not in keep:
            path.unlink()


def fold_frames(
    folds: FoldModels, dataset: OpenDataset, budget: MixtureConfig, limits: tuple[int, int], console: Console
) -> Iterator[FoldFrames] | None:
    """The models of the folds, one after the other, with the frames of each; None, and a sentence, where a model is gone.

    Args:
        folds: their models.
        dataset: the user's frames.
        budget: of a batch.
        limits: frames and atoms that are looked at, all folds together.
        console: for what is said.
    """
    if missing := folds.missing():
        console.print(
            f"warning: {len(missing)} of {len(folds.models)} models of the folds are not in {missing[0].parent} any more, so error bars "
            "are not calibrated out of fold",
            style="yellow",
            highlight=False,
            markup=False,
        )
        return None
    return _loaded(folds, folds.dataset or dataset, budget, limits, console)


def _loaded(
    folds: FoldModels, dataset: OpenDataset, budget: MixtureConfig, limits: tuple[int, int], console: Console
) -> Iterator[FoldFrames]:
    n_frames, n_atoms = (limit // len(folds.models) for limit in limits)
    for model in folds.models:
        potential = load_potential(model.path)
        read = lambda store, indices, own=potential: counted_batches(own, store, indices, dataset.spec.head, budget)  # noqa: E731
        held_out = evenly(model.fold.store, model.fold.held_out, n_frames, n_atoms, console, "calibrated out of fold on")
        yield FoldFrames(
            potential=potential,
            training=read(dataset.store, np.asarray(model.fold.training)),
            held_out=read(model.fold.store, held_out),
        )
