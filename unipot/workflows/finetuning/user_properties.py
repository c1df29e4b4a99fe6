"""Property heads in fine-tuning: refused, added, trained, calibrated and shown; alone or beside an energy head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from unipot.data.conversion.parts import format_of
from unipot.data.readers.assumed_labels import keys_of
from unipot.data.statistics import elements_present
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.finetune.properties.property_calibration import IntervalReport, calibrate_property, measure_intervals
from unipot.finetune.properties.property_start import new_property_head, require_known_elements
from unipot.models.potential import Potential
from unipot.reporting.tables import ReportTable
from unipot.structure import Structure, symbols_of
from unipot.training.losses import LossTerm, StepLoss
from unipot.training.property_loss import ScalarTerm
from unipot.workflows.construction.model import build_loss
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.evaluation_sets import EvaluationSet
from unipot.workflows.inputs.scalar_frames import scalars_of_config
from unipot.workflows.inputs.user_frames import UserFrames, frames_batches
from unipot.workflows.settings.schema import LossConfig, MixtureConfig, PropertyConfig
from unipot.zoo.artifact import RESERVED, load_artifact, save_artifact


def check_properties(
    configs: Mapping[str, PropertyConfig], potential: Potential, labels: Sequence[str] | None, *, compile: bool
) -> None:
    """Refuse what cannot be, before any work.

    Raises:
        ValueError: a property is not allowed or in the model already, or an option excludes properties.
    """
    for prop in scalars_of_config(configs):
        if prop.name in potential.property_heads:
            raise InputError(f"properties.{prop.name}: the checkpoint predicts it already; choose another name for the new head")
    for name, config in configs.items():
        if not config.weight > 0:
            raise InputError(f"properties.{name}.weight is {config.weight}; it must be positive, or leave the property out")
    if configs and compile:
        raise InputError("trainer.compile=true has no place for properties in its graph; set trainer.compile=false")
    if labels is not None and not labels and not configs:
        raise InputError("labels=[] leaves nothing to train on; name labels, or properties")


def through_existing_head(
    frames: UserFrames, potential: Potential, parent_head: str | None, *, from_scratch: bool
) -> UserFrames:
    """Frames without energies go through a head of the checkpoint, which stays as it is; others come back unchanged.

    Args:
        frames: of the user.
        potential: the checkpoint.
        parent_head: the head, None for the first that knows all elements.
        from_scratch: needs energies.

    Raises:
        ValueError: from scratch, or no head knows all elements.
        KeyError: there is no head `parent_head`.
    """
    own = frames.dataset
    if own.spec.labels:
        return frames
    if from_scratch:
        raise InputError("from_scratch=true needs energies, and the frames have properties alone; leave it out, or add energies")
    present = elements_present(own.store, np.arange(len(own.store)))
    names = potential.head_names if parent_head is None else (potential.heads[parent_head].name,)
    able = [name for name in names if not (present & ~potential.heads[name].reference.known.cpu().numpy()).any()]
    if not able:
        which = "no head" if parent_head is None else f"not even head {parent_head!r}"
        raise InputError(
            f"the frames have properties alone and the elements {symbols_of(np.flatnonzero(present))}; {which} of the checkpoint knows "
            "them all; give frames with energies, which make a head that does"
        )
    return replace(frames, dataset=replace(own, spec=replace(own.spec, head=able[0])))


def add_property_heads(
    potential: Potential, configs: Mapping[str, PropertyConfig], frames: UserFrames, *, seed: int, frozen_backbone: bool, console: Console
) -> None:
    """A head for each property, in place; the others stay bitwise.

    Raises:
        ValueError: see `new_property_head` and `require_known_elements`.
    """
    own = frames.dataset
    for prop in scalars_of_config(configs):
        config = configs[prop.name]
        head = new_property_head(
            prop,
            own.store,
            np.asarray(own.train_indices),
            n_channels=potential.backbone.n_channels,
            n_hidden=config.n_hidden,
            n_members=config.members,
            seed=seed,
        )
        require_known_elements(head, own.validation_store, np.asarray(own.validation_indices))
        if frames.test is not None:  # now, not after the training
            require_known_elements(head, frames.test, np.arange(len(frames.test)))
        console.print(
            f"property {prop.name}: {prop.kind}, {config.members} members, spread {float(head.spread):.4g} {prop.unit} around "
            f"{'the mean' if prop.kind == 'intensive' else 'one number per element'} of the training values",
            highlight=False,
            markup=False,
        )
        potential.property_heads.add(head.to(potential.device, potential.dtype))
    older = [name for name in potential.property_heads.properties if name not in configs]
    if configs and older and not frozen_backbone:
        for name in older:
            potential.property_heads[name].interval = torch.zeros_like(potential.property_heads[name].interval)
        console.print(f"intervals of {', '.join(older)} are dropped: the backbone is about to change", highlight=False)
    if configs and not own.spec.labels and not frozen_backbone:
        console.print(
            "warning: the backbone learns from properties alone, which changes the energies of every head; finetune=heads-only keeps "
            "them bitwise, replay keeps them near",
            style="yellow",
            highlight=False,
            markup=False,
        )


def loss_with_properties(
    config: LossConfig, configs: Mapping[str, PropertyConfig], potential: Potential, datasets: Sequence[OpenDataset], *, seed: int
) -> StepLoss:
    """Terms of energies, forces and stress where a dataset has labels, and one per property.

    Raises:
        ValueError: see `build_loss`.
    """
    scales = [float(potential.heads[d.spec.head].scale) for d in datasets]
    labels = [tuple(d.store.metadata["label_counts"]) if d.spec.labels else () for d in datasets]
    terms: tuple[LossTerm, ...] = ()
    if any(labels) or not configs:
        terms = build_loss(config, [d.spec.name for d in datasets], scales, labels).terms
    spreads = {name: float(potential.property_heads[name].spread) for name in configs}
    scalars = [ScalarTerm(property=name, spread=spreads[name], weight=own.weight, seed=seed) for name, own in configs.items()]
    return StepLoss(terms=(*terms, *scalars))


def calibrate_properties(
    names: Sequence[str],
    path: Path,
    frames: UserFrames,
    budget: MixtureConfig,
    golden: Sequence[Structure],
    console: Console,
) -> list[IntervalReport]:
    """Calibrate the intervals of property heads on held-out frames and write them into the artifact at `path`.

    Args:
        names: of the properties; nothing is done without any.
        path: artifact to complete; its weights stay as they are.
        frames: of the user; test frames, where there are any, say how well the intervals cover.
        budget: of a batch.
        golden: structures that check the artifact on load.
        console: the result is shown here.
    """
    if not names:
        return []
    artifact = load_artifact(path)
    potential, own = artifact.potential, frames.dataset
    reports, rows = [], []
    for name in names:
        held_out = frames_batches(potential, own.validation_store, own.validation_indices, own.spec.head, budget)
        report = calibrate_property(potential, name, held_out if len(own.validation_indices) else [])
        if report is None:
            why = "it has one member" if potential.property_heads[name].n_members == 1 else "fewer than 10 held-out frames have a value"
            console.print(f"property {name}: intervals are not calibrated, {why}", highlight=False)
            continue
        reports.append(report)
        rows.append(("held out", report))
        test = None if frames.test is None else frames_batches(potential, frames.test, None, own.spec.head, budget)
        on_test = None if test is None else measure_intervals(potential, name, test)
        rows += [] if on_test is None else [("test", on_test)]
    card = {key: value for key, value in artifact.card.items() if key not in RESERVED}
    stored = [{"frames": where, **report.to_dict()} for where, report in rows]
    save_artifact(path, potential, card={**card, "property_intervals": stored}, golden=golden)
    if rows:
        console.print(interval_table(rows, potential).to_rich())
    return reports


def interval_table(rows: Sequence[tuple[str, IntervalReport]], potential: Potential) -> ReportTable:
    """How well 90 % intervals cover, per property and set of frames."""
    cells = tuple(
        (
            f"{r.property}, {potential.scalar_properties[r.property].unit}", where, r.n, r.mean_width,
            None if r.coverage is None else f"{100 * r.coverage:.0f} %", f"{100 * r.coverage_before:.0f} %", r.correlation,
        )
        for where, r in rows
    )  # fmt: skip
    columns = ("property", "frames", "structures", "half-width", "coverage", "uncalibrated", "rank correlation with error")
    return ReportTable(title="90 % intervals of properties", columns=columns, rows=cells)


def properties_in(path: str, potential: Potential) -> dict[str, PropertyConfig]:
    """Options for reading those properties of the model that a structure file or a store has values for."""
    known = potential.scalar_properties
    if (Path(path) / "metadata.json").is_file():
        found = {name for name in Store(path).scalars if name in known}
    elif known and Path(path).is_file() and format_of(path) == "ase":
        keys = keys_of(path)
        found = {name for name, prop in known.items() if prop.key in keys}
    else:
        found = set()
    return {name: PropertyConfig(key=prop.key, unit=prop.unit, kind=prop.kind) for name, prop in known.items() if name in found}


def intervals_of(potential: Potential, item: EvaluationSet, budget: MixtureConfig) -> list[IntervalReport]:
    """How the intervals of every property head do on the structures that have a value."""
    reports = []
    for name in potential.scalar_properties:
        if name in item.store.scalars:
            batches = frames_batches(potential, item.store, item.indices, item.head, budget)
            reports.append(measure_intervals(potential, name, batches))
    return [report for report in reports if report is not None]


def show_intervals(console: Console, rows: Sequence[tuple[str, IntervalReport]], potential: Potential, output: Path) -> None:
    """The table, also as `property_intervals.json` in the output folder; nothing without property heads."""
    if rows:
        console.print(interval_table(rows, potential).to_rich())
        content = [{"dataset": where, **report.to_dict()} for where, report in rows]
        (output / "property_intervals.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
