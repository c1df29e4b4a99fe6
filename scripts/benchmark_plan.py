"""Measure the plan: time per step, resident memory and balance over ranks, up to 500 million structures.

Every size runs in a process of its own. Columns lie in memory-mapped files as in a store (5·10⁸: sizes are computed when they
are looked up, so that no 8 GB of files are needed); a tenth of the structures is held out by a memory-mapped selection. A step is
planned whole: draws, sizes, micro-batches of eight ranks. Orders of access: one process that takes every step, one of eight
workers that takes every eighth, and steps at random.

    python scripts/benchmark_plan.py --output RESULTS
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers.conditions import commit, hardware, package_version  # noqa: E402

from unipot.data.mixture.budget import structure_cost  # noqa: E402
from unipot.data.mixture.permutation import mix64  # noqa: E402
from unipot.data.mixture.plan import MixturePlan  # noqa: E402
from unipot.data.mixture.selection import Selection  # noqa: E402
from unipot.data.spec import MixtureSpec  # noqa: E402

SIZES = (10**6, 10**7, 10**8, 5 * 10**8)
#: above this many structures sizes are computed instead of read
LARGEST_FILE = 10**8
N_DATASETS = (1, 10)
STRUCTURES_PER_STEP = (64, 256)
N_RANKS, N_WORKERS, N_STEPS, N_REPEATS = 8, 8, 500, 7
CHUNK = 2**20


class Computed:
    """A column of `n` numbers between `low` and `high`, computed when they are looked up.

    Args:
        n: length.
        low: smallest number.
        high: largest number.
        start: of the first entry, so that two columns differ.
    """

    def __init__(self, n: int, low: int, high: int, start: int = 0) -> None:
        self.n, self.low, self.span, self.start = n, low, high - low + 1, start

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> np.ndarray:
        index = np.arange(*index.indices(self.n)) if isinstance(index, slice) else np.asarray(index)
        hashes = mix64((index + self.start).astype(np.uint64))
        return (self.low + (hashes % np.uint64(self.span)).astype(np.int64)).astype(np.int32)


def write_columns(n: int, folder: Path) -> None:
    """`n_atoms.npy` (n,) and `edge_counts.npy` (n, 3) as a store has them: 5 to 200 atoms, most of them few."""
    atoms = np.lib.format.open_memmap(folder / "n_atoms.npy", mode="w+", dtype=np.int32, shape=(n,))
    edges = np.lib.format.open_memmap(folder / "edge_counts.npy", mode="w+", dtype=np.int32, shape=(n, 3))
    for start in range(0, n, CHUNK):
        rng = np.random.default_rng(start)
        stop = min(start + CHUNK, n)
        atoms[start:stop] = np.clip(np.exp(rng.normal(3.3, 0.8, stop - start)), 5, 200)
        edges[start:stop] = atoms[start:stop, None] * rng.integers(20, 60, (stop - start, 1)) * np.array([0.5, 1.0, 1.7])
    atoms.flush()
    edges.flush()


def columns(n: int, folder: Path) -> tuple[Any, Any]:
    """Atoms and edges of `n` structures."""
    if n > LARGEST_FILE:
        return Computed(n, 5, 200), Computed(n, 100, 8000, start=n)
    edges = np.load(folder / "edge_counts.npy", mmap_mode="r")
    return np.asarray(np.load(folder / "n_atoms.npy", mmap_mode="r")), np.asarray(edges)[:, 1]


def parts(n: int, n_datasets: int) -> list[tuple[int, int]]:
    """(start, stop) of each dataset: one, or sizes that halve from one to the next."""
    weights = 0.5 ** np.arange(n_datasets)
    stops = np.round(np.cumsum(weights) / weights.sum() * n).astype(int).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


def make_plan(n: int, n_datasets: int, structures_per_step: int, folder: Path) -> MixturePlan:
    """A plan in which a tenth of each dataset is held out."""
    atoms, edges = columns(n, folder)
    cut = parts(n, n_datasets)
    selections = []
    for number, (start, stop) in enumerate(cut):
        file, size = folder / f"held-out-{n_datasets}-{number}.npy", stop - start
        if not file.exists():
            masks = (np.arange(a, min(a + CHUNK, size)) % 10 == 3 for a in range(0, size, CHUNK))
            Selection.from_mask(masks, size).saved(file)
        selections.append(Selection.load(file, size).complement())
    if n > LARGEST_FILE:
        n_atoms, n_edges = ([Computed(b - a, c.low, c.low + c.span - 1, c.start + a) for a, b in cut] for c in (atoms, edges))
    else:
        n_atoms, n_edges = ([column[a:b] for a, b in cut] for column in (atoms, edges))
    share = structures_per_step // N_RANKS
    spec = MixtureSpec(
        structures_per_step=structures_per_step,
        micro_batches_per_step=N_RANKS,
        temperature=2.0,
        max_atoms=max(400, 100 * share),
        max_edges=max(24_000, 5000 * share),
    )
    return MixturePlan(n_atoms, n_edges, spec, names=[f"set-{k}" for k in range(n_datasets)], selections=selections)


def memory() -> dict[str, float]:
    """MB of this process: its own pages, and pages of mapped files, which the system shares and drops."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return {"own": round(found["RssAnon"], 1), "files": round(found["RssFile"], 1)}


