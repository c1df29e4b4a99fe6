"""Work of a training step, and how near it comes to what the machine can do."""

from __future__ import annotations

from typing import Any

from benchmark_peers import batches
from benchmark_peers.driver import Job, WorkerError, WorkerProcess, measure_in_turns, say
from benchmark_peers.setup import Setup, with_unit_scales
from benchmark_peers.turns import built_workers, that_can, timed


def roofline(setup: Setup) -> dict[str, Any]:
    """Counted work of one training step per batch, its time and the machine's peaks, all measured in turns.

    Returns:
        batches: sizes. results: batch -> label -> counts (`gflop`, `gigabytes`, `operations`) and per number of threads, under
        `roof-<threads>`: seconds, achieved GFLOP/s and GB/s, both peaks, and `share`: the shorter time that the peaks allow,
        max(work / peak), over the measured time.
    """
    structures = {"mol": batches.molecules(setup.data), "per": batches.periodic_cells()}
    sizes = {name: batches.write_timing_batch(setup.work / f"{name}.npz", atoms, setup.cutoff) for name, atoms in structures.items()}
    elements = sorted({z for size in sizes.values() for z in size["elements"]})
    results: dict[str, Any] = {name: {} for name in sizes}
    for group in setup.groups():
        for name, size in sizes.items():
            for label, result in _on_batch(setup, name, with_unit_scales(size, elements), group).items():
                results[name].setdefault(label, result)
    return {"batches": sizes, "results": results}


def _on_batch(setup: Setup, batch: str, sizes: dict[str, Any], group: list[Any]) -> dict[str, Any]:
    path = str(setup.work / f"{batch}.npz")
    with built_workers(setup, group, sizes, lambda worker: worker.ask("load", path=path)) as (workers, said):
        workers = that_can(workers, said, "train")
        for label, worker in workers.items():
            try:
                said[label] |= {"work": worker.ask("count")}
            except WorkerError as error:
                said[label]["error"] = f"counting: {error}"
        counted = {label: worker for label, worker in workers.items() if "work" in said[label]}
        if not counted:
            return said
        say(f"roofline, {batch}: {setup.rounds} rounds of {', '.join(counted)}")
        timings = measure_in_turns(_jobs(setup, counted), rounds=setup.rounds, slice_seconds=setup.slice_seconds)
        for label in counted:
            for n in setup.threads:
                peaks = {kind: timings[(kind, n)]["median"] for kind in ("gemm", "copy")}
                said[label][f"roof-{n}"] = against_roof(said[label]["work"], timings[(label, n)]["step_seconds"], peaks)
    return said


def against_roof(work: dict[str, float], seconds: float, peaks: dict[str, float]) -> dict[str, float]:
    """Achieved rates, their share of the peaks, and the share of the roof; peaks in GFLOP/s and GB/s."""
    least = max(work["gflop"] / peaks["gemm"], work["gigabytes"] / peaks["copy"])
    return {
        "seconds": seconds,
        "gflop_per_s": work["gflop"] / seconds,
        "gb_per_s": work["gigabytes"] / seconds,
        "peak_gflop_per_s": peaks["gemm"],
        "peak_gb_per_s": peaks["copy"],
        "share": least / seconds,
    }


def _jobs(setup: Setup, workers: dict[str, WorkerProcess]) -> dict[tuple[str, int], Job]:
    jobs = {(label, n): timed(worker, "train", 1.0, n) for label, worker in workers.items() for n in setup.threads}
    machine = next(iter(workers.values()))
    return jobs | {(kind, n): _peak(machine, kind, n) for kind in ("gemm", "copy") for n in setup.threads}


def _peak(worker: WorkerProcess, kind: str, threads: int) -> Job:
    def run(steps: int) -> tuple[float, float]:
        del steps  # one large product or copy is a measurement
        return 1.0, worker.ask("machine", kind=kind, threads=threads)["rate"]

    return Job(run=run)
