"""What `unipot finetune` can be told: its configuration, section by section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from unipot.workflows.settings.schema import (
    DatasetConfig,
    EvaluationSetConfig,
    HeadsConfig,
    LoggerConfig,
    LossConfig,
    MixtureConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
    UserDataConfig,
)

NONE, AUTO = "none", "auto"
#: methods of the group `finetune` that other modules ask for by name
FULL, LORA = "full", "lora"
#: `self_replay.structures`: those in the checkpoint's card
SAMPLE = "sample"
#: sections of the configuration whose stated options are left alone
STATED = ("finetune", "optimizer", "schedule", "validation_fraction", "mixture")


@dataclass(kw_only=True)
class TeacherConfig:
    """`method`: none, gfn1-xtb or gfn2-xtb (tblite), or auto (see `method_choice`). `frames`: labelled in all;
    `periodic_atoms`: of all of them together, where they are periodic. `temperature`: K, of the Langevin dynamics that
    starts from every frame of the user's. `steps_before`, `steps_between`: of 1 fs, before the first labelled frame and
    between two. `max_steps`, `structures_per_step`: of the training on them. `corrected`: whether the labels are
    corrected by a model of the difference to the user's frames first (`delta_learning`); `own_share`: of the draws
    then, that are the user's frames; `own_steps`, `own_rate`: of the training on them alone that follows, the latter in
    rates of the optimizer. `known_share`: of the draws while the difference is learned, that are differences which the
    checkpoint carries (`delta_replay`), for
    `known_steps` at `known_rate` rates of the optimizer. The values here are those of a run from before there were these options."""

    method: str = NONE
    frames: int = 2000
    temperature: float = 600.0
    steps_before: int = 50
    steps_between: int = 5
    max_steps: int = 2400
    structures_per_step: int = 15
    corrected: bool = False
    own_share: float = 0.1
    own_steps: int = 600
    own_rate: float = 0.15
    periodic_atoms: int = 20000
    known_share: float = 0.0
    known_steps: int = 2500
    known_rate: float = 2.0


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank updates, see `unipot.finetune.lora.LoraSettings`; `alpha: null` is the rank. For method `lora` only."""

    rank: int | None = None
    alpha: float | None = None
    patterns: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    lr_scale: float = 1.0


@dataclass(kw_only=True)
class StrategyConfig:
    """Group `finetune`: which parameters move, see `unipot.training.optim.build_policy`.

    `l2_to_start`: pull towards the weights at the start (`unipot.training.starting_point`), with any method.
    """

    method: str = MISSING
    freeze_groups: int = MISSING
    layer_decay: float = MISSING
    head_lr_scale: float = MISSING
    l2_to_start: float = 0.0
    l2_to_start_heads: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def kept_layers(self) -> str:
        """The option that keeps layers or matrices of the backbone as they are, in words; empty where none does."""
        if self.method in ("heads-only", "lora"):
            return f"finetune={self.method}"
        return f"finetune.freeze_groups={self.freeze_groups}" if self.method in ("freeze", "layerwise") and self.freeze_groups else ""


@dataclass(kw_only=True)
class SelfReplayConfig:
    """`structures`: none, sample (those in the checkpoint's card), or the path of a structure file or store.

    `head`: the one that labels a path's structures; null takes every head that has references for their elements. The
    sample says itself which head belongs to which structure. `rattle`: Å, standard deviation of the displacements of
    one further copy of each structure, 0 for no copy. `max_structures`: per head, before the copies.
    """

    structures: str = NONE
    head: str | None = None
    rattle: float = 0.05
    max_structures: int = 1000

    @property
    def wanted(self) -> bool:
        return self.structures != NONE


@dataclass(kw_only=True)
class FurtherSetConfig(UserDataConfig):
    """One more set beside `data`; what is not given here has the defaults of `data`, not its values."""

    path: str = MISSING
    head: str | None = None
    parent_head: str = AUTO
    weight: float = 1.0


@dataclass(kw_only=True)
class SmallDataConfig:
    """Group `small_data`. `candidates`: name -> what differs, of the sections `optimizer` and `finetune`; null leaves it out.

    The values here are those of a run from before there was the mode, which may be continued; `conf/small_data` has the
    defaults.
    """

    mode: str = "off"
    below: int = 0
    search_budget: float = 0.0
    longer: float = 1.0
    folds: int = 0
    all_frames_below: int = 0
    patience: int | None = None
    from_scratch: str = "never"
    candidates: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class SearchedConfig:
    """The sections that a candidate may change."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    finetune: StrategyConfig = field(default_factory=StrategyConfig)


@dataclass(kw_only=True)
class FinetuneConfig(UserDataConfig):
    """`unipot finetune`: adapt `checkpoint` to the frames at `data`."""

    run: str | None = None
    resume: str = "auto"
    seed: int = MISSING
    cache: str | None = None
    checkpoint: str = MISSING
    data: str = MISSING
    head: str | None = None
    parent_head: str = AUTO
    new_elements: str = "from-neighbors"
    alignment: str = "shift"
    uncertainty: str = "last-layer"
    from_scratch: bool = False
    also: dict[str, FurtherSetConfig] = field(default_factory=dict)
    replay: dict[str, DatasetConfig] = field(default_factory=dict)
    replay_pretrain_run: bool = False
    replay_share: float = MISSING
    self_replay: SelfReplayConfig = field(default_factory=SelfReplayConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    forgetting: dict[str, EvaluationSetConfig] = field(default_factory=dict)
    pretrain_run: str | None = None
    forgetting_frames: int = MISSING
    finetune: StrategyConfig = field(default_factory=StrategyConfig)
    atoms_per_step: int | None = None
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    small_data: SmallDataConfig = field(default_factory=SmallDataConfig)
    stated: list[str] = field(default_factory=list, metadata={"sections": STATED})
