"""The four measurements, each as one function that returns plain data."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_peers import batches
from benchmark_peers.driver import REPOSITORY, Contender, Job, WorkerError, WorkerProcess, measure_in_turns, say

#: dataset -> (level of theory, labels beyond energy and forces)
MIXTURE = {
    "mptrj_1k": ("PBE/PBE+U", ("stress",)),
    "oc20_debug": ("RPBE", ()),
    "spice_sub": ("wB97M-D3(BJ)/def2-TZVPPD", ()),
    "oxides_bo2_pbe": ("PBE/520eV", ("stress",)),
    "oxides_bo2_lda": ("LDA/520eV", ("stress",)),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every part needs.

    Attributes:
        pythons: package -> interpreter.
        contenders: whose package has an interpreter.
        data: folder of the reference data.
        work: folder for batches and stores.
        logs: folder for what the workers print.
        cutoff: Å.
        threads: of every worker.
        rounds: timed rounds after warm-up.
        slice_seconds: of one contender in one round.
        seed: of weights and orders.
        hyperparameters: backbone name -> changes to its default size.
        recipes: model -> changes to its training recipe (see `race.Recipe`).
    """

    pythons: dict[str, str]
    contenders: tuple[Contender, ...]
    data: Path
    work: Path
    logs: Path
    cutoff: float
    threads: int
    rounds: int
    slice_seconds: float
    seed: int
    hyperparameters: dict[str, dict[str, Any]]
    recipes: dict[str, dict[str, Any]]

    def start(self, contender: Contender) -> WorkerProcess:
        """A fresh worker for one contender."""
        log = self.logs / f"{contender.package}.log"
        return WorkerProcess(self.pythons[contender.package], f"{contender.package}_worker.py", log=log, threads=self.threads)

    def model_settings(self, contender: Contender, sizes: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
        """Arguments of `build`; `sizes` has elements, edges_per_atom, force_rms and overall_force_rms."""
        return {
            "model": contender.model,
            "elements": sizes["elements"],
            "mean_neighbors": sizes["edges_per_atom"],
            "force_rms": sizes["force_rms"],
            "overall_force_rms": sizes["overall_force_rms"],
            "cutoff": self.cutoff,
            "threads": self.threads,
            "seed": self.seed if seed is None else seed,
            "hyperparameters": self.hyperparameters,
            "recipe": self.recipes.get(contender.model, {}),
        }


def throughput(setup: Setup) -> dict[str, Any]:
    """Inference and training of every contender on the batches *mol* and *per*, and the peak memory of each."""
    structures = {"mol": batches.molecules(setup.data), "per": batches.periodic_cells()}
    sizes = {name: batches.write_timing_batch(setup.work / f"{name}.npz", atoms, setup.cutoff) for name, atoms in structures.items()}
    # one model for both batches, as a user has it: elements of both
    elements = sorted({z for size in sizes.values() for z in size["elements"]})
    unit = {"elements": elements, "force_rms": {str(z): 1.0 for z in elements}, "overall_force_rms": 1.0}
    results = {name: _throughput_on(setup, name, size | unit) for name, size in sizes.items()}
    return {"batches": sizes, "results": results}


def _throughput_on(setup: Setup, batch: str, sizes: dict[str, Any]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for contender in setup.contenders:
            say(f"{batch}: starting {contender.label}")
            try:
                worker = stack.enter_context(setup.start(contender))
                built = worker.ask("build", settings=setup.model_settings(contender, sizes))
                worker.ask("load", path=str(setup.work / f"{batch}.npz"))
            except WorkerError as error:
                results[contender.label] = {"error": str(error)}
                continue
            workers[contender.label] = worker
            results[contender.label] = built
        for kind in ("infer", "train"):
            workers = _that_can(kind, workers, results)
            say(f"{batch}: {kind}, {setup.rounds} rounds of {', '.join(workers)}")
            jobs = {label: Job(run=_timed(worker, kind, sizes["atoms"])) for label, worker in workers.items()}
            timings = measure_in_turns(jobs, rounds=setup.rounds, slice_seconds=setup.slice_seconds)
            for label, timing in timings.items():
                # training comes last, so that its peak does not hide the one of inference
                results[label][kind] = timing | {"peak_memory_gb": workers[label].ask("memory")["peak_gb"]}
    return results


def _that_can(kind: str, workers: dict[str, WorkerProcess], results: dict[str, Any]) -> dict[str, WorkerProcess]:
    """Workers that manage one step; the error of the others is kept in their result."""
    able = {}
    for label, worker in workers.items():
        try:
            worker.ask(kind, steps=1)
        except WorkerError as error:
            results[label]["error"] = str(error)
        else:
            able[label] = worker
    return able


def _timed(worker: WorkerProcess, kind: str, n_atoms: int) -> Callable[[int], tuple[float, float]]:
    def run(steps: int) -> tuple[float, float]:
        return worker.ask(kind, steps=steps)["seconds"], steps * n_atoms

    return run


def mixture(setup: Setup, *, structures_per_step: int = 16, n_batches: int = 12) -> dict[str, Any]:
    """Training of both backbones and the data path alone on a mixture of five real datasets."""
    own = tuple(c for c in setup.contenders if c.package == "unipot")
    say("mixture: preparing stores")
    stores = [prepare_store(setup.data, name, setup.work / f"{name}.unipot") for name in MIXTURE]
    settings = {
        "models": [c.model for c in own],
        "cutoff": setup.cutoff,
        "threads": setup.threads,
        "seed": setup.seed,
        "hyperparameters": setup.hyperparameters,
    }
    with setup.start(own[0]) as worker:
        sizes = {"structures_per_step": structures_per_step, "n_batches": n_batches}
        built = worker.ask("mixture_build", settings=settings, stores=[str(s) for s in stores], **sizes)
        jobs = {c.label: Job(run=_mixture_training(worker, c.model)) for c in own} | {"data path alone": Job(run=_data_path(worker))}
        say(f"mixture: {setup.rounds} rounds of {', '.join(jobs)}")
        timings = measure_in_turns(jobs, rounds=setup.rounds, slice_seconds=2 * setup.slice_seconds)
        timings["peak_memory_gb"] = worker.ask("memory")["peak_gb"]
    return {"structures_per_step": structures_per_step, **built, "results": timings}


def _mixture_training(worker: WorkerProcess, model: str) -> Callable[[int], tuple[float, float]]:
    # steps differ in size, so every contender walks through the same steps in the same order
    position = 0

    def run(steps: int) -> tuple[float, float]:
        nonlocal position
        answer = worker.ask("mixture_train", model=model, first=position, steps=steps)
        position += steps
        return answer["seconds"], answer["atoms"]

    return run


def _data_path(worker: WorkerProcess) -> Callable[[int], tuple[float, float]]:
    def run(steps: int) -> tuple[float, float]:
        answer = worker.ask("mixture_data", steps=steps)
        return answer["seconds"], answer["atoms"]

    return run


def prepare_store(data: Path, name: str, path: Path) -> Path:
    """A store made from the training file of one reference dataset; one that is there already is kept."""
    from ase.io import iread

    from unipot.data.storage.writer import StoreWriter
    from unipot.structure import Structure
    from unipot.units import voigt_to_matrix

    if path.exists():
        return path
    level, extra = MIXTURE[name]
    labels = ("energy", "forces", *extra)
    with StoreWriter(path, name=name, level_of_theory=level, labels=labels) as writer:
        for i, atoms in enumerate(iread(data / name / "train.extxyz", index=":")):
            found = dict(atoms.calc.results)
            if "stress" in found:
                found["stress"] = voigt_to_matrix(np.asarray(found["stress"]))
            writer.add(Structure.from_ase(atoms, labels={k: found[k] for k in labels if k in found}, id=f"{name}-{i}"))
    return path


def accuracy(setup: Setup, *, seconds: float, n_train: int, n_test: int, seeds: int) -> dict[str, Any]:
    """Force errors on rmd17_ethanol after equal wall time of training, one contender after the other."""
    sizes = batches.write_race_frames(setup.work, setup.data, n_train, n_test, setup.cutoff)
    results: dict[str, Any] = {}
    for contender in (c for c in setup.contenders if c.model != "escn-md"):
        runs = []
        for seed in range(setup.seed, setup.seed + seeds):
            say(f"accuracy: {contender.label}, seed {seed}, {seconds:.0f} s of training")
            try:
                runs.append(_race(setup, contender, sizes, seconds, seed))
            except WorkerError as error:
                runs.append({"error": str(error)})
        finished = [run for run in runs if "error" not in run]
        keys = ("force_mae_mev_per_a", "force_rmse_mev_per_a", "energy_mae_mev", "steps", "epochs")
        results[contender.label] = {key: statistics.median(run[key] for run in finished) for key in keys} if finished else {}
        results[contender.label]["runs"] = runs
    return {"dataset": "rmd17_ethanol", "seconds": seconds, "seeds": seeds, "sizes": sizes, "results": results}


def _race(setup: Setup, contender: Contender, sizes: dict[str, Any], seconds: float, seed: int) -> dict[str, Any]:
    with setup.start(contender) as worker:
        built = worker.ask("build", settings=setup.model_settings(contender, sizes, seed))
        train, test = (str(setup.work / f"{name}.npz") for name in ("train", "test"))
        fitted = worker.ask("fit", train=train, test=test, seconds=seconds, seed=seed)
        return built | fitted | {"peak_memory_gb": worker.ask("memory")["peak_gb"]}


IMPORT_PROGRAM = """
import time, sys
import torch
start = time.perf_counter()
import unipot
bare = time.perf_counter() - start
[getattr(unipot, name) for name in unipot.__all__]
print(bare, time.perf_counter() - start)
"""


def import_time(rounds: int = 7) -> dict[str, Any]:
    """Seconds of `import unipot` when torch is there already, and of looking up all it offers; medians of fresh processes."""
    say(f"import time: {rounds} fresh processes")
    command = [sys.executable, "-c", IMPORT_PROGRAM]
    lines = [subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout for _ in range(rounds + 1)]
    seconds = np.array([[float(x) for x in line.split()] for line in lines[1:]])  # the first fills the disk cache
    bare, everything = np.median(seconds, axis=0)
    return {"import_unipot_s": float(bare), "everything_s": float(everything), "rounds": rounds}
