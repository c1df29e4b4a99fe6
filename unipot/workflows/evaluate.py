"""`unipot evaluate`: errors of a model per dataset, property and element, in the arithmetic of validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from unipot.data.label_use import counted_labels
from unipot.data.mixture.selection import Selection
from unipot.data.spec import free_name, head_name_for
from unipot.data.statistics import elements_present
from unipot.errors import InputError, UnknownName
from unipot.evaluation.records import Evaluation, evaluate_head
from unipot.models.potential import Potential
from unipot.models.trained_elements import ElementGuard
from unipot.reporting.console import report_console
from unipot.reporting.error_bar_quality import ErrorBarQuality, quality_table
from unipot.reporting.error_tables import error_table, full_table
from unipot.reporting.plots import element_error_figure, parity_figure
from unipot.workflows.finetuning.further_sets import own_datasets
from unipot.workflows.finetuning.inputs import frames_of_run, stores_of
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.finetuning.user_properties import intervals_of, properties_in, show_intervals
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.inputs.evaluation_sets import EvaluationSet, pretrain_config, require_same_energy_kind, validation_sets
from unipot.workflows.inputs.user_frames import budget_for, frames_batches, name_of, open_frames
from unipot.workflows.runs.error_bars import judge_error_bars, write_error_bars
from unipot.workflows.runs.finetune_run import EVALUATIONS
from unipot.workflows.settings.compose import RESOLVED_CONFIG, checked_config, read_yaml, require_complete
from unipot.workflows.settings.device_names import device_named, optional_dtype
from unipot.workflows.settings.schema import EvaluateConfig, MixtureConfig, TrainerConfig, UserDataConfig
from unipot.zoo.artifact import load_artifact


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate, and the numbers that validation used."""

    sets: list[EvaluationSet]
    budget: MixtureConfig
    thresholds: dict[str, float]


def evaluate(config: EvaluateConfig) -> list[Evaluation]:
    """Print the tables and write JSON, Markdown, points and plots into the output folder.

    Raises:
        KeyError: a head does not exist, or must be given.
        ValueError: a dataset is empty, unlabelled, of unknown elements or another kind of energy, or an option is not allowed.
        FileNotFoundError: a path is not there.
    """
    require_complete(config, "evaluate")
    console = report_console()
    artifact = load_artifact(config.checkpoint, device=device_named(config.device), dtype=optional_dtype(config.dtype))
    potential = artifact.potential.eval()
    output = Path(config.output) if config.output else Path(config.checkpoint).parent / "evaluation"
    if config.data is None:
        plan = plan_of_run(Path(config.checkpoint).parent, config, potential, artifact.card, console)
    else:
        plan = plan_of_data(config, potential, artifact.card, output / "data", console)
    evaluations, quality = [], {}
    for item in plan.sets:
        require_same_energy_kind(potential, item.head, item.store)
    say_unknown_elements(potential, plan.sets, config.unknown_elements, console)
    for item in plan.sets:
        console.print(f"{item.name}: {len(item.indices)} structures through head {item.head}", highlight=False, markup=False)
        for sentence in counted_labels(item.store, item.indices).sentences(hint="errors on free and on all atoms stand side by side"):
            console.print(f"  {item.name}: {sentence}", highlight=False, markup=False, soft_wrap=True)
        batches = frames_batches(potential, item.store, item.indices, item.head, plan.budget)
        evaluations.append(
            evaluate_head(
                potential,
                batches,
                dataset=item.name,
                model=Path(config.checkpoint).name.removesuffix(".safetensors"),
                head=item.head,
                device=potential.device,
                thresholds=plan.thresholds,
            )
        )
        quality[item.name] = judge_error_bars(potential, item, plan.budget, config.uncertainty_frames, console)
    write_evaluations(output, evaluations, quality)
    show_evaluations(console, evaluations, output)
    intervals = [(item.name, report) for item in plan.sets for report in intervals_of(potential, item, plan.budget)]
    show_intervals(console, intervals, potential, output)
    return evaluations


