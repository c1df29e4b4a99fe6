"""Time the native backbone on one device, compare it with float64 on the CPU, and say how near it comes to the device's peaks.

    python scripts/benchmark_device.py [--device cuda] [--output outputs/device] [--sizes native-mini native-small …]
        [--systems molecules slabs cell-1000 cell-10000] [--precisions highest high] [--seconds 2] [--compiled]

For batches of molecules and slabs and for one cell of 1,000 and of 10,000 copper atoms: a training step (energies and forces,
double backward, Muon) and a step of molecular dynamics (neighbour list with a skin on the device, energies and forces), eager and
with --compiled through compiled graphs, at each precision of matrix products (`high` is TF32 on GPUs that have it, and nothing
new on a CPU). Weights are random. Needs torch, numpy, PyYAML, safetensors and lightning, so that it runs on bare GPU nodes; the
core repulsion is left out where ASE is missing, and the result says so.
Writes device.json and device.md; a case that does not fit into memory is listed with its error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts" / "benchmark_peers")]  # the checkout, not an installed copy

import unipot_formulas  # noqa: E402
from conditions import commit, hardware  # noqa: E402
from counting import copy_rate, count, matrix_product_rate  # noqa: E402

from unipot.batch import AtomBatch  # noqa: E402
from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone  # noqa: E402
from unipot.models.compiled import CompiledPotential  # noqa: E402
from unipot.neighbors import DeviceVerletList, device_neighbor_list  # noqa: E402
from unipot.training.optim import OptimizerSettings, build_optimizer, build_policy  # noqa: E402

SIZES = ("native-mini", "native-small", "native-medium", "native-large")
PRECISIONS = ("highest", "high")
BOND, LATTICE = 1.45, 3.61  # Å: between neighbours of the molecules; of fcc copper
THERMAL, SKIN = 0.05, 0.5  # Å: by which atoms of dynamics move; of their neighbour list
WARM_UP, ROUNDS = 3, 5  # calls; timed calls at least
#: fcc vectors; those of the close-packed plane and of its layers, Å
FCC = LATTICE / 2 * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
PLANE = LATTICE / 2**0.5 * torch.tensor([[1, 0, 0], [0.5, 0.75**0.5, 0], [0.5, 0.75**0.5 / 3, (2 / 3) ** 0.5]], dtype=torch.float64)
#: radii of the core repulsion are those of ASE
HAS_RADII = importlib.util.find_spec("ase") is not None
Predictor = Callable[..., Any]


def grid(*counts: int) -> Tensor:
    """(n, 3) all whole numbers from 0 to below the counts."""
    return torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in counts))


def molecules(n: int = 32, n_atoms: int = 20) -> dict[str, Tensor]:
    """Clusters of H, C, N, O as dense as molecules."""
    rng = torch.Generator().manual_seed(0)
    positions = torch.cat([BOND * grid(3, 3, 3)[torch.randperm(27, generator=rng)[:n_atoms]] for _ in range(n)])
    elements = torch.tensor([1, 1, 6, 7, 8])[torch.randint(5, (n * n_atoms,), generator=rng)]
    return _system(elements, positions, torch.zeros(n, 3, 3), torch.zeros(n, 3, dtype=torch.bool))


def slabs(n: int = 16) -> dict[str, Tensor]:
    """Cu(111), 4 × 4 × 5 atoms with vacuum."""
    positions = grid(4, 4, 5) @ PLANE
    cell = torch.diag(torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64)) @ PLANE + torch.diag(torch.tensor([0.0, 0, 25]))
    return _system(torch.full((80 * n,), 29), positions.repeat(n, 1), cell.repeat(n, 1, 1), torch.tensor([[True, True, False]] * n))


def copper(*counts: int) -> dict[str, Tensor]:
    """One fcc cell."""
    positions, cell = grid(*counts) @ FCC, torch.tensor(counts, dtype=torch.float64)[:, None] * FCC
    return _system(torch.full((len(positions),), 29), positions, cell[None], torch.ones(1, 3, dtype=torch.bool))


SYSTEMS = {
    "molecules": molecules, "slabs": slabs, "cell-1000": lambda: copper(10, 10, 10), "cell-10000": lambda: copper(25, 20, 20),
}  # fmt: skip


def _system(elements: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor) -> dict[str, Tensor]:
    """Float64, all structures of one size, atoms rattled by 0.05 Å."""
    moved = positions + 0.05 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    n_atoms = torch.full((len(cell),), len(positions) // len(cell))
    return {"elements": elements, "positions": moved, "cell": cell.double(), "pbc": pbc, "n_atoms": n_atoms}


def batch_of(system: dict[str, Tensor], cutoff: float, dtype: torch.dtype, device: str) -> AtomBatch:
    """With neighbours, found on the CPU."""
    n_atoms, elements = system["n_atoms"], system["elements"]
    edges, shifts = device_neighbor_list(system["positions"], system["cell"], system["pbc"], n_atoms, cutoff)
    none = torch.zeros(len(n_atoms), dtype=torch.int64)
    return AtomBatch(
        atomic_numbers=elements,
        positions=system["positions"].to(dtype),
        cell=system["cell"].to(dtype),
        pbc=system["pbc"],
        structure_index=torch.repeat_interleave(n_atoms),
        n_atoms_per_structure=n_atoms,
        head_index=none,
        dataset_index=none,
        edge_index=edges,
        cell_shifts=shifts.to(dtype),
        total_charge=torch.zeros(len(n_atoms), dtype=dtype),
        spin_multiplicity=none,
        fixed=torch.zeros(len(elements), dtype=torch.bool),
        cutoff=cutoff,
    ).to(device)


def potential_of(size: str, average_neighbors: float) -> Potential:
    """Random weights, the same in every call."""
    config = yaml.safe_load((REPOSITORY / "conf" / "backbone" / f"{size}.yaml").read_text())
    torch.manual_seed(0)
    backbone = build_backbone(config["name"], {**config["hyperparameters"], "average_neighbors": average_neighbors})
    heads = HeadBank()
    reference = CompositionReference(np.zeros(119), np.ones(119, dtype=bool))
    heads.add(Head("one", level_of_theory="none", n_channels=backbone.n_channels, reference=reference))
    return Potential(backbone, heads, CoreRepulsion(config["core_repulsion"]) if HAS_RADII else None)


def training_step(potential: Potential, batch: AtomBatch, predict: Predictor) -> Callable[[], None]:
    """Energies and forces to zero; the rate is so small that nothing changes."""
    settings = OptimizerSettings(kind="muon", learning_rate=1e-9)
    optimizer = build_optimizer(potential, build_policy(potential).apply(potential, weight_decay=settings.weight_decay), settings)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        found = predict(batch, ("energy", "forces"), create_graph=True)
        (1e-3 * found.energy.square().sum() + found.forces.square().sum()).backward()
        optimizer.step()

    return step


def dynamics_step(potential: Potential, batch: AtomBatch, predict: Predictor) -> Callable[[], None]:
    """Energies and forces of the first structure with its atoms at new places around those they have, neighbour list included."""
    n = int(batch.n_atoms_per_structure[0])
    one = {name: getattr(batch, name)[:1] for name in ("cell", "pbc", "n_atoms_per_structure", "head_index", "dataset_index")}
    one |= {name: getattr(batch, name)[:1] for name in ("total_charge", "spin_multiplicity")}
    one |= {name: getattr(batch, name)[:n] for name in ("atomic_numbers", "structure_index", "fixed")}
    rest, neighbors = batch.positions[:n].double(), DeviceVerletList(potential.cutoff, SKIN)
    directions = torch.randn(2, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(rest.device)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        positions = rest + THERMAL * (np.sin(0.1 * done) * directions[0] + np.cos(0.13 * done) * directions[1])
        edges, shifts = neighbors.pairs(positions, one["cell"][0], one["pbc"][0])
        dtype = batch.positions.dtype
        moved = replace(batch, **one, positions=positions.to(dtype), edge_index=edges, cell_shifts=shifts.to(dtype))
        predict(moved, ("energy", "forces"), create_graph=False).forces.sum().item()

    return step


def timed(step: Callable[[], None], seconds: float, device: str) -> dict[str, Any]:
    """Median of at least five calls after three, and on a GPU the largest memory allocated in them."""
    on_gpu = torch.device(device).type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    for _ in range(WARM_UP):
        step()
    wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken: list[float] = []
    while len(taken) < ROUNDS or sum(taken) < seconds:
        start = time.perf_counter()
        step()
        wait()
        taken.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    return {"seconds": statistics.median(taken), "fastest": min(taken), "slowest": max(taken), "calls": len(taken), "memory_gb": memory}


def errors(size: str, system: dict[str, Tensor], device: str, average_neighbors: float) -> dict[str, float]:
    """Of float32 on the device, at the present precision, against float64 on the CPU: energy per atom (eV), forces (eV/Å)."""
    answers = []
    for dtype, place in ((torch.float64, "cpu"), (torch.float32, device)):
        potential = potential_of(size, average_neighbors).to(device=place, dtype=dtype).eval()
        found = potential(batch_of(system, potential.cutoff, dtype, place), ("energy", "forces"), create_graph=False)
        answers.append((found.energy.detach().cpu().double() / system["n_atoms"], found.forces.detach().cpu().double()))
    (energy, forces), (other_energy, other_forces) = answers
    difference, rms = ((t.square().mean().sqrt().item()) for t in (other_forces - forces, forces))
    return {"energy_per_atom": (other_energy - energy).abs().max().item(), "forces_rms": difference, "of_forces": difference / rms}


def measure(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One size on one system: both steps, and their work against the peaks of the same minute."""
    torch.set_float32_matmul_precision(case["precision"])
    size, system = case["size"], SYSTEMS[case["system"]]()
    batch = batch_of(system, potential_of(size, 1.0).cutoff, torch.float32, options.device)
    neighbors = batch.n_edges / batch.n_atoms
    result = {**case, "atoms": batch.n_atoms, "edges_per_atom": neighbors, "peaks": peaks(options.device)}
    potential = potential_of(size, neighbors).to(options.device)
    predict: Any = CompiledPotential(potential) if case["compiled"] else potential
    steps = {"train": training_step(potential, batch, predict), "md": dynamics_step(potential, batch, predict)}
    for kind, atoms in (("train", batch.n_atoms), ("md", int(system["n_atoms"][0]))):
        potential.train(kind == "train")
        took = timed(steps[kind], options.seconds, options.device)
        result[kind] = took | {"atoms_per_s": atoms / took["seconds"]}
    if case["compiled"]:
        return result | {"compile_seconds": predict.seconds, "deviation": predict.deviation, "fell_back": predict.reason}
    potential.train()
    return result | {"work": count(steps["train"])} | {"errors": errors(size, system, options.device, neighbors)}


