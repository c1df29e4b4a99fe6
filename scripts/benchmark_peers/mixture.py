"""The mixture of five real datasets: cost of training on it, and accuracy after equal CPU time, for unipot's backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_peers.contenders import Contender
from benchmark_peers.driver import Job, WorkerProcess, measure_in_turns, say
from benchmark_peers.races import load_runs, run_all
from benchmark_peers.setup import Setup

#: dataset -> (level of theory, labels beyond energy and forces, test files)
MIXTURE = {
    "mptrj_1k": ("PBE/PBE+U", ("stress",), ("test",)),
    "oc20_debug": ("RPBE", (), ("test_id", "test_ood")),
    "spice_sub": ("wB97M-D3(BJ)/def2-TZVPPD", (), ("test",)),
    "oxides_bo2_pbe": ("PBE/520eV", ("stress",), ("test",)),
    "oxides_bo2_lda": ("LDA/520eV", ("stress",), ("test",)),
}
#: peak rates: `conf/optimizer/muon.yaml` for the native backbone; AdamW for eSCN-MD, not tuned here
LEARNING_RATES = {"native": 5e-3, "escn-md": 8e-4}


def mixture(setup: Setup, *, structures_per_step: int = 16, n_batches: int = 12) -> dict[str, Any]:
    """Atoms per second of training of unipot's backbones, and of the data path alone, at the first number of threads."""
    own = tuple(c for c in setup.contenders if c.package == "unipot")
    say("mixture: preparing stores")
    stores = [prepare_store(setup.data, name, "train", setup.work) for name in MIXTURE]
    settings = {
        "models": [c.model for c in own],
        "cutoff": setup.cutoff,
        "threads": setup.threads[0],
        "seed": setup.seed,
        "hyperparameters": setup.hyperparameters,
    }
    with setup.start(own[0], threads=setup.threads[0]) as worker:
        sizes = {"structures_per_step": structures_per_step, "n_batches": n_batches}
        built = worker.ask("mixture_build", settings=settings, stores=[str(s) for s in stores], **sizes)
        jobs = {c.label: Job(run=_mixture_training(worker, c.model)) for c in own} | {"data path alone": Job(run=_data_path(worker))}
        say(f"mixture: {setup.rounds} rounds of {', '.join(jobs)}")
        timings = measure_in_turns(jobs, rounds=setup.rounds, slice_seconds=2 * setup.slice_seconds)
        timings["peak_memory_gb"] = worker.ask("memory")["peak_gb"]
    return {"structures_per_step": structures_per_step, **built, "results": timings}


def mixture_accuracy(
    setup: Setup, *, seconds: float, seeds: Sequence[int], jobs: int, folder: Path, structures_per_step: int = 8
) -> dict[str, Any]:
    """Held-out errors of unipot's backbones after equal CPU time on the mixture; files and resuming as in `races.accuracy`."""
    folder.mkdir(parents=True, exist_ok=True)
    say("mixture: preparing stores")
    stores = {_head(name): str(prepare_store(setup.data, name, "train", setup.work)) for name in MIXTURE}
    tests = {_head(name): [str(prepare_store(setup.data, name, t, setup.work)) for t in MIXTURE[name][2]] for name in MIXTURE}
    tasks = []
    for seed in seeds:
        for contender in (c for c in setup.contenders if c.package == "unipot"):
            path = folder / f"mixture--{contender.key}--{seed}--{seconds:g}s.json"
            if not path.exists():
                run = _mixture_race(setup, contender, stores, tests, seconds, seed, structures_per_step)
                tasks.append((f"mixture: {contender.label}, seed {seed}", run, path))
    run_all(tasks, jobs)
    return {"seconds": seconds, "structures_per_step": structures_per_step, "runs": load_runs(folder, seconds)}


def _mixture_race(
    setup: Setup, contender: Contender, stores: dict[str, str], tests: dict[str, list[str]], seconds: float, seed: int, per_step: int
) -> Callable[[], dict[str, Any]]:
    backbone = "escn-md-small" if contender.model == "escn-md" else contender.model
    rate = LEARNING_RATES["escn-md" if contender.model == "escn-md" else "native"]
    rate = setup.recipes.get(contender.model, {}).get("learning_rate", rate)
    cache = setup.work / f"{contender.key}-{seed}"

    def run() -> dict[str, Any]:
        with setup.start(contender, threads=1) as worker:
            fitted = worker.ask(
                "mixture_fit",
                backbone=backbone,
                stores=stores,
                tests=tests,
                cpu_seconds=seconds,
                seed=seed,
                cutoff=setup.cutoff,
                learning_rate=rate,
                structures_per_step=per_step,
                cache=str(cache),
            )
            peak = worker.ask("memory")["peak_gb"]
        return {"label": contender.label, "key": contender.key, "seed": seed, "budget": seconds} | fitted | {"peak_memory_gb": peak}

    return run


def _head(name: str) -> str:
    return name.replace("_", "-")  # heads have no underscores


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


def prepare_store(data: Path, name: str, file: str, folder: Path) -> Path:
    """`<name>-<file>.unipot` made from one file of a reference dataset; one that is there already is kept."""
    from ase.io import iread

    from unipot.data.storage.writer import StoreWriter
    from unipot.structure import Structure
    from unipot.units import voigt_to_matrix

    path = folder / f"{name}-{file}.unipot"
    if path.exists():
        return path
    level, extra, _ = MIXTURE[name]
    labels = ("energy", "forces", *extra)
    with StoreWriter(path, name=_head(name), level_of_theory=level, labels=labels) as writer:
        for i, atoms in enumerate(iread(data / name / f"{file}.extxyz", index=":")):
            found = dict(atoms.calc.results)
            if "stress" in found:
                found["stress"] = voigt_to_matrix(np.asarray(found["stress"]))
            writer.add(Structure.from_ase(atoms, labels={k: found[k] for k in labels if k in found}, id=f"{name}-{i}"))
    return path