def plan_of_data(config: EvaluateConfig, potential: Potential, card: dict[str, Any], cache: Path, console: Console) -> EvaluationPlan:
    """The datasets given on the command line.

    Raises:
        KeyError: a head does not exist, or must be given.
        ValueError: `data` and `head` differ in length.
    """
    paths, heads = _texts(config.data, "data"), [] if config.head is None else _texts(config.head, "head")
    if len(heads) not in (0, 1, len(paths)):
        raise InputError(f"{len(paths)} data and {len(heads)} heads are given; give one head, or one per dataset")
    heads = heads * len(paths) if len(heads) == 1 else heads
    reading = UserDataConfig(
        energy_kind=config.energy_kind,
        labels=config.labels,
        format=config.format,
        sources=config.sources,
        columns=config.columns,
        keep_unconverged=config.keep_unconverged,
    )
    sets: list[EvaluationSet] = []
    for number, path in enumerate(paths):
        reading = replace(reading, properties=properties_in(path, potential))
        name = free_name(name_of(path), [s.name for s in sets])
        store = open_frames(path, reading, name=name, cache=cache, console=console)
        head = heads[number] if heads else default_head(store.name, potential, card, console)
        potential.heads.index(head)
        sets.append(EvaluationSet(name=name, head=head, store=store, indices=Selection.everything(len(store))))
    budget = MixtureConfig(max_atoms=config.max_atoms, max_edges=config.max_edges)
    budget = budget_for([s.store for s in sets], budget, potential.cutoff, console)
    return EvaluationPlan(sets=sets, budget=budget, thresholds=config.thresholds)


def plan_of_run(folder: Path, config: EvaluateConfig, potential: Potential, card: dict[str, Any], console: Console) -> EvaluationPlan:
    """The validation sets of the run in `folder`, with its budgets: gives exactly the logged numbers.

    Raises:
        FileNotFoundError: there is no run in `folder`.
        ValueError: the run has no validation data.
    """
    file = folder / RESOLVED_CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"data is not given and {file} is missing; add data=<file or store>, or name a checkpoint in a run folder")
    content = OmegaConf.create(read_yaml(file))
    console.print(f"data is not given: validation sets of the run in {folder}", highlight=False, markup=False)
    if "checkpoint" in content:
        datasets, budget, trainer = _of_finetune(folder, content, potential, card, console)
    else:
        datasets, budget, trainer = _of_pretrain(folder, console)
    sets = [
        EvaluationSet(name=d.spec.name, head=d.spec.head, store=d.validation_store, indices=d.validation_indices)
        for d in datasets
        if len(d.validation_indices)
    ]
    if not sets:
        raise InputError(f"the run in {folder} has no validation data; add data=<file or store>")
    return EvaluationPlan(sets=sets, budget=budget, thresholds=config.thresholds or trainer.thresholds)


def say_unknown_elements(potential: Potential, sets: Sequence[EvaluationSet], mode: str, console: Console) -> None:
    """Once for each head: elements that none of its training frames held.

    Raises:
        ValueError: there are some and `mode` is `refuse`, or it is none of warn, refuse and allow.
    """
    say = lambda sentence: console.print(f"warning: {sentence}", style="yellow", highlight=False, markup=False)  # noqa: E731
    for head in dict.fromkeys(item.head for item in sets):
        present = np.any([elements_present(item.store, item.indices) for item in sets if item.head == head], axis=0)
        ElementGuard(potential.heads[head], mode, say).check(np.flatnonzero(present))


