"""Measure memory of training and inference against edges, with and without activation checkpointing.

    python scripts/benchmark_memory.py --output outputs/memory [--backbone native-small] [--threads 1]

Every point is a process of its own: copper cells of several sizes and densities, so that edges and atoms vary apart. Two figures
each: the growth of the largest resident set over that of the same work on two atoms, and the most bytes that autograd had saved
at one time, counted by storage (the same on every device). bytes = a + b·edges + c·atoms is fitted to either by least squares.
Writes memory.json and memory.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers.conditions import commit, hardware  # noqa: E402

from unipot.batch import AtomBatch, collate  # noqa: E402
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone  # noqa: E402
from unipot.resources import conf_dir  # noqa: E402
from unipot.structure import Structure  # noqa: E402

#: (cells along an axis, lattice constant in Å): 256 to 864 atoms with 18 to 79 neighbours within 5 Å
CELLS = ((4, 3.6), (4, 4.2), (5, 3.6), (5, 4.2), (5, 3.9), (6, 3.6), (6, 4.2), (6, 3.9))
MODES = ("training", "inference")
N_REPEATS = 3


class _Kept:
    """A saved tensor; tells the ledger when autograd lets go of it."""

    def __init__(self, tensor: torch.Tensor, ledger: Ledger) -> None:
        self.tensor, self.ledger = tensor, ledger
        ledger.add(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self.ledger.add(self.tensor.untyped_storage(), -1)


class Ledger:
    """Bytes that autograd holds, each storage once; `peak` is the most at one time. Weights are not counted."""

    def __init__(self, exempt: Iterator[torch.Tensor]) -> None:
        self.exempt = {tensor.untyped_storage().data_ptr() for tensor in exempt}
        self.holders: dict[int, int] = {}
        self.now = self.peak = 0

    def add(self, storage: torch.UntypedStorage, change: int) -> None:
        key = storage.data_ptr()
        if key in self.exempt:
            return
        before = self.holders.get(key, 0)
        self.holders[key] = before + change
        if (before == 0) != (before + change == 0):
            self.now += storage.nbytes() if change > 0 else -storage.nbytes()
            self.peak = max(self.peak, self.now)

    @contextmanager
    def open(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, self), lambda kept: kept.tensor):
            yield


def potential_of(backbone: str) -> Potential:
    """Random weights."""
    config = OmegaConf.to_container(OmegaConf.load(conf_dir() / "backbone" / f"{backbone}.yaml"))
    torch.manual_seed(0)
    built = build_backbone(config["name"], {**config["hyperparameters"], "average_neighbors": 40.0})
    heads = HeadBank()
    reference = CompositionReference(np.zeros(119), np.ones(119, dtype=bool))
    heads.add(Head("one", level_of_theory="none", n_channels=built.n_channels, reference=reference))
    return Potential(built, heads)


def batch_of(potential: Potential, n: int, lattice_constant: float) -> AtomBatch:
    atoms = bulk("Cu", a=lattice_constant, cubic=True) * (n, n, n) if n else bulk("Cu", a=6.0) * (2, 1, 1)
    atoms.rattle(0.05, seed=0)
    return collate([Structure.from_ase(atoms)], cutoff=potential.cutoff, dtype=potential.dtype)


def step(potential: Potential, batch: AtomBatch, mode: str) -> None:
    """One training step without its update, or one prediction."""
    potential.zero_grad(set_to_none=True)
    found = potential(batch, ("energy", "forces"), create_graph=mode == "training")
    if mode == "training":
        (1e-3 * found.energy.square().sum() + found.forces.square().sum()).backward()


def measure(backbone: str, mode: str, checkpointing: bool, n: int, lattice_constant: float, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    potential = potential_of(backbone).train(mode == "training")
    potential.backbone.activation_checkpointing = checkpointing
    step(potential, batch_of(potential, 0, 0.0), mode)
    batch = batch_of(potential, n, lattice_constant)
    before, seconds = _largest_resident_set(), []
    for _ in range(N_REPEATS):
        started = time.perf_counter()
        step(potential, batch, mode)
        seconds.append(time.perf_counter() - started)
    resident = _largest_resident_set() - before
    ledger = Ledger(potential.parameters())
    with ledger.open():
        step(potential, batch, mode)
    return {
        "mode": mode,
        "checkpointing": checkpointing,
        "n_atoms": batch.n_atoms,
        "n_edges": batch.n_edges,
        "resident": resident,
        "saved": ledger.peak,
        "seconds": min(seconds),
    }


def _largest_resident_set() -> int:
    """Bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fitted(points: list[dict[str, Any]], figure: str) -> dict[str, float]:
    """bytes = constant + per_edge·edges + per_atom·atoms."""
    design = np.array([[1.0, p["n_edges"], p["n_atoms"]] for p in points])
    values = np.array([p[figure] for p in points], dtype=float)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residual = values - design @ coefficients
    r_squared = 1 - residual.var() / values.var()
    worst = float(np.abs(residual / values).max())
    constant, per_edge, per_atom = coefficients.tolist()
    return {"constant": constant, "per_edge": per_edge, "per_atom": per_atom, "r_squared": float(r_squared), "worst": worst}


