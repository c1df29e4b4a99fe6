"""The side of a peer: one process in the peer's own virtual environment, driven by JSON lines on stdin and stdout.

Each request is one JSON object with the key `command`; each answer is one JSON object, `{"error": ...}` when the command
raised. What the peer's libraries print goes to stderr. Requests: `build`, `load`, `infer`, `train`, `md_load`, `md`, `count`,
`machine`, `memory`, `fit`, `quit`.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol

import counting
import numpy as np
import torch
from frames import Arrays, load, take, to_atoms
from race import Recipe, force_dominated_loss, race


class Peer(Protocol):
    """One model of one package, under a common roof."""

    module: torch.nn.Module
    recipe: Recipe
    packages: tuple[str, ...]
    md_path: str

    def batch(self, arrays: Arrays) -> Any:
        """The package's own input for one batch, in float32 unless the package wants its geometry in float64."""

    def predict(self, batch: Any, *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """energy (n_structures,) and forces (n_atoms, 3); with `training` the forces can be differentiated again."""

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer that the package recommends."""

    def calculator(self) -> Any:
        """The package's own calculator for ASE, with the model of this peer; `md_path` names it."""


class Worker:
    """Answers requests about one peer and one batch."""

    def __init__(self, make_peer: Callable[[dict[str, Any]], Peer]) -> None:
        self._make_peer = make_peer

    def build(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Build the model; `settings`: model, elements, cutoff (Å), mean_neighbors, force_rms (eV/Å), seed, threads, recipe."""
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(settings["seed"])
        self.peer = self._make_peer(settings)
        if changes := settings.get("recipe"):
            self.peer.recipe = replace(self.peer.recipe, **changes, source=f"{self.peer.recipe.source}; changed here: {changes}")
        trainable = sum(p.numel() for p in self.peer.module.parameters() if p.requires_grad)
        packages = {name: version(name) for name in ("torch", *self.peer.packages)}
        return {"parameters": trainable, "packages": packages, "python": platform.python_version()}

    def load(self, path: str) -> dict[str, Any]:
        """Take all structures of a file as the batch of `infer` and `train`."""
        arrays = take(load(path))
        self._batch = self.peer.batch(arrays)
        self._target = targets(arrays)
        # a vanishing rate: the weights must stay where they are while the full cost of the step is paid
        self._optimizer = self.peer.optimizer(1e-9)
        return {"structures": len(arrays["n_atoms"]), "atoms": int(arrays["n_atoms"].sum()), "edges": int(arrays["n_edges"].sum())}

    def infer(self, steps: int, threads: int = 1) -> dict[str, Any]:
        """Energy and forces, `steps` times."""
        torch.set_num_threads(threads)
        self.peer.module.eval()
        start = time.perf_counter()
        for _ in range(steps):
            energy, forces = self.peer.predict(self._batch, training=False)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "energy": float(energy.detach().sum()), "force_norm": float(forces.detach().norm())}

    def train(self, steps: int, threads: int = 1) -> dict[str, Any]:
        """Forward, energy and force loss, double backward, optimizer step, `steps` times."""
        torch.set_num_threads(threads)
        self.peer.module.train()
        start = time.perf_counter()
        for _ in range(steps):
            loss = self._training_step()
        return {"seconds": time.perf_counter() - start, "loss": float(loss.detach())}

    def _training_step(self) -> torch.Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = force_dominated_loss(self.peer.predict(self._batch, training=True), self._target, 1.0, 1.0)
        loss.backward()
        self._optimizer.step()
        return loss

    def md_load(self, path: str, trajectory: str) -> dict[str, Any]:
        """Give the structure of a file the package's calculator; `trajectory` is a file of positions (n_steps, n_atoms, 3) Å."""
        self._atoms = to_atoms(take(load(path)))
        self._atoms.calc = self.peer.calculator()
        self._positions = np.load(trajectory)
        self._md_step = 0
        return {"path": self.peer.md_path, "atoms": len(self._atoms)}

    def md(self, steps: int, threads: int = 1) -> dict[str, Any]:
        """Energy and forces at the next `steps` geometries of the trajectory, there and back again; no integrator."""
        torch.set_num_threads(threads)
        n_frames = len(self._positions)
        start = time.perf_counter()
        for _ in range(steps):
            turn, k = divmod(self._md_step, n_frames - 1)
            self._atoms.positions[:] = self._positions[k if turn % 2 == 0 else n_frames - 1 - k]
            forces = self._atoms.get_forces()
            energy = self._atoms.get_potential_energy()
            self._md_step += 1
        return {"seconds": time.perf_counter() - start, "energy": float(energy), "force_norm": float(np.linalg.norm(forces))}

    def count(self) -> dict[str, Any]:
        """Work of one training step, see `counting`."""
        self.peer.module.train()
        self._training_step()
        return counting.count(self._training_step)

    def machine(self, kind: str, threads: int = 1) -> dict[str, Any]:
        """Best rate of this machine now: `gemm` in GFLOP/s or `copy` in GB/s."""
        torch.set_num_threads(threads)
        return {"rate": counting.matrix_product_rate() if kind == "gemm" else counting.copy_rate()}

    def memory(self) -> dict[str, Any]:
        """Peak resident memory of this process so far, GB."""
        return {"peak_gb": peak_memory_gb()}

    def fit(self, train: str, tests: dict[str, str], cpu_seconds: float, seed: int, batch_size: int) -> dict[str, Any]:
        """Train on one file for a given CPU time and test on others, by name."""
        torch.set_num_threads(1)
        files = {name: load(path) for name, path in tests.items()}
        return race(self.peer, load(train), files, cpu_seconds=cpu_seconds, seed=seed, batch_size=batch_size, targets=targets)


def targets(arrays: Arrays) -> dict[str, torch.Tensor]:
    """The labels of a batch as float32 tensors; energies come with the composition already subtracted."""
    return {
        "energy": torch.from_numpy(arrays["energy"].astype(np.float32)),
        "forces": torch.from_numpy(arrays["forces"].astype(np.float32)),
        "n_atoms": torch.from_numpy(arrays["n_atoms"].astype(np.float32)),
    }


def peak_memory_gb() -> float:
    """Peak resident set of this process, GB (1e9 bytes)."""
    try:
        # VmHWM starts at zero after exec, where ru_maxrss inherits the parent's size
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def serve(handler: Any) -> None:
    """Answer requests with the methods of `handler` until `quit` or the end of stdin."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    for request in _requests():
        command = request.pop("command")
        if command == "quit":
            return
        try:
            answer = getattr(handler, command)(**request)
        except Exception as error:  # handed to the driver, which reports it beside the peer's name
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)