def default_head(dataset: str, potential: Potential, card: dict[str, Any], console: Console) -> str:
    """The head for a dataset when none is given: the only one, the one named after the dataset, or the fine-tuned one.

    Raises:
        KeyError: none of these.
    """
    names = potential.heads.names
    candidates = {
        "the only one": names[0] if len(names) == 1 else None,
        "named after the dataset": head_name_for(dataset),
        "the fine-tuned one": card.get("finetune", {}).get("head"),
    }
    for reason, name in candidates.items():
        if name in names:
            console.print(f"{dataset}: head is not given, taking {name!r} ({reason})", highlight=False, markup=False)
            return str(name)
    raise UnknownName(f"head is not given and dataset {dataset!r} does not tell; add head=..., one of: {', '.join(names)}")


def write_evaluations(output: Path, evaluations: Sequence[Evaluation], quality: Mapping[str, Sequence[ErrorBarQuality]]) -> None:
    """`metrics.json`, `metrics.md`, plots, and the files that `unipot report` reads; `quality` of the error bars by dataset."""
    output.mkdir(parents=True, exist_ok=True)
    for e in evaluations:
        e.save(output / EVALUATIONS / e.dataset)
        if e.parity():
            (output / f"parity_{e.dataset}.svg").write_bytes(parity_figure(e.parity(), e.dataset))
    write_error_bars(output, quality)
    bars = {name: {"error_bars": [q.to_dict() for q in own]} if own else {} for name, own in quality.items()}
    content = [{"dataset": e.dataset, "model": e.model, "head": e.head, **e.table.to_dict(), **bars[e.dataset]} for e in evaluations]
    (output / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    parts = [_summary(evaluations), *(full_table(e) for e in evaluations)]
    parts += [quality_table(e.dataset, e.head, quality[e.dataset]) for e in evaluations if quality[e.dataset]]
    (output / "metrics.md").write_text("\n\n".join(f"## {t.title}\n\n{t.to_markdown()}" for t in parts) + "\n", encoding="utf-8")
    per_element = {e.dataset: e.force_mae_per_element() for e in evaluations if e.force_mae_per_element()}
    if per_element:
        (output / "force_error_by_element.svg").write_bytes(element_error_figure(per_element, "force error by element"))


def show_evaluations(console: Console, evaluations: Sequence[Evaluation], output: Path) -> None:
    """The tables, and where the files are."""
    for e in evaluations:
        console.print(full_table(e).to_rich())
    if len(evaluations) > 1:
        console.print(_summary(evaluations).to_rich())
    console.print(f"tables, points and plots: {output}", highlight=False, markup=False, soft_wrap=True)


def _summary(evaluations: Sequence[Evaluation]) -> Any:
    return error_table(evaluations, "Errors", best=False)


def _of_pretrain(folder: Path, console: Console) -> tuple[list[OpenDataset], MixtureConfig, TrainerConfig]:
    config = pretrain_config(folder)
    return validation_sets(folder, console), config.mixture, config.trainer


def _of_finetune(
    folder: Path, content: Any, potential: Potential, card: dict[str, Any], console: Console
) -> tuple[list[OpenDataset], MixtureConfig, TrainerConfig]:
    """The user's frames and replay sets, opened and split as in the run."""
    config: FinetuneConfig = checked_config(FinetuneConfig, content)
    cache = Path(config.cache) if config.cache else folder / "data"
    frames = frames_of_run(config, card["finetune"]["head"], potential, _older_heads(potential, card), cache, console)
    replay = open_datasets(config.replay, cache=cache, seed=config.seed, console=console) if config.replay else []
    budget = budget_for(stores_of(frames, replay), config.mixture, potential.cutoff, console)
    return [*own_datasets(frames), *replay], budget, config.trainer


def _older_heads(potential: Potential, card: dict[str, Any]) -> list[str]:
    """Heads that the run did not add, so that names of heads come out as in the run."""
    added = [item["alignment"]["head"] for item in (card["finetune"], *card["finetune"].get("also", [])) if item.get("alignment")]
    return [name for name in potential.head_names if name not in added]


def _texts(value: Any, what: str) -> list[str]:
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found or not all(isinstance(item, str) and item for item in found):
        raise InputError(f"{what} is {value!r}; give one text, or a list: '{what}=[a,b]'")
    return found