def orders_of_access(plan: MixturePlan) -> dict[str, list[range | list[int]]]:
    """Name -> per repeat the steps, all different."""
    rng = np.random.default_rng(0)
    strided, length = 10**6, N_STEPS * N_WORKERS
    return {
        "sequential": [range(k * N_STEPS, (k + 1) * N_STEPS) for k in range(N_REPEATS)],
        "one of 8 workers": [range(strided + k * length, strided + (k + 1) * length, N_WORKERS) for k in range(N_REPEATS)],
        "random": [rng.integers(2 * 10**6, 10**9, N_STEPS // 5).tolist() for _ in range(N_REPEATS)],
    }


def time_plan(plan: MixturePlan) -> dict[str, dict[str, float]]:
    """Per order of access: ms per step, wall and processor, the median of the repeats' means; the first repeat is warm-up."""
    result = {}
    for name, repeats in orders_of_access(plan).items():
        wall, processor = [], []
        for steps in repeats:
            start, start_processor = time.perf_counter(), time.process_time()
            for step in steps:
                plan.micro_batches(step)
            wall.append(1e3 * (time.perf_counter() - start) / len(steps))
            processor.append(1e3 * (time.process_time() - start_processor) / len(steps))
        result[name] = {"wall": statistics.median(wall[1:]), "processor": statistics.median(processor[1:]), "slowest": max(wall[1:])}
    return result


def imbalance(plan: MixturePlan, n_steps: int = 200) -> dict[str, float]:
    """Largest over mean cost of the ranks of a step, averaged over steps: as planned, and dealt in turn without looking."""
    planned, in_turn = [], []
    for step in range(n_steps):
        ranks = [[draw for batch in plan.rank_micro_batches(step, rank, N_RANKS) for draw in batch] for rank in range(N_RANKS)]
        pool = plan.pool(step)
        order = np.random.default_rng(step).permutation(len(pool))
        dealt = [[pool[k] for k in order[rank::N_RANKS]] for rank in range(N_RANKS)]
        for into, shares in ((planned, ranks), (in_turn, dealt)):
            costs = [sum(cost_of(plan, draw) for draw in share) for share in shares]
            into.append(max(costs) / (sum(costs) / N_RANKS))
    return {"planned": statistics.mean(planned), "planned_worst": max(planned), "in_turn": statistics.mean(in_turn)}


def cost_of(plan: MixturePlan, draw: tuple[int, int]) -> int:
    """Edges + 10 × atoms of one structure."""
    source = plan.sources[draw[0]]
    where = np.array([draw[1]])
    return int(structure_cost(int(source.n_atoms[where][0]), int(source.n_edges[where][0])))


def measure(n: int, n_datasets: int, structures_per_step: int, folder: Path) -> dict[str, Any]:
    """One configuration, in this process."""
    before = memory()
    start = time.perf_counter()
    plan = make_plan(n, n_datasets, structures_per_step, folder)
    seconds = time.perf_counter() - start
    row = {
        "structures": n,
        "datasets": n_datasets,
        "structures_per_step": structures_per_step,
        "opening_seconds": seconds,
        "milliseconds": time_plan(plan),
    }
    after = memory()
    row["memory"] = {
        "own_before": before["own"],
        "own": after["own"],
        "growth": round(after["own"] - before["own"], 1),
        "files": after["files"],
    }
    row["imbalance"] = imbalance(plan)
    return row


def markdown(report: dict[str, Any]) -> str:
    """The results as a table."""
    machine, versions = report["hardware"], report["versions"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    heads = ["structures", "datasets", "per step", "every step", "one of 8 workers", "random"]
    heads += ["own memory (MB)", "opening (s)", "imbalance", "dealt in turn"]
    lines = [f"# Planning, {report['date']}, commit {report['commit']}", ""]
    lines += [
        f"{where}; Python {versions['python']}, NumPy {versions['numpy']}; load {report['load']:.1f}. Processor milliseconds per step "
        f"(wall in brackets), median of {N_REPEATS - 1} repeats after one of warm-up.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for row in report["rows"]:
        times = [f"{t['processor']:.2f} ({t['wall']:.2f})" for t in row["milliseconds"].values()]
        cells = [f"{row['structures']:.0e}".replace("e+0", "e"), row["datasets"], row["structures_per_step"], *times]
        cells += [f"+{row['memory']['growth']:.0f}", f"{row['opening_seconds']:.1f}"]
        cells += [f"{row['imbalance']['planned']:.3f}", f"{row['imbalance']['in_turn']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "Imbalance: largest over mean cost of 8 ranks, mean of 200 steps. Own memory: growth of the process's own pages while the plan",
        "is made and used; pages of mapped files belong to the system. Opening checks the budget of every structure. Not measured:",
        "files that are not in the system's cache.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every configuration in a process of its own and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for plan.json and plan.md")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="structures")
    parser.add_argument("--one", nargs=4, metavar="X", help=argparse.SUPPRESS)  # size, datasets, per step, folder
    options = parser.parse_args()
    if options.one:
        n, n_datasets, per_step, folder = options.one
        print(json.dumps(measure(int(n), int(n_datasets), int(per_step), Path(folder))))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), "numpy": package_version("numpy")}
    report: dict[str, Any] = {"date": date.today().isoformat(), "commit": commit(), "hardware": hardware(), "versions": versions}
    report |= {"load": os.getloadavg()[0], "rows": []}
    for n in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.output) as work:
            if n <= LARGEST_FILE:
                write_columns(n, Path(work))
            report["rows"] += [run_alone(n, d, s, work, options.output) for d in N_DATASETS for s in STRUCTURES_PER_STEP]
    (options.output / "plan.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (options.output / "plan.md").write_text(markdown(report))
    print(markdown(report))


def run_alone(n: int, n_datasets: int, per_step: int, work: str, output: Path) -> dict[str, Any]:
    """One configuration in a process of its own; the selection is made by a first one, which is not measured."""
    command = [sys.executable, __file__, "--output", str(output), "--one", str(n), str(n_datasets), str(per_step), work]
    if not (Path(work) / f"held-out-{n_datasets}-0.npy").exists():
        subprocess.run([sys.executable, "-c", _SELECTIONS, str(Path(__file__).parent), str(n), str(n_datasets), work], check=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"{n:.0e} structures, {n_datasets} datasets, {per_step} per step: done", flush=True)
    return json.loads(done.stdout)


_SELECTIONS = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import benchmark_plan as b;"
    "b.make_plan(int(sys.argv[2]), int(sys.argv[3]), 64, Path(sys.argv[4]))"
)


if __name__ == "__main__":
    main()
