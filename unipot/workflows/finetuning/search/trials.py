"""Trials of small-data mode: short trainings in memory from a copy of the aligned start, each kept as soon as it is done."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unipot.data.store import Store
from unipot.errors import InputError
from unipot.finetune.lora import merged
from unipot.finetune.search.halving import DIVERGED, Rung, Trial, relative_error
from unipot.training.metrics import MetricTable, evaluate
from unipot.training.module import NonFiniteError, TrainingModule
from unipot.workflows.construction.model import of_length
from unipot.workflows.finetuning.alignment import Start
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.training_module import trial_module
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.user_frames import frames_batches
from unipot.workflows.runs.fit import fit_in_memory, in_memory
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.runs.run_folder import read_json, write_json
from unipot.zoo.artifact import save_artifact

#: in a run folder; finished trials by a digest of everything they depend on
TRIALS_FILE = "small_data_trials.json"
#: beside it; weights of trials, averaged as they were scored
WEIGHTS_FOLDER = "small_data_folds"
#: a trial with errors beyond so many times those of the start is not one that is chosen, so its weights are not kept
WORTH_KEEPING = 10.0
#: rows of a metric table that make the score, where frames are labelled with them
SCORED = ("energy_per_atom", "forces", "stress")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Frames trained on and frames held out.

    Attributes:
        training: positions in the store of the user's frames.
        store: of the held-out frames.
        held_out: positions there.
    """

    training: np.ndarray
    store: Store
    held_out: np.ndarray


