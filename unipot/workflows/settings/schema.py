"""Schemas of the configuration. Numbers live in `conf/`; here are names and types, so that nothing unknown slips through.

The dataclasses are not frozen: OmegaConf turns frozen ones read-only and could not merge into them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass(kw_only=True)
class BackboneConfig:
    """`name` out of the registry and its constructor arguments; what is null of the native ones is filled from the data.

    `core_repulsion`: fraction of the sum of covalent radii where the repulsion of `unipot.models.core_repulsion` ends, for pairs that
    training data have closer where those begin; null for none.
    """

    name: str = MISSING
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    core_repulsion: float | None = None


@dataclass(kw_only=True)
class LabelConfig:
    """Where a label is found in a file that is not a store, and what its numbers mean (see `unipot.data.labels`).

    `key`: `energy` of a calculation's output is that at zero electronic temperature, `free_energy` the one that forces belong to.
    `order`: of six stress numbers: voigt (xx yy zz yz xz xy, as ASE), vasp (xx yy zz xy yz zx), lammps (xx yy zz xy xz yz), or the six
    components in words.
    """

    key: str = MISSING
    unit: str = MISSING
    sign: str = "positive"
    virial: bool = False
    order: str = "voigt"


@dataclass(kw_only=True)
class PropertyConfig:
    """One scalar property of the user's frames and its head, see `unipot.models.property_heads`.

    `kind`: intensive or extensive. `threshold`: largest error that counts as a success, in `unit`. `weight`: of its loss, which is
    taken in standard deviations of the training values. `members`: of the ensemble.
    """

    key: str = MISSING
    unit: str = MISSING
    kind: str = "intensive"
    threshold: float | None = None
    weight: float = 1.0
    members: int = 4
    n_hidden: int = 32


@dataclass(kw_only=True)
class DatasetConfig:
    """One dataset: a prepared store, or a structure file that is converted on first use.

    `labels` must be present in the data. `sources` is needed only for a file whose labels are not what ASE calls
    energy (eV), forces (eV/Å) and stress (eV/Å³, positive under tension). `energy_kind`: total, adsorption, formation or difference;
    null takes the store's own, and total for a structure file. `split_by`: group (the default), composition, elements or
    structure; `held_out_elements` for a split by elements (see `unipot.data.mixture.splits`).
    """

    path: str = MISSING
    level_of_theory: str = MISSING
    energy_kind: str | None = None
    labels: list[str] = field(default_factory=lambda: ["energy", "forces"])
    head: str | None = None
    weight: float | None = None
    validation_path: str | None = None
    validation_fraction: float = 0.1
    split_by: str | None = None
    held_out_elements: list[str] | None = None
    test_path: str | None = None
    format: str = "auto"
    group_key: str | None = None
    id_key: str | None = None
    columns: dict[str, str] = field(default_factory=dict)  # geometry field -> column; of a structure file charge, spin and fixed atoms
    split: str | None = None  # Hugging Face: which split, where there are several
    sources: dict[str, LabelConfig] = field(default_factory=dict)
    keep_unconverged: bool = False  # frames of VASP, Quantum ESPRESSO and GPAW outputs whose electrons did not converge
    check_labels: bool = True  # of a file: stop when labels contradict the energies of near-identical frames


@dataclass(kw_only=True)
class MixtureConfig:
    """How datasets share a step, and the budgets of a micro-batch. `micro_batches_per_step`: None is one per process."""

    temperature: float = MISSING
    structures_per_step: int = MISSING
    micro_batches_per_step: int | None = None
    max_atoms: int = MISSING
    max_edges: int = MISSING
    max_cost: float | None = None


@dataclass(kw_only=True)
class ReferenceConfig:
    """Reference energies of one head; which mode needs which option is told in `unipot.workflows.construction.reference_fits`.

    `values`: element symbol -> eV, or the path of a JSON or YAML file with that. `atoms`: where free atoms are found,
    `dataset` or the path of a store or structure file.
    """

    mode: str | None = None
    values: Any = None
    atoms: str | None = None


@dataclass(kw_only=True)
class HeadsConfig:
    """Heads made for a run. `scale`: eV, or `auto` (see `unipot.workflows.construction.model`). `references`: by head."""

    n_hidden: int = MISSING
    scale: str | float = MISSING
    direct_forces: bool = MISSING
    references: dict[str, ReferenceConfig] = field(default_factory=dict)


@dataclass(kw_only=True)
class TermConfig:
    """One loss term, see `unipot.training.losses.PropertyTerm`."""

    weight: float = MISSING
    kind: str = MISSING
    delta: float = MISSING


@dataclass(kw_only=True)
class StressTermConfig(TermConfig):
    per_volume: bool = MISSING


@dataclass(kw_only=True)
class ForceTermConfig(TermConfig):
    relative: float = 0.0


@dataclass(kw_only=True)
class LossConfig:
    energy: TermConfig = field(default_factory=TermConfig)
    forces: ForceTermConfig = field(default_factory=ForceTermConfig)
    stress: StressTermConfig = field(default_factory=StressTermConfig)
    scaling: str = MISSING
    frozen_atoms: str = "exclude"
    dataset_weights: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class RuleConfig:
    """One parameter rule, see `unipot.training.optim.ParameterRule`."""

    name: str = MISSING
    patterns: list[str] = MISSING
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(kw_only=True)
class OptimizerConfig:
    """Kind, rates, clipping and weight average. `rules` replaces the default policy (everything learns)."""

    learning_rate: float = MISSING
    weight_decay: float = MISSING
    betas: tuple[float, float] = MISSING
    epsilon: float = MISSING
    clip_norm: float | None = MISSING
    ema_decay: float = MISSING
    kind: str = "adamw"
    momentum: float = 0.95
    rules: list[RuleConfig] = field(default_factory=list)


@dataclass(kw_only=True)
class ScheduleConfig:
    max_steps: int = MISSING
    warmup_steps: int = MISSING
    final_fraction: float = MISSING


@dataclass(kw_only=True)
class SelectionConfig:
    """Which validation number chooses `best.safetensors`: the mean over datasets, weighted by `loss.dataset_weights`."""

    property: str = "auto"
    statistic: str = "mae"


@dataclass(kw_only=True)
class TrainerConfig:
    """Hardware and rhythm of a run."""

    accelerator: str = MISSING
    devices: int = MISSING
    num_nodes: int = MISSING
    strategy: str = MISSING
    threads: int | None = MISSING
    workers: int = MISSING
    prefetch_factor: int | None = None
    neighbors: str = "workers"
    local_cache: str | None = None
    dtype: str = MISSING
    activation_checkpointing: bool = False
    matmul_precision: str = "highest"
    deterministic: bool = MISSING
    compile: bool = False
    validate_every: int = MISSING
    patience: int | None = None
    checkpoint_every: int = MISSING
    log_every: int = MISSING
    progress: bool = MISSING
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    thresholds: dict[str, float] = field(default_factory=dict)

    @property
    def n_processes(self) -> int:
        """As many as the run asks for, or was started in."""
        return max(self.devices * self.num_nodes, int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def in_several_processes(self) -> bool:
        return self.n_processes > 1


@dataclass(kw_only=True)
class LoggerConfig:
    """Besides `metrics.csv`, which is always written."""

    wandb: bool = MISSING
    wandb_mode: str = MISSING
    wandb_project: str = MISSING


@dataclass(kw_only=True)
class PretrainConfig:
    """`unipot pretrain`: train one model, with one head per level of theory, on a mixture of datasets."""

    run: str = MISSING
    resume: str = "auto"
    start_from: str | None = None
    seed: int = MISSING
    cache: str | None = None
    sample_structures: int = 32
    sample_differences: int = 2000
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass(kw_only=True)
class EvaluationSetConfig:
    """A set that one head of the checkpoint is measured on, before and after. `head`: by default the set's name."""

    path: str = MISSING
    head: str | None = None
    format: str = "auto"
    sources: dict[str, LabelConfig] = field(default_factory=dict)


