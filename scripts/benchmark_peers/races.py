"""Accuracy after equal CPU time of training: many sets, many contenders, several at once, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmark_peers.contenders import Contender
from benchmark_peers.driver import say
from benchmark_peers.sets import RaceSet, set_named, write_set
from benchmark_peers.setup import Setup


def accuracy(setup: Setup, *, sets: Sequence[str], seconds: float, seeds: Sequence[int], jobs: int, folder: Path) -> dict[str, Any]:
    """Train every contender on every set for `seconds` of CPU time with one thread, `jobs` at once.

    All contenders of a set come before the next set. Every finished run is a JSON file in `folder`; one that is there is
    not repeated. What failed is tried again by the next call.

    Returns:
        seconds, and `runs`: all runs of this budget in `folder`, those of earlier calls included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name in sets:
        wanted = [(c, seed, _path(folder, name, c.key, seed, seconds)) for seed in seeds for c in setup.contenders]
        if missing := [(c, seed, path) for c, seed, path in wanted if not path.exists()]:
            say(f"{name}: neighbour lists")
            chosen, files = set_named(name), setup.work / name
            sizes = write_set(chosen, setup.data, files, setup.cutoff)
            tasks += [
                (f"{name}: {c.label}, seed {seed}", _race(setup, c, chosen, files, sizes, seconds, seed), path) for c, seed, path in missing
            ]
    run_all(tasks, jobs)
    return {"seconds": seconds, "runs": load_runs(folder, seconds)}


def run_all(tasks: Sequence[tuple[str, Callable[[], dict[str, Any]], Path]], jobs: int) -> None:
    """Run (title, function, file) tasks, `jobs` at once in the given order; an error goes to `<file>.error.json`."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        list(pool.map(_run_one, tasks))


def load_runs(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """All finished and failed runs of one budget, by file name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*--{seconds:g}s*.json"))]


def _run_one(task: tuple[str, Callable[[], dict[str, Any]], Path]) -> None:
    title, run, path = task
    say(title)
    failed = path.with_suffix(".error.json")
    try:
        result = run()
    except Exception as error:  # one contender's failure is a result; the others go on
        failed.write_text(json.dumps({"title": title, "error": str(error)}, indent=1) + "\n")
        say(f"{title} failed: {error}")
        return
    failed.unlink(missing_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    say(f"{title}: done, wrote {path.name}")


def _race(
    setup: Setup, contender: Contender, chosen: RaceSet, files: Path, sizes: dict[str, Any], seconds: float, seed: int
) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        with setup.start(contender, threads=1) as worker:
            built = worker.ask("build", settings=setup.model_settings(contender, sizes, seed) | {"threads": 1})
            tests = {name: str(files / f"{name}.npz") for name in chosen.tests}
            fitted = worker.ask(
                "fit", train=str(files / "train.npz"), tests=tests, cpu_seconds=seconds, seed=seed, batch_size=sizes["batch_size"]
            )
            peak = worker.ask("memory")["peak_gb"]
        about = {"set": chosen.name, "label": contender.label, "key": contender.key, "seed": seed, "budget": seconds, "sizes": sizes}
        return about | built | fitted | {"peak_memory_gb": peak}

    return run


def _path(folder: Path, name: str, key: str, seed: int, seconds: float) -> Path:
    return folder / f"{name}--{key}--{seed}--{seconds:g}s.json"