class TrialRunner:
    """Runs trials with the optimizer, averages and loss of the final training.

    The held-out frames of a fold have been seen by the alignment of the start, which favours the start: training that
    beats it would also beat a start that had not seen them.

    Args:
        context: of the run, whose folder keeps finished trials.
        candidates: name -> configuration.
        folds: what is held out.
        start: the aligned model; copied for every trial.
        datasets: the user's first, then replay, which is trained on but not scored.
        fresh: random weights, for a candidate that is trained from scratch; errors are relative to those of `start` all
            the same.
        keeps_weights: whether the weights of trials are written to `weights`, one artifact each.
    """

    def __init__(
        self,
        context: FinetuneContext,
        candidates: Mapping[str, FinetuneConfig],
        folds: Sequence[Fold],
        start: Start,
        datasets: Sequence[OpenDataset],
        fresh: Start | None = None,
        keeps_weights: bool = False,
    ) -> None:
        self.context, self.candidates, self.folds, self.start, self.datasets = context, candidates, tuple(folds), start, tuple(datasets)
        self.fresh, self.keeps_weights = fresh, keeps_weights
        self.file, self.weights = context.run.path / TRIALS_FILE, context.run.path / WEIGHTS_FOLDER
        self.finished: dict[str, Any] = read_json(self.file) if self.file.is_file() else {}
        self._start_errors: dict[int, dict[str, float]] = {}

    def run(self, candidate: str, fold: int, rung: Rung) -> Trial:
        """The trial, read if it was finished before under the very same conditions."""
        config = self._config(candidate, rung)
        digest = self._digest(config, fold, rung)
        known = digest in self.finished
        if known:
            trial = Trial.from_dict({**self.finished[digest], "candidate": candidate})
        else:
            trial = self._train(config, candidate, fold, rung)
            self.finished[digest] = trial.to_dict()
            write_json(self.file, self.finished)
        shown = "diverged" if trial.score >= DIVERGED else f"{trial.score:.3f} of the start's error"
        took = "finished before" if known else f"{trial.seconds:.1f} s"
        self.context.console.print(f"  {candidate}: fold {fold + 1}, {rung.steps} steps: {shown}, {took}", highlight=False)
        return trial

    def weights_of(self, candidate: str, fold: int, rung: Rung) -> Path:
        """Where the weights of a trial are, if they are kept."""
        return self._weights_file(self._config(candidate, rung), fold, rung)

    def start_of(self, config: FinetuneConfig) -> Start:
        """The aligned model, or random weights."""
        return self.fresh if self.fresh is not None and config.from_scratch else self.start

    @property
    def start_has_seen(self) -> bool:
        """Whether a layer of the start's readout was solved for, on frames that are held out of trials too."""
        alignment = self.start.adaptation.alignment
        return alignment is not None and alignment.readout.fit is not None

    def start_errors(self, fold: int) -> dict[str, float]:
        """Errors of the aligned start on the held-out frames."""
        if fold not in self._start_errors:
            own, part = self.datasets[0], self.folds[fold]
            batches = frames_batches(self.start.potential, part.store, part.held_out, own.spec.head, self.context.budget)
            self._start_errors[fold] = scored(evaluate(self.start.potential, batches, [own.spec.name]), own.spec.name)
            if not self._start_errors[fold]:
                raise InputError(
                    f"fold {fold + 1} of small-data mode holds out frames of {own.spec.name} whose labels all have a weight of zero, so it "
                    "says nothing; leave those frames out of the data, or set small_data=off"
                )
        return self._start_errors[fold]

    def _train(self, config: FinetuneConfig, candidate: str, fold: int, rung: Rung) -> Trial:
        began = time.perf_counter()
        part, name, start = self.folds[fold], self.datasets[0].spec.name, self.start_errors(fold)
        own = replace(self.datasets[0], train_indices=part.training, validation_store=part.store, validation_indices=part.held_out)
        replay = [replace(d, validation_indices=np.empty(0, dtype=np.int64)) for d in self.datasets[1:]]
        begin = self.start_of(config)
        datasets, copied = [own, *replay], replace(begin, potential=copy.deepcopy(begin.potential))
        budget = self.context.budget
        data = mixture_data(datasets, budget, config.trainer, copied.potential, n_steps=rung.steps, seed=config.seed)
        try:
            module = trial_module(replace(self.context, config=config), copied, self.datasets)
            looks = fit_in_memory(module, data, config.trainer, every=rung.every)
            errors = [(step, scored(table, name)) for step, table in looks]
            curve = tuple((step, relative_error(own_errors, start)) for step, own_errors in errors)
            last = errors[-1][1]
            if self.keeps_weights and curve[-1][1] < WORTH_KEEPING:
                self._keep_weights(module, self._weights_file(config, fold, rung))
        except NonFiniteError:
            curve, last = ((rung.steps, DIVERGED),), {}
        seconds = round(time.perf_counter() - began, 2)
        return Trial(candidate=candidate, fold=fold, steps=rung.steps, errors=last, score=curve[-1][1], curve=curve, seconds=seconds)

    def _keep_weights(self, module: TrainingModule, path: Path) -> None:
        with module.average.applied():
            save_artifact(path, merged(module.potential.eval()), card={"name": "a model of a fold of small-data mode"})

    def _weights_file(self, config: FinetuneConfig, fold: int, rung: Rung) -> Path:
        return self.weights / f"{self._digest(config, fold, rung)[:32]}.safetensors"

    def _config(self, candidate: str, rung: Rung) -> FinetuneConfig:
        """Of a trial: its own number of steps, a warm-up of at most a fifth of them, nothing compiled for so short a time."""
        config = self.candidates[candidate]
        return replace(config, schedule=of_length(config.schedule, rung.steps), trainer=in_memory(config.trainer))

    def _digest(self, config: FinetuneConfig, fold: int, rung: Rung) -> str:
        """Of everything that the numbers of a trial depend on."""
        part = self.folds[fold]
        sections = (config.optimizer, config.finetune, config.schedule, config.loss, self.context.budget)
        what = {
            "settings": [asdict(section) for section in sections],
            "rung": [rung.steps, rung.every],
            "fold": [part.training.tolist(), str(part.store.path), part.held_out.tolist()],
            "datasets": [asdict(d.spec) for d in self.datasets],
            "seed": config.seed,
            "start": self._start_digest if self.start_of(config) is self.start else f"from scratch, seed {config.seed}",
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()

    @cached_property
    def _start_digest(self) -> str:
        content = hashlib.sha256()
        for name, value in sorted(self.start.potential.state_dict().items()):
            if isinstance(value, torch.Tensor):
                content.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return content.hexdigest()


def scored(table: MetricTable, dataset: str) -> dict[str, float]:
    """Property -> mean absolute error of one dataset, of those in `SCORED` that are labelled."""
    return {
        row.property: row.mae
        for row in table.rows
        if row.dataset == dataset and row.element is None and row.property in SCORED and row.mae is not None
    }
