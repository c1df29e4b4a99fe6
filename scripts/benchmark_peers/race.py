"""Training against the clock: the same loop for every peer, with the recipe that the peer recommends.

The clock counts CPU time of the process, which runs with one thread: the figures stay fair when several runs share a machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from frames import Arrays, take

EVALUATION_ATOMS = 600  # at most, in one batch of a test
WARM_UP = 0.02  # of the time budget
FINAL_RATE = 0.01  # of the peak rate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a package says its model is to be trained on a small set of molecules.

    Attributes:
        learning_rate: peak; warmed up over 2 % of the time, then a cosine to 1 % at its end.
        batch_size: structures; a set of large cells makes it smaller for everyone.
        energy_weight: of the mean squared error of energy per atom, (eV/atom)².
        force_weight: of the mean squared error of force components, (eV/Å)².
        ema_decay: of the averaged weights that are tested.
        clip_norm: largest gradient norm; None for no clipping.
        source: where the recommendation comes from.
    """

    learning_rate: float
    batch_size: int
    energy_weight: float
    force_weight: float
    ema_decay: float
    clip_norm: float | None
    source: str


def force_dominated_loss(
    predicted: tuple[torch.Tensor, torch.Tensor], target: dict[str, torch.Tensor], energy_weight: float, force_weight: float
) -> torch.Tensor:
    """Weighted sum of the mean squared errors of energy per atom and of force components."""
    energy, forces = predicted
    energy_error = (energy.to(torch.float32) - target["energy"]) / target["n_atoms"]
    force_error = forces.to(torch.float32) - target["forces"]
    return energy_weight * energy_error.square().mean() + force_weight * force_error.square().mean()


def rate_at(fraction: float) -> float:
    """Learning rate relative to its peak, `fraction` of the way through."""
    if fraction < WARM_UP:
        return max(fraction / WARM_UP, 0.05)
    angle = math.pi * min((fraction - WARM_UP) / (1 - WARM_UP), 1.0)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(angle))


def race(
    peer: Any,
    train: Arrays,
    tests: dict[str, Arrays],
    *,
    cpu_seconds: float,
    seed: int,
    batch_size: int,
    targets: Callable[[Arrays], dict[str, torch.Tensor]],
) -> dict[str, Any]:
    """Train for `cpu_seconds` of this process, then test the averaged weights.

    The clock holds batching, forward, double backward, step and averaging; building the model, three untimed passes
    that let just-in-time compilers settle, and the tests are outside.

    Args:
        peer: see `worker.Peer`.
        train: training structures.
        tests: name -> test structures.
        cpu_seconds: budget; the rate schedule ends with it.
        seed: of the order of structures.
        batch_size: structures, at most that of the recipe.
        targets: arrays -> labels as tensors.

    Returns:
        steps, epochs, seconds, the recipe, and the errors on each test set (see `evaluate`).
    """
    recipe = peer.recipe
    size = min(batch_size, recipe.batch_size, len(train["n_atoms"]))
    batches = _endless_batches(train, size, np.random.default_rng(seed))
    peer.module.train()
    _warm_up(peer, batches, targets, recipe)
    spent, wall, n_steps = _train(peer, batches, targets, cpu_seconds)
    epochs = n_steps * size / len(train["n_atoms"])
    run = {"steps": n_steps, "epochs": epochs, "cpu_seconds": spent, "wall_seconds": wall, "batch_size": size, "recipe": asdict(recipe)}
    return run | {"errors": {name: evaluate(peer, test) for name, test in tests.items()}}


def _train(
    peer: Any, batches: Iterator[Arrays], targets: Callable[[Arrays], dict[str, torch.Tensor]], cpu_seconds: float
) -> tuple[float, float, int]:
    """Until the time is up; leaves the averaged weights in the module. Returns CPU seconds, wall seconds and steps."""
    recipe = peer.recipe
    parameters = [p for p in peer.module.parameters() if p.requires_grad]
    optimizer = peer.optimizer(recipe.learning_rate)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    average = [copy.deepcopy(p.detach()) for p in parameters]
    start, wall, n_steps = time.process_time(), time.perf_counter(), 0
    while (elapsed := time.process_time() - start) < cpu_seconds:
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * rate_at(elapsed / cpu_seconds)
        loss = _loss(peer, next(batches), targets, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        n_steps += 1
        decay = min(recipe.ema_decay, (1 + n_steps) / (10 + n_steps))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
    spent = time.process_time() - start, time.perf_counter() - wall
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    return *spent, n_steps


def evaluate(peer: Any, test: Arrays) -> dict[str, float]:
    """MAE and RMSE: energy of the whole structure in meV and per atom in meV/atom, force components in meV/Å."""
    peer.module.eval()
    energy_errors, force_errors = [], []
    for chosen in _chunks(test["n_atoms"], EVALUATION_ATOMS):
        arrays = take(test, chosen)
        energy, forces = peer.predict(peer.batch(arrays), training=False)
        energy_errors.append(1e3 * (energy.detach().double().numpy() - arrays["energy"]))
        force_errors.append(1e3 * (forces.detach().double().numpy() - arrays["forces"]))
    total = np.concatenate(energy_errors)
    errors = {"energy": total, "energy_per_atom": total / test["n_atoms"], "force": np.concatenate(force_errors)}
    means = {f"{name}_mae": float(np.abs(error).mean()) for name, error in errors.items()}
    return means | {f"{name}_rmse": float(np.sqrt(np.square(error).mean())) for name, error in errors.items()}


def _chunks(n_atoms: np.ndarray, largest: int) -> Iterator[np.ndarray]:
    """Indices of consecutive structures with at most `largest` atoms together, at least one structure."""
    start = 0
    while start < len(n_atoms):
        stop = start + max(1, int(np.searchsorted(np.cumsum(n_atoms[start:]), largest, side="right")))
        yield np.arange(start, min(stop, len(n_atoms)))
        start = stop


def _endless_batches(train: Arrays, batch_size: int, rng: np.random.Generator) -> Iterator[Arrays]:
    n_structures = len(train["n_atoms"])
    while True:
        order = rng.permutation(n_structures)
        for start in range(0, n_structures - batch_size + 1, batch_size):
            yield take(train, order[start : start + batch_size])


def _loss(peer: Any, arrays: Arrays, targets: Callable[[Arrays], dict[str, torch.Tensor]], recipe: Recipe) -> torch.Tensor:
    predicted = peer.predict(peer.batch(arrays), training=True)
    return force_dominated_loss(predicted, targets(arrays), recipe.energy_weight, recipe.force_weight)


def _warm_up(peer: Any, batches: Iterator[Arrays], targets: Callable[[Arrays], dict[str, torch.Tensor]], recipe: Recipe) -> None:
    for _ in range(3):
        _loss(peer, next(batches), targets, recipe).backward()
    peer.module.zero_grad(set_to_none=True)
