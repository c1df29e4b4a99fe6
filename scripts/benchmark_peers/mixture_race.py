"""Training on a mixture of datasets against the clock, as `unipot pretrain` sets it up: its data, heads, loss, optimizer.

The clock counts CPU time of the process (one thread) and holds the data path, forward, double backward, step and averaging.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from race import rate_at
from rich.console import Console

from unipot.batch import AtomBatch, collate
from unipot.data.store import Store
from unipot.models.potential import Potential
from unipot.structure import Structure
from unipot.training.ema import WeightAverage
from unipot.training.losses import StepLoss
from unipot.training.metrics import MetricAccumulator
from unipot.training.optim import build_optimizer
from unipot.workflows.construction.model import build_loss, build_parameter_policy, build_potential, build_settings, head_statistics
from unipot.workflows.inputs.datasets import open_datasets
from unipot.workflows.pretrain import scales_of
from unipot.workflows.runs.mixture_data import mixture_data
from unipot.workflows.settings.compose import load_config
from unipot.workflows.settings.schema import PretrainConfig

TEST_ATOMS = 600  # at most, in one batch of a test; larger structures come alone


def mixture_race(
    backbone: str,
    stores: dict[str, str],
    tests: dict[str, list[str]],
    cpu_seconds: float,
    seed: int,
    cutoff: float,
    learning_rate: float,
    structures_per_step: int,
    cache: str,
) -> dict[str, Any]:
    """Train one model with one head per set, then test the averaged weights.

    Args:
        backbone: a file of `conf/backbone`.
        stores: set -> training store.
        tests: set -> test stores.
        cpu_seconds: budget of training; the rate schedule ends with it.
        seed: of weights and data order.
        cutoff: Å.
        learning_rate: peak.
        structures_per_step: in one optimizer step.
        cache: folder for what the workflow writes.

    Returns:
        parameters, steps, seconds, and per test file n, energy MAE (meV/atom), force MAE (meV/Å) and skipped structures.
    """
    console, config = Console(quiet=True), _config(backbone, stores, cutoff, structures_per_step, seed, cache)
    torch.manual_seed(seed)
    datasets = open_datasets(config.datasets, cache=Path(cache), seed=seed, console=console)
    statistics = head_statistics(datasets, config.heads, cache=Path(cache), console=console)
    potential = build_potential(config.backbone, config.heads, datasets, statistics, torch.float32)
    data = mixture_data(datasets, config.mixture, config.trainer, potential, n_steps=10**7, seed=seed)
    labels = [tuple(d.store.metadata["label_counts"]) for d in datasets]
    loss = build_loss(config.loss, list(stores), scales_of(datasets, statistics), labels)
    steps = iter(data.train_dataloader())
    n_steps, spent, wall, n_atoms = _train(potential, loss, steps, config, cpu_seconds, learning_rate)
    errors = {Path(file).stem: _test(potential, name, Store(file)) for name, files in tests.items() for file in files}
    return {
        "parameters": sum(p.numel() for p in potential.backbone.parameters()),
        "steps": n_steps,
        "atoms": n_atoms,
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "learning_rate": learning_rate,
        "structures_per_step": structures_per_step,
        "errors": errors,
    }


def _config(backbone: str, stores: dict[str, str], cutoff: float, structures_per_step: int, seed: int, cache: str) -> PretrainConfig:
    largest_atoms = max(int(Store(path).n_atoms.max()) for path in stores.values())
    largest_edges = max(int(Store(path).n_edges(cutoff).max()) for path in stores.values())
    overrides = [
        f"backbone={backbone}",
        f"backbone.hyperparameters.cutoff={cutoff}",
        f"run={cache}/run",
        f"seed={seed}",
        f"mixture.structures_per_step={structures_per_step}",
        f"mixture.max_atoms={max(600, largest_atoms)}",
        f"mixture.max_edges={max(24000, largest_edges)}",
        "trainer.workers=0",
        f"optimizer={'adamw' if backbone.startswith('escn-md') else 'muon'}",
    ]
    for name, path in stores.items():
        store = Store(path)
        head = f"datasets.{name}"
        overrides += [f"{head}.path={path}", f"{head}.level_of_theory='{store.level_of_theory}'", f"{head}.validation_fraction=0.0"]
    return load_config("pretrain", PretrainConfig, overrides)


def _train(
    potential: Potential, loss: StepLoss, steps: Iterator[list[AtomBatch]], config: PretrainConfig, cpu_seconds: float, peak: float
) -> tuple[int, float, float, int]:
    """Until the time is up; leaves the averaged weights in place. Returns steps, CPU seconds, wall seconds and atoms."""
    settings, _ = build_settings(config.optimizer, config.schedule)
    rows = build_parameter_policy(potential, config.optimizer).apply(potential, weight_decay=settings.weight_decay)
    optimizer = build_optimizer(potential, rows, settings)
    average = WeightAverage(potential, settings.ema_decay)
    learnt = [p for p in potential.parameters() if p.requires_grad]
    potential.train()
    start, wall, n_steps, n_atoms = time.process_time(), time.perf_counter(), 0, 0
    while (elapsed := time.process_time() - start) < cpu_seconds:
        for group in optimizer.param_groups:
            group["lr"] = peak * group["lr_scale"] * rate_at(elapsed / cpu_seconds)
        batches = next(steps)
        counts = loss.counts(batches)
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            value, _ = loss(potential(batch, ("energy", *loss.properties), create_graph=True), batch, counts)
            value.backward()
            n_atoms += batch.n_atoms
        torch.nn.utils.clip_grad_norm_(learnt, settings.clip_norm or float("inf"))
        optimizer.step()
        average.update()
        n_steps += 1
    spent = time.process_time() - start, time.perf_counter() - wall
    average.swap()
    return n_steps, *spent, n_atoms


def _test(potential: Potential, head: str, store: Store) -> dict[str, float]:
    """Errors of one head on structures whose elements it knows."""
    potential.eval()
    head_index = potential.heads.index(head)
    known = set(potential.heads[head].reference.known.nonzero().flatten().tolist())
    structures = [s for s in store if set(s.atomic_numbers.tolist()) <= known]
    metrics = MetricAccumulator([head])
    for chunk in _chunks(structures):
        batch = collate(chunk, cutoff=potential.cutoff, head_index=[head_index] * len(chunk))
        metrics.update(potential(batch, ("energy", "forces"), create_graph=False), batch)
    table = metrics.compute()
    return {
        "n": len(structures),
        "skipped": len(store) - len(structures),
        "energy_mae_mev_per_atom": 1e3 * table.value(head, "energy_per_atom", "mae"),
        "energy_rmse_mev_per_atom": 1e3 * table.value(head, "energy_per_atom", "rmse"),
        "force_mae_mev_per_a": 1e3 * table.value(head, "forces", "mae"),
        "force_rmse_mev_per_a": 1e3 * table.value(head, "forces", "rmse"),
    }


def _chunks(structures: list[Structure]) -> Iterator[list[Structure]]:
    chunk: list[Structure] = []
    for structure in structures:
        if chunk and sum(s.n_atoms for s in chunk) + structure.n_atoms > TEST_ATOMS:
            yield chunk
            chunk = []
        chunk.append(structure)
    if chunk:
        yield chunk
