"""Training and inference of every contender on two batches, in turns, at each number of threads."""

from __future__ import annotations

from typing import Any

from benchmark_peers import batches
from benchmark_peers.driver import measure_in_turns, say
from benchmark_peers.setup import Setup, with_unit_scales
from benchmark_peers.turns import built_workers, that_can, timed


def throughput(setup: Setup) -> dict[str, Any]:
    """Inference and training on the batches *mol* and *per*, and the peak memory of each.

    Returns:
        rounds, batches: sizes, results: batch -> label -> what the worker said, `group`, `error` or `infer-<threads>` and
        `train-<threads>` with a median, its extremes and the reference's median in the same group.
    """
    structures = {"mol": batches.molecules(setup.data), "per": batches.periodic_cells()}
    sizes = {name: batches.write_timing_batch(setup.work / f"{name}.npz", atoms, setup.cutoff) for name, atoms in structures.items()}
    # one model for both batches, as a user has it: elements of both
    elements = sorted({z for size in sizes.values() for z in size["elements"]})
    results: dict[str, Any] = {name: {} for name in sizes}
    for number, group in enumerate(setup.groups()):
        for name, size in sizes.items():
            measured = _on_batch(setup, name, with_unit_scales(size, elements), group)
            for label, result in measured.items():
                results[name].setdefault(label, result | {"group": number})
    return {"rounds": setup.rounds, "batches": sizes, "results": results}


def _on_batch(setup: Setup, batch: str, sizes: dict[str, Any], group: list[Any]) -> dict[str, Any]:
    path = str(setup.work / f"{batch}.npz")
    with built_workers(setup, group, sizes, lambda worker: worker.ask("load", path=path)) as (workers, said):
        for kind in ("infer", "train"):
            workers = that_can(workers, said, kind)
            say(f"{batch}: {kind}, {setup.rounds} rounds of {', '.join(workers)}")
            jobs = {(label, n): timed(worker, kind, sizes["atoms"], n) for label, worker in workers.items() for n in setup.threads}
            timings = measure_in_turns(jobs, rounds=setup.rounds, slice_seconds=setup.slice_seconds)
            for (label, n), timing in timings.items():
                base = timings.get((setup.reference, n), {}).get("median")
                said[label][f"{kind}-{n}"] = timing | {"reference_median": base}
            for label, worker in workers.items():
                # training comes last, so that its peak does not hide the one of inference
                said[label][f"{kind}_peak_memory_gb"] = worker.ask("memory")["peak_gb"]
    return said
