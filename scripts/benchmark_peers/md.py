"""The MD step: energy and forces with the neighbour list, through the calculator that each package offers for ASE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmark_peers import batches
from benchmark_peers.driver import measure_in_turns, say
from benchmark_peers.md_systems import TIME_STEP, systems, trajectory
from benchmark_peers.setup import Setup, with_unit_scales
from benchmark_peers.turns import built_workers, that_can, timed

#: ns/day of one step per second
NS_PER_DAY = 86400 * TIME_STEP * 1e-6


def md_step(setup: Setup, names: Sequence[str]) -> dict[str, Any]:
    """Steps per second of every contender on every named system (see `md_systems.SYSTEMS`), in turns.

    Returns:
        systems: sizes. results: system -> label -> what the worker said, `error` or `md-<threads>` with a median (steps/s), its
        extremes, the reference's median in the same group, `atoms_per_s`, `ns_per_day` and `us_per_atom`.
    """
    sizes, results = {}, {}
    made = systems(setup.data)
    for name in names:
        np.save(setup.work / f"{name}-trajectory.npy", trajectory(made[name]))
        sizes[name] = batches.write_timing_batch(setup.work / f"{name}.npz", [made[name]], setup.cutoff)
        results[name] = {}
        for group in setup.groups():
            for label, result in _on_system(setup, name, sizes[name], group).items():
                results[name].setdefault(label, result)
    return {"systems": sizes, "results": results}


def _on_system(setup: Setup, name: str, size: dict[str, Any], group: list[Any]) -> dict[str, Any]:
    files = {"path": str(setup.work / f"{name}.npz"), "trajectory": str(setup.work / f"{name}-trajectory.npy")}
    sizes = with_unit_scales(size, size["elements"])
    with built_workers(setup, group, sizes, lambda worker: worker.ask("md_load", **files)) as (workers, said):
        workers = that_can(workers, said, "md")
        say(f"MD step, {name}: {setup.rounds} rounds of {', '.join(workers)}")
        jobs = {(label, n): timed(worker, "md", 1.0, n) for label, worker in workers.items() for n in setup.threads}
        timings = measure_in_turns(jobs, rounds=setup.rounds, slice_seconds=setup.slice_seconds)
        for (label, n), timing in timings.items():
            rate = timing["median"]
            said[label][f"md-{n}"] = timing | {
                "reference_median": timings.get((setup.reference, n), {}).get("median"),
                "atoms_per_s": rate * size["atoms"],
                "ns_per_day": rate * NS_PER_DAY,
                "us_per_atom": 1e6 / (rate * size["atoms"]),
            }
    return said
