"""Measure the conversion: structures per second and peak memory of a store of any size, from synthetic molecules.

The structures are made up on the fly (6 atoms, energy and forces consistent with springs), so that what is measured is the
conversion itself: neighbour lists, fingerprints, quarantine, packing, and the finishing pass over the whole.

    python scripts/benchmark_conversion.py --structures 10000000 --output RESULTS
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers.conditions import commit, hardware, package_version  # noqa: E402

from unipot.structure import Structure  # noqa: E402

#: six places at least 1.5 Å apart
PLACES = np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0], [0, 0, 1.5], [1.5, 1.5, 0], [0, 1.5, 1.5]])
ELEMENTS = np.array([1, 6, 7, 8])
PER_PART = 50_000


@dataclass(frozen=True)
class Synthetic:
    """`n` molecules, part by part."""

    n: int

    def parts(self) -> list[str]:
        return [str(start) for start in range(0, self.n, PER_PART)]

    def items(self, part: str) -> Iterator[Structure]:
        start = int(part)
        rng = np.random.default_rng(start)
        for k in range(start, min(start + PER_PART, self.n)):
            shift = 0.1 * rng.normal(size=(6, 3))
            shift -= shift.mean(axis=0)
            numbers = rng.choice(ELEMENTS, 6)
            labels = {"energy": np.array(float(-10.0 * numbers.sum() + 0.5 * (shift**2).sum())), "forces": -shift}
            yield Structure(atomic_numbers=numbers, positions=PLACES + shift, labels=labels, id=f"m{k}", group=f"g{k // 10}")

    def fingerprint(self) -> dict[str, Any]:
        return {"n": self.n}

    def size(self) -> int:
        return 0

    def explain_missing(self, labels: list[str]) -> str:
        return f"no structure carries {labels[0]}"


def main() -> None:
    """Convert once and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--structures", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, required=True, help="folder for conversion-<structures>.json")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {name: package_version(name) for name in ("numpy", "numba", "lmdb")},
        "load": os.getloadavg()[0],
        "workers": options.workers,
        "structures": options.structures,
        **convert(options.structures, options.workers),
    }
    text = json.dumps(report, indent=1)
    (options.output / f"conversion-{options.structures}.json").write_text(text + "\n")
    print(text)


def convert(n: int, workers: int) -> dict[str, Any]:
    """Make a store of `n` structures in a temporary folder."""
    from rich.console import Console

    from unipot.workflows.stores.make_store import Job, StoreOptions, make_store

    with tempfile.TemporaryDirectory() as folder:
        job = Job(source=Synthetic(n), name="synthetic", level_of_theory="springs", labels=("energy", "forces"), total=n)
        start = time.perf_counter()
        store = make_store(job, Path(folder) / "synthetic.unipot", StoreOptions(workers=workers), Console(stderr=True))
        seconds = time.perf_counter() - start
        kept, size = len(store), sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
        shards = len(store.metadata["shards"])
    own, child = (resource.getrusage(who).ru_maxrss * 1024 / 1e9 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": seconds,
        "structures_per_second": n / seconds,
        "kept": kept,
        "shards": shards,
        "bytes_per_structure": size / kept,
        "peak_memory_gb": {"main": own, "largest_worker": child, "all_at_most": own + workers * child},
    }


if __name__ == "__main__":
    main()
