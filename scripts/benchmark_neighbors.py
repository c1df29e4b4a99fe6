"""Time every neighbour engine on the same structures, turn by turn, and write the table as JSON and Markdown.

    python scripts/benchmark_neighbors.py out=outputs/neighbors [repeats=9] [threads=1]

Each engine makes, for a batch, one edge_index numbered through the batch and the offsets. `numba` and `torch` take the batch in one
call; vesin and matscipy are called bare, once per structure, with the cells they need prepared outside the clock; nvalchemi's
`neighbor_list` takes the batch. Turns alternate (A B C A B C …), medians are after warm-up. An engine that cannot run, or finds
other edges, is listed with its message.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.collections import g2

from unipot.neighbors import batch_neighbor_list, complete_cell, device_neighbor_list
from unipot.neighbors.engines import ONE_BY_ONE

RATTLE = 0.05  # Å
CUTOFFS = (5.0, 6.0)
#: largest structure that the reference is asked for
REFERENCE_ATOMS = 100
OURS = "numba"


@dataclass(frozen=True, kw_only=True)
class Batch:
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    n_atoms: np.ndarray

    @classmethod
    def of(cls, structures: list[Atoms]) -> Batch:
        rng = np.random.default_rng(0)
        positions = np.concatenate([atoms.positions for atoms in structures])
        return cls(
            positions=positions + rng.normal(scale=RATTLE, size=positions.shape),
            cell=np.stack([atoms.cell.array for atoms in structures]),
            pbc=np.stack([atoms.pbc for atoms in structures]),
            n_atoms=np.array([len(atoms) for atoms in structures]),
        )


def batches() -> dict[str, Batch]:
    """Small molecules, bulk, slabs, and two large cells."""
    small = [atoms for atoms in map(molecule, g2.names) if 9 <= len(atoms) <= 15]
    pairs = [_side_by_side(a, b) for a, b in zip(small, reversed(small), strict=True)]
    crystals = [bulk("Cu") * k for k in ((1, 1, 2), (2, 2, 2), (3, 3, 3), (4, 4, 4))]
    crystals += [bulk("NaCl", "rocksalt", a=5.64, cubic=True) * k for k in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2))]
    crystals += [bulk("Si"), bulk("Si", cubic=True) * (2, 2, 1), bulk("Fe", cubic=True) * 3, bulk("Mg") * (5, 5, 2)]
    slab = fcc111("Pt", size=(4, 4, 5), vacuum=8.0)
    slab.pbc = True
    copper = bulk("Cu", cubic=True)
    return {
        "molecules of 9–30 atoms": Batch.of((small + pairs)[:64]),
        "bulk of 2–100 atoms": Batch.of((crystals * 5)[:64]),
        "slabs of 80 atoms": Batch.of([slab] * 16),
        "one cell of 1,372 atoms": Batch.of([copper * 7]),
        "one cell of 10,976 atoms": Batch.of([copper * 14]),
    }


def _side_by_side(left: Atoms, right: Atoms) -> Atoms:
    right = right.copy()
    right.positions += [np.ptp(left.positions[:, 0]) + 3.5, 0, 0]
    return left + right


def engine_calls(batch: Batch, cutoff: float) -> dict[str, Callable[[], tuple]]:
    """Engine -> call that returns (edge_index, offsets)."""
    arrays = (batch.positions, batch.cell, batch.pbc, batch.n_atoms)
    tensors = [torch.from_numpy(array) for array in arrays]
    calls: dict[str, Callable[[], tuple]] = {OURS: lambda: batch_neighbor_list(*arrays, cutoff, OURS)}
    for name in ("vesin", "matscipy", "reference"):
        if name != "reference" or batch.n_atoms.max() <= REFERENCE_ATOMS:
            calls[name] = _one_by_one(_vesin if name == "vesin" else ONE_BY_ONE[name], batch, cutoff)
    calls["torch"] = lambda: device_neighbor_list(*tensors, cutoff)
    calls["nvalchemi"] = _nvalchemi(tensors, cutoff)
    return calls


def _vesin(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple:
    from vesin import NeighborList

    engine = NeighborList(cutoff=cutoff, full_list=True)
    return engine.compute(points=positions, box=cell, periodic=pbc, quantities="ijS", copy=True)


def _one_by_one(engine: Callable, batch: Batch, cutoff: float) -> Callable[[], tuple]:
    stops = np.cumsum(batch.n_atoms)
    starts = stops - batch.n_atoms
    own = [batch.positions[start:stop] for start, stop in zip(starts, stops, strict=True)]
    cells = [complete_cell(own[k], batch.cell[k], batch.pbc[k], cutoff) for k in range(len(own))]

    def call() -> tuple:
        found = [engine(own[k], cells[k], batch.pbc[k], cutoff) for k in range(len(own))]
        edges = [np.stack([centre, neighbor]) + start for (centre, neighbor, _), start in zip(found, starts, strict=True)]
        return np.concatenate(edges, axis=1), np.concatenate([shifts for _, _, shifts in found])

    return call


def _nvalchemi(tensors: list[torch.Tensor], cutoff: float) -> Callable[[], tuple]:
    positions, cell, pbc, n_atoms = tensors
    of_atom = torch.repeat_interleave(torch.arange(len(n_atoms)), n_atoms).int()
    lattice = {"cell": cell, "pbc": pbc} if pbc.any() else {}  # it takes no cell for molecules

    def call() -> tuple:
        from nvalchemiops.torch.neighbors import neighbor_list
        from nvalchemiops.torch.neighbors.neighbor_utils import estimate_max_neighbors

        room = estimate_max_neighbors(cutoff)  # fairchem-core 2.24 asks for twice as much
        method = "batch_cell_list" if lattice else "batch_naive"
        edges, _, *shifts = neighbor_list(
            positions, cutoff, batch_idx=of_atom, method=method, max_neighbors=room, return_neighbor_list=True, **lattice
        )
        return edges, shifts[0] if shifts else None

    return call


def measure(calls: dict[str, Callable[[], tuple]], repeats: int) -> tuple[dict[str, float], dict[str, str], int]:
    """Median seconds per engine, messages of those that cannot run or differ, and the number of edges."""
    n_edges, messages, seconds = calls[OURS]()[0].shape[1], {}, {}
    for name, call in calls.items():
        try:
            found = [int(call()[0].shape[1]) for _ in range(2)][-1]  # warm-up
        except Exception as error:  # noqa: BLE001  (whatever a foreign engine raises belongs into the table)
            messages[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
            continue
        if found != n_edges:
            messages[name] = f"finds {found:,} edges instead of {n_edges:,}"
        seconds[name] = []
    for _ in range(repeats):
        for name in seconds:
            started = perf_counter()
            calls[name]()
            seconds[name].append(perf_counter() - started)
    return {name: median(times) for name, times in seconds.items()}, messages, n_edges


@dataclass(frozen=True, kw_only=True)
class Row:
    structures: str
    n_structures: int
    n_atoms: int
    cutoff: float
    n_edges: int
    seconds: dict[str, float]
    messages: dict[str, str]


def markdown(rows: list[Row], facts: dict[str, object]) -> str:
    """The table: structures/s (edges/s in millions), and how many times slower than the first engine."""
    names = list(dict.fromkeys(name for row in rows for name in (*row.seconds, *row.messages)))
    lines = [", ".join(f"{key} {value}" for key, value in facts.items()), ""]
    lines += ["| structures | cutoff Å | edges | " + " | ".join(names) + " |", "|---|--:|--:|" + "--:|" * len(names)]
    for row in rows:
        cells = []
        for name in names:
            if name in row.seconds:
                rate = f"{_rate(row.n_structures / row.seconds[name])}/s, {row.n_edges / row.seconds[name] / 1e6:.3g} M"
                note = "" if name == OURS else f", {row.seconds[name] / row.seconds[OURS]:.1f}×" + (" †" if name in row.messages else "")
                cells.append(rate + note)
            else:
                cells.append("‡" if name in row.messages else "–")
        lines.append(f"| {row.n_structures} {row.structures} | {row.cutoff:g} | {row.n_edges:,} | " + " | ".join(cells) + " |")
    lines += ["", f"Structures/s, million edges/s, and time over that of {OURS}; – not asked for."]
    notes = {(name, note): f"{row.structures}, {row.cutoff:g} Å" for row in rows for name, note in row.messages.items()}
    lines += [f"* {'†' if note.startswith('finds') else '‡'} {name} ({where}): {note}" for (name, note), where in notes.items()]
    return "\n".join(lines) + "\n"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def facts_of_this_run(threads: int, repeats: int) -> dict[str, object]:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    packages = {name: name for name in ("numpy", "torch", "numba", "vesin", "matscipy")} | {"nvalchemi": "nvalchemi-toolkit-ops"}
    facts: dict[str, object] = {"processor": models[0] if models else platform.processor(), "threads": threads, "medians of": repeats}
    for name, package in packages.items():
        try:
            facts[name] = version(package)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return {**facts, "python": platform.python_version(), "commit": commit or "unknown"}


def main(arguments: list[str]) -> None:
    options = {"out": "outputs/neighbors", "repeats": "9", "threads": "1", **dict(word.split("=", 1) for word in arguments)}
    repeats, threads, out = int(options["repeats"]), int(options["threads"]), Path(options["out"])
    torch.set_num_threads(threads)
    rows = []
    for name, batch in batches().items():
        for cutoff in CUTOFFS:
            seconds, messages, n_edges = measure(engine_calls(batch, cutoff), repeats)
            sizes = {"n_structures": len(batch.n_atoms), "n_atoms": len(batch.positions), "n_edges": n_edges}
            rows.append(Row(structures=name, cutoff=cutoff, seconds=seconds, messages=messages, **sizes))
            print(markdown(rows[-1:], {}), flush=True)
    facts = facts_of_this_run(threads, repeats)
    out.mkdir(parents=True, exist_ok=True)
    document = {"facts": facts, "rows": [asdict(row) for row in rows]}
    (out / "neighbors.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "neighbors.md").write_text(markdown(rows, facts), encoding="utf-8")
    print(f"wrote {out / 'neighbors.json'} and {out / 'neighbors.md'}")


if __name__ == "__main__":
    main(sys.argv[1:])
