"""Time what a step of molecular dynamics spends outside the model, and choose the skin of the neighbour list.

    UNIPOT_REAL_DATA=<folder> python scripts/benchmark_simulation.py [--output outputs/simulation]
        [--threads 1] [--checkpoint FILE] [--head H]

For a molecule, a water box and a larger cell: milliseconds of the model, of the batch (neighbours and tensors) and of all the
rest (ASE, integrator) in Langevin steps at 300 K, for several skins and for edges of the skin left in; steps from one list to
the next. Turns alternate between skins; medians. Without a checkpoint weights are random: forces of the harmonic springs that tie
each atom to its place move them, the model's are computed and dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.md.langevin import Langevin

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmark_memory import potential_of  # noqa: E402
from benchmark_peers.conditions import commit, hardware  # noqa: E402

from unipot.calculator import UnipotCalculator  # noqa: E402
from unipot.models import Potential  # noqa: E402
from unipot.reporting.tables import ReportTable  # noqa: E402

SKINS = (0.0, 0.2, 0.3, 0.5, 0.8, 1.2)
SPRING = 4.0  # eV/Å², about that of a bond
ROUNDS, STEPS = 4, 15


class Tied(Calculator):
    """Springs to the first positions; what the model costs is measured on the way.

    Args:
        atoms: at rest.
        model: whose predictions are dropped.
    """

    implemented_properties = ["energy", "forces"]

    def __init__(self, atoms: Atoms, model: UnipotCalculator) -> None:
        super().__init__()
        self.rest, self.model = atoms.positions.copy(), model
        self.batch_seconds: list[float] = []
        self.model_seconds: list[float] = []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        started = time.perf_counter()
        batch = self.model.batch_of(self.atoms)
        made = time.perf_counter()
        self.model.potential(batch, ("energy", "forces"), create_graph=False)
        self.batch_seconds.append(made - started)
        self.model_seconds.append(time.perf_counter() - made)
        moved = self.atoms.positions - self.rest
        self.results = {"energy": 0.5 * SPRING * float((moved**2).sum()), "forces": -SPRING * moved}


def systems() -> dict[str, Atoms]:
    found = {"ethanol": molecule("CH3CH2OH"), "copper 500": bulk("Cu", cubic=True) * (5, 5, 5)}
    water = Path(os.environ.get("UNIPOT_REAL_DATA", "real_data")) / "water_revpbe0d3" / "test.extxyz"
    if water.is_file():
        found["water 192"] = Atoms(read(water, "0"))
        found["water 192"].calc = None
    return found


def measure(atoms: Atoms, potential: Potential, head: str | None) -> list[dict[str, Any]]:
    """One row per skin."""
    runs = []
    for skin in SKINS:
        own = atoms.copy()
        tied = own.calc = Tied(own, UnipotCalculator(potential, head=head, skin=skin))
        rng = np.random.default_rng(0)
        own.set_momenta(rng.normal(size=own.positions.shape) * np.sqrt(2 * own.get_masses() * units.kB * 300)[:, None])
        driver = Langevin(own, timestep=0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng, fixcm=False)
        runs.append((skin, tied, driver, []))
    for _ in range(ROUNDS):
        for _, tied, driver, seconds in runs:
            driver.run(2)
            before, started = sum(tied.batch_seconds) + sum(tied.model_seconds), time.perf_counter()
            driver.run(STEPS)
            inside = sum(tied.batch_seconds) + sum(tied.model_seconds) - before
            seconds.append((time.perf_counter() - started - inside) / STEPS)
    rows = []
    for skin, tied, _, seconds in runs:
        list_of = tied.model._moving.neighbors
        rows.append(
            {
                "skin": skin,
                "model_ms": 1000 * float(np.median(tied.model_seconds)),
                "batch_ms": 1000 * float(np.mean(tied.batch_seconds[3:])),
                "rest_ms": 1000 * float(np.median(seconds)),
                "steps_per_list": list_of.n_uses / max(1, list_of.n_builds),
                "n_edges": tied.model.batch_of(tied.atoms).n_edges,
                "n_candidates": list_of._candidates[0].shape[1],
            }
        )
    return rows


def left_in(atoms: Atoms, potential: Potential, skin: float) -> tuple[float, float]:
    """Milliseconds of the model with the edges within the cutoff, and with those within cutoff + skin."""
    from unipot.batch import collate
    from unipot.structure import Structure

    structure = Structure.from_ase(atoms)
    batches = [collate([structure], cutoff=potential.cutoff + extra, dtype=potential.dtype) for extra in (0.0, skin)]
    seconds: list[list[float]] = [[], []]
    for _ in range(12):
        for k, batch in enumerate(batches):
            started = time.perf_counter()
            potential(batch, ("energy", "forces"), create_graph=False)
            seconds[k].append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[0][2:])), 1000 * float(np.median(seconds[1][2:]))


def step_table(results: dict[str, Any]) -> ReportTable:
    """The parts of a step, by system and skin."""
    columns = (
        "system", "skin, Å", "model, ms", "batch, ms", "ASE and integrator, ms", "outside the model, %", "steps per list", "edges",
        "candidates",
    )  # fmt: skip
    rows = []
    for name, row in ((name, row) for name, found in results.items() for row in found["rows"]):
        outside = row["batch_ms"] + row["rest_ms"]
        share = 100 * (1 - row["model_ms"] / (row["model_ms"] + outside))
        milliseconds = row["model_ms"], row["batch_ms"], row["rest_ms"]
        rows.append((name, row["skin"], *milliseconds, share, row["steps_per_list"], row["n_edges"], row["n_candidates"]))
    return ReportTable(title="a step", columns=columns, rows=tuple(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/simulation"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--head")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.checkpoint is None:
        potential = potential_of("native-small").eval()
    else:
        from unipot import load_potential

        potential = load_potential(options.checkpoint)
    results = {
        name: {"rows": measure(atoms, potential, options.head), "left_in": left_in(atoms, potential, 0.5)}
        for name, atoms in systems().items()
    }
    sentences = [
        f"{name}: the model takes {a:.2f} ms with the edges within the cutoff and {b:.2f} ms with a skin of 0.5 Å left in"
        for name, (a, b) in ((name, found["left_in"]) for name, found in results.items())
    ]
    where = f"{hardware()['processor']}, {options.threads} thread(s), commit {commit()}, torch {torch.__version__}"
    text = "\n\n".join([where, step_table(results).to_markdown(), *sentences]) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "simulation.json").write_text(json.dumps({"where": where, **results}, indent=1) + "\n", encoding="utf-8")
    (options.output / "simulation.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
