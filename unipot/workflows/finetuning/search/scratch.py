"""Random weights as one more candidate, where no head of the checkpoint follows the user's forces.

From a parent whose forces have a cosine of -0.15 with those of methanol on Ag(111), 30 frames ended at 27.3 meV/Å after
a search of 17 minutes; random weights reached 22.6 in two. What pretraining is worth is therefore measured where it is
in doubt.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from unipot.workflows.finetuning.alignment import Start, fresh_start
from unipot.workflows.finetuning.context import FinetuneContext
from unipot.workflows.finetuning.schema import AUTO, FULL, FinetuneConfig
from unipot.workflows.finetuning.search.search_plan import SmallDataPlan, is_stated, planned
from unipot.workflows.inputs.user_frames import UserFrames

#: name of the candidate
FROM_SCRATCH = "from-scratch"
#: times the rate of the run, with which random weights are trained: they have further to go
_RATE = 2.5


def is_in_doubt(config: FinetuneConfig, frames: UserFrames, start: Start) -> bool:
    """Whether no head follows the forces, and nothing that the user asked for needs the checkpoint.

    Old data to replay or to measure forgetting on need its heads, which random weights do not have.
    """
    if config.small_data.from_scratch != AUTO:
        return False
    replayed = config.replay or config.replay_pretrain_run or config.self_replay.wanted
    wanted = replayed or config.forgetting or config.pretrain_run or config.properties or frames.further
    chosen = config.from_scratch or config.parent_head != AUTO or is_stated("finetune", config) or config.finetune.method != FULL
    scores = start.adaptation.scores
    return bool(scores) and not any(score.follows for score in scores) and not (wanted or chosen)


def with_random_weights(context: FinetuneContext, plan: SmallDataPlan, start: Start) -> tuple[SmallDataPlan, Start]:
    """The plan with one candidate more, and random weights for it.

    Args:
        context: of the run.
        plan: of the search.
        start: the aligned model, whose architecture is taken.
    """
    config = context.config
    optimizer = config.optimizer
    if not is_stated("optimizer.learning_rate", config):
        optimizer = replace(optimizer, learning_rate=_RATE * optimizer.learning_rate)
    candidates = {**plan.candidates, FROM_SCRATCH: replace(config, from_scratch=True, optimizer=optimizer)}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        fresh = fresh_start(start.potential, plan.frames.dataset, config.heads, context.cache, context.quietly().console)
    fresh = replace(fresh, adaptation=replace(fresh.adaptation, scores=start.adaptation.scores))
    context.console.print("no head of the checkpoint follows your forces, so random weights are one more candidate", highlight=False)
    return planned(config, plan.frames, plan.folds, candidates, plan.by_folds), fresh
