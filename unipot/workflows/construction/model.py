"""From configuration and statistics to a potential, a loss and a parameter policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from unipot.data.spec import levels_of_heads
from unipot.data.statistics import ForceStatistics, force_statistics, mean_neighbors
from unipot.errors import InputError
from unipot.models.backbone import Backbone
from unipot.models.heads import Head, HeadBank
from unipot.models.potential import Potential
from unipot.models.references import CompositionReference
from unipot.models.registry import build_backbone
from unipot.training.losses import PropertyTerm, StepLoss, dataset_factors
from unipot.training.optim import OptimizerSettings, ParameterPolicy, ParameterRule, WarmupCosine, build_policy
from unipot.workflows.construction.admitted_states import with_trained_states
from unipot.workflows.construction.reference_fits import ReferenceReport, head_reference
from unipot.workflows.construction.repulsion_reach import core_repulsion_of
from unipot.workflows.inputs.datasets import OpenDataset, trained_elements
from unipot.workflows.settings.device_names import DTYPES
from unipot.workflows.settings.schema import BackboneConfig, HeadsConfig, LossConfig, OptimizerConfig, ReferenceConfig, ScheduleConfig

SCALINGS = ("none", "head")
#: eV; a scale below this would make the readout of a nearly relaxed dataset hard to train
SMALLEST_SCALE = 0.05


@dataclass(frozen=True, kw_only=True)
class HeadStatistics:
    """What the training data of one head say.

    Attributes:
        head: name.
        level_of_theory: in words.
        datasets: names of the datasets that use it.
        reference: energy per element.
        report: of the reference; its kind of energy is that of the head.
        force_rms: eV/Å.
        scale: eV.
    """

    head: str
    level_of_theory: str
    datasets: tuple[str, ...]
    reference: CompositionReference
    report: ReferenceReport
    force_rms: float
    scale: float


def dtype_named(name: str) -> torch.dtype:
    """Raises ValueError for anything but float32 and float64."""
    if name not in DTYPES:
        raise InputError(f"trainer.dtype is {name!r}; use one of: {', '.join(DTYPES)}")
    return getattr(torch, name)  # type: ignore[no-any-return]


def head_statistics(datasets: Sequence[OpenDataset], config: HeadsConfig, *, cache: Path, console: Console) -> list[HeadStatistics]:
    """References and scales, one per head, from training structures only.

    The automatic scale is the largest of force RMS times 1 Å, the energy per atom that the references leave
    unexplained, and 0.05 eV: the readout then works with numbers of order one.

    Args:
        datasets: opened, all heads together.
        config: section `heads`.
        cache: folder for stores made from files of free atoms.
        console: for what is said while such files are converted.

    Raises:
        ValueError: the scale is neither `auto` nor a positive number, or references cannot be had as asked for.
        FileNotFoundError: a file of reference values is not there.
    """
    if config.scale != "auto" and not (isinstance(config.scale, int | float) and config.scale > 0):
        raise InputError(f"heads.scale is {config.scale!r}; use auto, or a positive number in eV")
    levels = levels_of_heads([item.spec for item in datasets])
    if unknown := sorted(set(config.references) - set(levels)):
        raise InputError(f"heads.references.{unknown[0]}: this run makes no such head; its heads are: {', '.join(levels)}")
    trained = trained_elements(datasets)
    result = []
    for head, level in levels.items():
        own = [item for item in datasets if item.spec.head == head]
        wanted = config.references.get(head, ReferenceConfig())
        reference, report = head_reference(head, own, trained, wanted, cache=cache, console=console)
        rms = ForceStatistics.together(force_statistics(d.store, d.train_indices) for d in own).rms
        scale = max(rms, report.rmse_per_atom or 0.0, SMALLEST_SCALE) if config.scale == "auto" else float(config.scale)
        names = tuple(d.spec.name for d in own)
        result.append(
            HeadStatistics(
                head=head,
                level_of_theory=level,
                datasets=names,
                reference=reference,
                report=report,
                force_rms=rms,
                scale=scale,
            )
        )
    return result


def average_neighbors(datasets: Sequence[OpenDataset], shares: Sequence[float], cutoff: float) -> float:
    """Neighbours per atom within `cutoff` (Å): the mean over datasets, weighted by how often each is drawn."""
    return float(np.average([mean_neighbors(d.store, cutoff, d.train_indices) for d in datasets], weights=shares))


def backbone_hyperparameters(config: BackboneConfig, datasets: Sequence[OpenDataset]) -> dict[str, object]:
    """`config.hyperparameters` with `average_neighbors: null` and the trained charges and spins filled in from the data."""
    hyperparameters = dict(config.hyperparameters)
    if "average_neighbors" in hyperparameters and hyperparameters["average_neighbors"] is None:
        sizes = [float(len(d.train_indices)) ** 0.5 for d in datasets]
        hyperparameters["average_neighbors"] = round(max(average_neighbors(datasets, sizes, float(hyperparameters["cutoff"])), 1.0), 4)
    return with_trained_states(hyperparameters, datasets)


def build_potential(
    backbone: BackboneConfig, heads: HeadsConfig, datasets: Sequence[OpenDataset], statistics: Sequence[HeadStatistics], dtype: torch.dtype
) -> Potential:
    """Fresh weights, references and scales from the data.

    Raises:
        ValueError: backbone or hyperparameter unknown, or an element that the backbone does not know occurs.
    """
    body = build_backbone(backbone.name, backbone_hyperparameters(backbone, datasets))
    bank = HeadBank()
    for item in statistics:
        bank.add(fresh_head(item, body, heads))
    return Potential(body, bank, core_repulsion_of(backbone.core_repulsion, datasets)).to(dtype)


def fresh_head(item: HeadStatistics, body: Backbone, heads: HeadsConfig) -> Head:
    """Random weights, scale and references from the data."""
    return Head(
        item.head,
        level_of_theory=item.level_of_theory,
        energy_kind=item.report.energy_kind,
        n_channels=body.n_channels,
        n_vector_channels=body.n_vector_channels,
        n_hidden=heads.n_hidden,
        scale=item.scale,
        reference=item.reference,
        direct_forces=heads.direct_forces,
    )


def build_loss(config: LossConfig, names: Sequence[str], scales: Sequence[float], labels: Sequence[Sequence[str]]) -> StepLoss:
    """The terms with a weight above 0 whose property at least one dataset has.

    Args:
        config: section `loss`.
        names: of the datasets.
        scales: eV, per dataset, of its head.
        labels: per dataset, the properties its store has.

    Raises:
        ValueError: an option is unknown, or no term is left.
    """
    if config.scaling not in SCALINGS:
        raise InputError(f"loss.scaling is {config.scaling!r}; use one of: {', '.join(SCALINGS)}")
    shared = {
        "dataset_weights": dataset_factors(names, config.dataset_weights, "loss.dataset_weights"),
        "scales": torch.tensor(list(scales), dtype=torch.float64) if config.scaling == "head" else None,
    }
    forces = {"frozen_atoms": config.frozen_atoms, "relative": config.forces.relative}
    terms = []
    for name, term in (("energy", config.energy), ("forces", config.forces), ("stress", config.stress)):
        options = {"stress": {"per_volume": config.stress.per_volume}, "forces": forces}.get(name, {})
        built = PropertyTerm(property=name, weight=term.weight, kind=term.kind, delta=term.delta, **options, **shared)
        if term.weight > 0 and any(name in own for own in labels):
            terms.append(built)
    if not terms:
        raise InputError("no dataset has a label whose loss weight is above 0; raise loss.energy.weight or loss.forces.weight")
    return StepLoss(terms=tuple(terms))


def of_length(schedule: ScheduleConfig, steps: int) -> ScheduleConfig:
    """`schedule` with so many steps, of which the warm-up takes at most a fifth."""
    return replace(schedule, max_steps=steps, warmup_steps=min(schedule.warmup_steps, steps // 5))


def build_settings(optimizer: OptimizerConfig, schedule: ScheduleConfig) -> tuple[OptimizerSettings, WarmupCosine]:
    """Checked numbers of the sections `optimizer` and `schedule`."""
    settings = OptimizerSettings(
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        betas=(optimizer.betas[0], optimizer.betas[1]),
        epsilon=optimizer.epsilon,
        clip_norm=optimizer.clip_norm,
        ema_decay=optimizer.ema_decay,
        kind=optimizer.kind,
        momentum=optimizer.momentum,
    )
    steps = WarmupCosine(
        max_steps=schedule.max_steps,
        warmup_steps=min(schedule.warmup_steps, max(schedule.max_steps - 1, 0)),
        final_fraction=schedule.final_fraction,
    )
    return settings, steps


def build_parameter_policy(potential: Potential, optimizer: OptimizerConfig) -> ParameterPolicy:
    """`optimizer.rules` if there are any, else everything learns."""
    policy = build_policy(potential)
    if not optimizer.rules:
        return policy
    rules = [
        ParameterRule(name=rule.name, patterns=tuple(rule.patterns), lr_scale=rule.lr_scale, weight_decay=rule.weight_decay)
        for rule in optimizer.rules
    ]
    return ParameterPolicy(rules=tuple(rules), no_decay=policy.no_decay)