@dataclass(kw_only=True)
class UserDataConfig:
    """What `unipot finetune` needs to know of the user's frames beyond their path; all of it has defaults.

    `properties`: scalars that are not energies, by name; with `labels: []`, or in a file without energies, they stand alone.
    `sources` is needed only where labels are not energy (eV), forces (eV/Å) and stress (eV/Å³) as ASE writes them. `columns`: where
    `total_charge`, `spin_multiplicity` and `fixed` are found under other names than those understood.
    """

    name: str | None = None
    level_of_theory: str | None = None
    energy_kind: str | None = None
    labels: list[str] | None = None
    format: str = "auto"
    group_key: str | None = None
    id_key: str | None = None
    sources: dict[str, LabelConfig] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    check_labels: bool = True
    keep_unconverged: bool = False
    properties: dict[str, PropertyConfig] = field(default_factory=dict)
    n_train: int | None = None
    validation_data: str | None = None
    validation_fraction: float = 0.15
    test_data: str | None = None


@dataclass(kw_only=True)
class PrepareConfig:
    """Options of `unipot prepare`; give `path` or `recipe`.

    `labels` maps a property to its key, unit and (stress) sign in the source, for example `labels.energy.key=REF_energy
    labels.energy.unit=eV`. Without it a structure file is read with ASE's names and units, and the log says so.
    """

    path: str | None = None  # a file, a folder, a pattern with *, a store, or hf://owner/name
    recipe: str | None = None  # a name, or the path of a recipe's folder
    name: str | None = None  # null: the recipe's name, or the file's
    to: str = "store"  # store, or parquet: a folder for Hugging Face datasets, made from a store
    out: str | None = None  # folder to make; null: <name>.unipot (or <name>-parquet) here
    level_of_theory: str | None = None  # must be stated for a path, unless the source says it itself
    energy_kind: str | None = None  # of a path: total, adsorption, formation or difference; null: as a store says, else total
    labels: dict[str, LabelConfig] = field(default_factory=dict)
    format: str = "auto"  # auto, ase, aselmdb, huggingface, unipot
    group_key: str | None = None  # info key or column of the material or trajectory
    id_key: str | None = None  # info key or column of a unique id
    columns: dict[str, str] = field(default_factory=dict)  # geometry field -> column, e.g. columns.spin_multiplicity=total_spin
    split: str | None = None  # Hugging Face: which split, where there are several
    options: dict[str, Any] = field(default_factory=dict)  # of the recipe
    raw: str | None = None  # folder with the recipe's raw files; null: they are downloaded
    offline: bool = False  # download nothing
    verify: bool = True  # compare raw files that are there with sizes and hashes of the card
    allow_missing: bool = False  # convert the raw files that are there
    workers: int | None = None  # processes; null: one per processor where there is enough to do
    structures_per_shard: int = 100_000
    precision: str = "float64"  # of positions and forces on disk, float64 or float32
    compression: str | None = None  # of records: null or zstd
    quarantine: dict[str, Any] = field(default_factory=dict)  # thresholds, over those of the card
    on_invalid: str | None = None  # a broken structure: refuse stops, skip lists it; null: refuse for a path, skip for a recipe
    check_labels: bool = True  # stop when labels contradict the energies of near-identical frames
    keep_unconverged: bool = False  # frames of VASP, Quantum ESPRESSO and GPAW outputs whose electrons did not converge
    check_disk: bool = True  # stop before the work when free space will not do
    overwrite: bool = False


@dataclass(kw_only=True)
class EvaluateConfig:
    """Schema of `conf/evaluate.yaml`. `data` and `head` take one value, or lists of equal length."""

    checkpoint: str = MISSING
    data: Any = None
    head: Any = None
    output: str | None = None
    energy_kind: str | None = None
    labels: list[str] | None = None
    format: str = "auto"
    sources: dict[str, LabelConfig] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    keep_unconverged: bool = False
    max_atoms: int = MISSING
    max_edges: int = MISSING
    device: str = MISSING
    dtype: str | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    uncertainty_frames: int = 200
    unknown_elements: str = "warn"