def attempted(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """`measure`, or its error where memory does not suffice."""
    try:
        return measure(case, options)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return {**case, "error": str(error).splitlines()[0]}
    finally:
        if torch.device(options.device).type == "cuda":
            torch.cuda.empty_cache()


def peaks(device: str) -> dict[str, float]:
    """Medians of large matrix products (GFLOP/s, at the present precision) and of large copies (GB/s)."""
    rates = {"matrix_product": matrix_product_rate, "copy": copy_rate}
    return {name: statistics.median(rate(device) for _ in range(ROUNDS)) for name, rate in rates.items()}


def row(result: dict[str, Any]) -> str:
    """Of the table."""
    first = f"| {result['size']}{', compiled' if result['compiled'] else ''} | {result['system']} | {result['precision']} | "
    if "error" in result:
        return f"{first}{result['error']} | | | | | | | |"
    train, md, peak = result["train"], result["md"], result["peaks"]
    cells = [f"{1e3 * train['seconds']:.1f}", f"{train['atoms_per_s']:,.0f}", f"{1e3 * md['seconds']:.1f}", f"{md['atoms_per_s']:,.0f}"]
    cells.append("–" if train["memory_gb"] is None else f"{train['memory_gb']:.2f}")
    if "work" in result:
        work = result["work"]
        cells.append(f"{100 * work['gflop'] / train['seconds'] / peak['matrix_product']:.0f} of {peak['matrix_product'] / 1e3:.3g}")
        cells.append(f"{100 * work['gigabytes'] / train['seconds'] / peak['copy']:.0f} of {peak['copy']:,.0f}")
        cells.append(f"{1e6 * result['errors']['of_forces']:.1f}")
    else:
        cells += ["–", "–", result["fell_back"] or f"{1e6 * result['deviation']:.1f} ({result['compile_seconds']:.0f} s to compile)"]
    return first + " | ".join(cells) + " |"


HEADINGS = (
    "model", "system", "precision", "training step, ms", "atoms/s", "MD step of one structure, ms", "atoms/s", "memory of training, GB",
    "% of the peak, TFLOP/s", "% of the peak, GB/s", "force error against float64, 10⁻⁶ of their RMS",
)  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    conditions = f"{results['device']}, torch {results['torch']}, {results['threads']} thread(s), commit {results['commit']}"
    head = ["", f"| {' | '.join(HEADINGS)} |", "|---|---|---|" + "--:|" * (len(HEADINGS) - 3)]
    conditions += "; float32, random weights, medians" + ("" if results["core_repulsion"] else ", without core repulsion")
    return "\n".join([conditions, *head, *(row(result) for result in results["results"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/device"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing, at least five calls")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--compiled", action="store_true", help="measure compiled graphs as well; they take minutes to make")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    unipot_formulas.register()
    name = torch.cuda.get_device_name(options.device) if torch.device(options.device).type == "cuda" else hardware()["processor"]
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "threads": options.threads, "commit": commit()}
    results |= {"core_repulsion": HAS_RADII, "results": []}
    options.output.mkdir(parents=True, exist_ok=True)
    for system, size, precision, compiled in product(
        options.systems, options.sizes, options.precisions, (False, True)[: 1 + options.compiled]
    ):
        case = {"size": size, "system": system, "precision": precision, "compiled": compiled}
        results["results"].append(attempted(case, options))
        print(row(results["results"][-1]), flush=True)
        (options.output / "device.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.output / "device.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