def markdown(results: dict[str, Any]) -> str:
    lines = [
        f"{results['backbone']}, float32, {results['threads']} thread(s), {results['hardware']}, commit {results['commit']}, "
        f"torch {results['torch']}; {len(CELLS)} copper cells, {results['range']}",
        "",
        "| | checkpointing | saved by autograd, bytes/edge + bytes/atom | R² | resident set, bytes/edge + bytes/atom | R² | µs/edge |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in results["fits"]:
        saved, resident = row["saved"], row["resident"]
        lines.append(
            f"| {row['mode']} | {'yes' if row['checkpointing'] else 'no'} | {saved['per_edge']:,.0f} + {saved['per_atom']:,.0f} | "
            f"{saved['r_squared']:.5f} | {resident['per_edge']:,.0f} + {resident['per_atom']:,.0f} | {resident['r_squared']:.4f} | "
            f"{row['microseconds_per_edge']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def measure_cells(options: argparse.Namespace, mode: str, checkpointing: bool) -> list[dict[str, Any]]:
    """Each cell in a process of its own, smallest first."""
    found = []
    for n, lattice_constant in CELLS[: options.cells]:
        cell = {"n": n, "lattice_constant": lattice_constant}
        point = {"backbone": options.backbone, "mode": mode, "checkpointing": checkpointing, "threads": options.threads, **cell}
        done = subprocess.run([sys.executable, __file__, "--point", json.dumps(point)], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/memory"))
    parser.add_argument("--backbone", default="native-small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many of the cells, smallest first")
    parser.add_argument("--point", help="JSON of one measurement; used by the script itself")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(**json.loads(options.point))))
        return
    points, fits = [], []
    for mode in MODES:
        for checkpointing in (False, True):
            own = measure_cells(options, mode, checkpointing)
            points += own
            per_edge = float(np.median([1e6 * p["seconds"] / p["n_edges"] for p in own]))
            fits.append(
                {
                    "mode": mode,
                    "checkpointing": checkpointing,
                    "microseconds_per_edge": per_edge,
                    **{figure: fitted(own, figure) for figure in ("saved", "resident")},
                }
            )
    edges, atoms = [p["n_edges"] for p in points], [p["n_atoms"] for p in points]
    results = {
        "backbone": options.backbone,
        "threads": options.threads,
        "hardware": hardware()["processor"],
        "commit": commit(),
        "torch": torch.__version__,
        "range": f"{min(atoms)} to {max(atoms)} atoms, {min(edges):,} to {max(edges):,} edges",
        "points": points,
        "fits": fits,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "memory.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.output / "memory.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
