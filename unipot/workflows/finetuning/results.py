"""What a fine-tuning leaves beside its weights: the card, the summary, the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from unipot.evaluation.records import Evaluation
from unipot.finetune.lora import LoraReport
from unipot.models.potential import Potential
from unipot.reporting.error_tables import error_table, property_table
from unipot.reporting.tables import ReportTable
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.further_sets import also_summary
from unipot.workflows.finetuning.preparation import FinetuneState
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.search.search_plan import Settled
from unipot.workflows.finetuning.strategy import strategy_facts
from unipot.workflows.runs.artifact_export import references_of, training_card
from unipot.workflows.runs.finetune_run import ALIGNMENT_FILE, SUMMARY_FILE
from unipot.workflows.runs.fit import FitResult
from unipot.workflows.runs.provenance import today, versions
from unipot.workflows.runs.run_folder import RunFolder, write_json, write_whole
from unipot.zoo.artifact import load_potential
from unipot.zoo.card import read_card
from unipot.zoo.locate import model_path
from unipot.zoo.sample import kept_sample


def card_of(context: FinetuneContext, settled: Settled, state: FinetuneState, lora: LoraReport | None) -> dict[str, Any]:
    """Facts for the artifact's card: choice of the parent and alignment included."""
    assert state.start is not None
    config, datasets, adaptation = settled.config, state.datasets, state.start.adaptation
    facts = {
        "head": datasets[0].spec.head,
        "checkpoint": Path(config.checkpoint).name,
        **({"method": "from scratch"} if config.from_scratch else strategy_facts(config.finetune, lora)),
    }
    facts |= {"small_data": settled.searched.to_dict()} if settled.searched else {}
    card = {**training_card("finetune", context.run.path.name, config, datasets), "finetune": {**facts, **adaptation.to_dict()}}
    if config.from_scratch:
        return {**card, "references": references_of(adaptation.statistics)}
    return {**card, **kept_sample(read_card(model_path(config.checkpoint)))}


def chosen_potential(run: RunFolder, dtype: torch.dtype) -> Potential:
    """The best weights on the held-out frames; without held-out frames the last ones are copied to `best.safetensors`."""
    if not run.best.exists():
        write_whole(run.best, run.last.read_bytes())
    return load_potential(run.best, dtype=dtype)


def model_name(config: FinetuneConfig) -> str:
    """How tables and legends call the result of a training with these settings."""
    return "from scratch" if config.from_scratch else f"fine-tuned ({config.finetune.method})"


def write_summary(context: FinetuneContext, state: FinetuneState, result: FitResult, seconds: float) -> None:
    """Files for `unipot report`: what was done, and the alignment.

    Args:
        context: of the run.
        state: after the last stage.
        result: of the training.
        seconds: that everything took in this call: search and distillation included.
    """
    assert state.start is not None and state.settled is not None
    run, config, frames, adaptation = context.run, state.settled.config, state.frames, state.start.adaptation
    own, searched = frames.dataset, state.settled.searched
    summary = {
        "name": run.path.name,
        "model": model_name(config),
        "dataset": own.spec.name,
        "head": own.spec.head,
        "level_of_theory": own.spec.level_of_theory,
        "parent": adaptation.parent,
        **({"also": [also_summary(each) for each in frames.further]} if frames.further else {}),
        "from_scratch": config.from_scratch,
        "method": "all weights" if config.from_scratch else config.finetune.method,
        "n_frames": frames.n_frames,
        "n_training": len(own.train_indices),
        "n_validation": len(own.validation_indices),
        "n_steps": result.step,
        "structures_per_step": config.mixture.structures_per_step,
        "best_step": result.step if result.best is None else result.best[0],
        "seconds": round(result.seconds, 1),
        "seconds_in_all": round(seconds, 1),
        "seed": config.seed,
        "distillation": adaptation.teacher,
        "search": {} if searched is None else {"trials": len(searched.trials), "steps": sum(trial.steps for trial in searched.trials)},
        "store": str(own.store.path),
        "made_with": versions(),
        "date": today(),
    }
    write_json(run.path / SUMMARY_FILE, summary)
    if adaptation.alignment is not None:
        adaptation.write(run.path / ALIGNMENT_FILE)


def show_results(console: Console, run: RunFolder, evaluations: Sequence[Evaluation], forgotten: ReportTable | None) -> None:
    """Errors before and after, and where everything is."""
    console.rule("done")
    if any(e.get("energy", "mae") is not None or e.get("forces", "mae") is not None for e in evaluations):
        console.print(error_table(evaluations, "Before and after fine-tuning", best=len({e.dataset for e in evaluations}) == 1).to_rich())
    properties = property_table(evaluations, "Properties")
    if properties.rows:
        console.print(properties.to_rich())
    if forgotten is not None:
        console.print(forgotten.to_rich())
    console.print(f"model: {run.best}\nreport: unipot report finetune_runs=[{run.path}]", highlight=False, markup=False, soft_wrap=True)
