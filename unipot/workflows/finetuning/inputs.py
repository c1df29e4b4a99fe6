"""What a fine-tuning reads: the user's frames, the sets to replay, the pretraining sets to watch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.data.spec import free_head_name
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.workflows.construction.admitted_states import admit_states
from unipot.workflows.construction.repulsion_reach import admit_close_pairs
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.distillation.method_choice import choose_teacher
from unipot.workflows.finetuning.further_sets import open_further_sets, own_datasets
from unipot.workflows.finetuning.preparation import FinetuneState
from unipot.workflows.finetuning.replay.mixture import open_replay
from unipot.workflows.finetuning.replay.pseudo_labels import drift_evaluation_sets
from unipot.workflows.finetuning.schema import AUTO, FinetuneConfig
from unipot.workflows.finetuning.search.search_plan import is_stated, plan_search
from unipot.workflows.finetuning.user_properties import through_existing_head
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import EvaluationSet, open_evaluation_sets
from unipot.workflows.inputs.user_frames import UserFrames, budget_for, name_of, open_user_frames
from unipot.workflows.runs.run_folder import RunFolder


def open_everything(
    config: FinetuneConfig, potential: Potential, cache: Path, console: Console
) -> tuple[UserFrames, list[OpenDataset], list[EvaluationSet]]:
    """The user's frames, the replay sets, and the pretraining sets to watch.

    Raises:
        ValueError, KeyError, FileNotFoundError: see the functions called.
    """
    if config.from_scratch and config.also:
        raise InputError("from_scratch=true trains one head on the frames at data; also has further sets, so leave them out")
    if config.from_scratch and (config.replay or config.replay_pretrain_run or config.self_replay.wanted or config.parent_head != AUTO):
        raise InputError("from_scratch=true starts from random weights, so it has neither a parent_head nor replay; leave them out")
    if config.heads.references and not config.from_scratch:
        raise InputError("heads.references are for from_scratch=true: an aligned head takes its parent's references and shifts them")
    head = config.head or free_head_name(config.name or name_of(config.data), potential.head_names)
    frames = open_user_frames(config.data, config, head=head, seed=config.seed, cache=cache, console=console)
    parent = None if config.parent_head == AUTO else config.parent_head
    frames = through_existing_head(frames, potential, parent, from_scratch=config.from_scratch)
    frames = open_further_sets(frames, config.also, potential.head_names, seed=config.seed, cache=cache, console=console)
    replay, pseudo_labelled = open_replay(config, potential, cache, console)
    watched = {} if config.from_scratch else config.forgetting
    run_to_watch = None if config.from_scratch else config.pretrain_run
    known = open_evaluation_sets(watched, run_to_watch, potential, n_frames=config.forgetting_frames, cache=cache, console=console)
    return frames, [*replay, *pseudo_labelled], [*known, *drift_evaluation_sets(pseudo_labelled)]


def frames_of_run(
    config: FinetuneConfig, head: str, potential: Potential, older_heads: Sequence[str], cache: Path, console: Console
) -> UserFrames:
    """The user's frames as a finished run was trained on them: with nothing held out where small-data mode held nothing out.

    Args:
        config: of the run.
        head: of the frames at `data`.
        potential: the result of the run.
        older_heads: those that the run did not add, so that names of heads come out as in the run.
        cache: folder for stores made from structure files.
        console: what is assumed is said here.
    """
    frames = open_user_frames(config.data, config, head=head, seed=config.seed, cache=cache, console=console)
    frames = open_further_sets(frames, config.also, older_heads, seed=config.seed, cache=cache, console=console)
    plan = plan_search(config, frames, potential, Console(quiet=True))
    return plan.frames if plan else frames


def begin(
    config: FinetuneConfig, pretrained: Potential, run: RunFolder, console: Console
) -> tuple[FinetuneContext, FinetuneState, list[EvaluationSet]]:
    """Open what the run reads and decide what can be decided before anything is learned.

    Args:
        config: as the user gave it.
        pretrained: the checkpoint; charge states and close pairs of the frames are admitted.
        run: its folder.
        console: what is found and decided is said here.

    Returns:
        The context of all stages, the state that the first one takes, and the pretraining sets to watch.

    Raises:
        ValueError, KeyError, FileNotFoundError: see `open_everything`.
    """
    cache = run.cache(config.cache)
    frames, replay, known = open_everything(config, pretrained, cache, console)
    run.claim([*own_datasets(frames), *replay])
    config = choose_teacher(with_light_steps(config, frames, replay, console), frames.dataset, run, console)
    plan = plan_search(config, frames, pretrained, console)
    frames = plan.frames if plan else frames
    if not config.from_scratch:
        admit_states(console, pretrained, [*own_datasets(frames), *replay], frames.test)
        admit_close_pairs(console, pretrained, own_datasets(frames))
    budget = budget_for(stores_of(frames, replay, known), config.mixture, pretrained.cutoff, console)
    context = FinetuneContext(config=config, run=run, cache=cache, budget=budget, console=console)
    return context, FinetuneState(pretrained=pretrained, frames=frames, replay=replay, plan=plan), known


def with_light_steps(config: FinetuneConfig, frames: UserFrames, replay: Sequence[OpenDataset], console: Console) -> FinetuneConfig:
    """Fewer structures a step where they are large: as many as hold `atoms_per_step` on average, unless the user said how many.

    With replay, further sets or several processes a step is a mixture of the user's making and stays as it is.

    Raises:
        ValueError: `atoms_per_step` is not positive.
    """
    most = config.atoms_per_step
    if most is not None and most < 1:
        raise InputError(f"atoms_per_step is {most}; it must be at least 1, or null to leave structures_per_step as it is")
    own = frames.dataset
    if most is None or is_stated("mixture.structures_per_step", config) or replay or frames.further or config.trainer.in_several_processes:
        return config
    n_atoms = float(np.mean(own.store.n_atoms[np.asarray(own.train_indices)]))
    fitting = max(1, int(most / n_atoms))
    if fitting >= config.mixture.structures_per_step:
        return config
    text = f"  {fitting} structures a step instead of {config.mixture.structures_per_step}: they have {n_atoms:.0f} atoms"
    console.print(f"{text} (atoms_per_step={most}; mixture.structures_per_step=... says how many)", highlight=False, markup=False)
    return replace(config, mixture=replace(config.mixture, structures_per_step=fitting))


def stores_of(frames: UserFrames, replay: Sequence[OpenDataset], evaluation_sets: Sequence[EvaluationSet] = ()) -> list[Store]:
    """Every store of a run."""
    datasets = [store for d in [*own_datasets(frames), *replay] for store in (d.store, d.validation_store)]
    tests = [each.test for each in (frames, *frames.further) if each.test is not None]
    return [*datasets, *tests, *(y.store for y in evaluation_sets)]

