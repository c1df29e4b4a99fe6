"""Run models for a long time and pull their atoms apart: failures, drift, pair distributions, scans. Interrupt it anywhere.

    UNIPOT_REAL_DATA=<folder> python scripts/stability.py --runs runs/stability --output outputs/stability [--plan scripts/stability.yaml]
        [--only water] [--seconds 600] [--scale 1.0] [--threads 1] [--report]

What has been done is in the output folder and is not done again; a stage that was cut off goes on to the same bit. Writes
stability.json, stability.md and one picture per system; `--report` only writes them. `--scale 0.1` shortens all stages to a tenth.
Scans are made in float64, dynamics in the dtype of the checkpoint.
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
import yaml
from ase.constraints import FixAtoms
from ase.io import read

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmark_peers.conditions import commit, hardware  # noqa: E402

from unipot.calculator import UnipotCalculator  # noqa: E402
from unipot.reporting.canvas import colour_of, new_figure, svg_bytes  # noqa: E402
from unipot.reporting.tables import ReportTable  # noqa: E402
from unipot.simulate.scan import Scan, dimer_scan, volume_scan  # noqa: E402
from unipot.simulate.stability import Stage, StageRun, kept_bonds, reference_distribution  # noqa: E402
from unipot.structure import fixed_atoms  # noqa: E402

#: Å; where dimer curves are compared with smooth ones, below it they are too steep to see anything
SMOOTH_FROM = 0.8
#: Å beyond the cutoff, to which dimers are pulled
BEYOND = 0.5


class Study:
    """One system of the plan.

    Args:
        name: of the system.
        system: its entry in the plan.
        options: of the command line.
    """

    def __init__(self, name: str, system: dict[str, Any], options: argparse.Namespace) -> None:
        self.name, self.system, self.options = name, system, options
        self.data = Path(os.environ.get("UNIPOT_REAL_DATA", "real_data"))
        self.folder = Path(options.output) / name
        self.checkpoint = Path(options.runs) / system["checkpoint"]

    def start(self) -> Any:
        """The first structure, without velocities; what its source held in place is held."""
        atoms = read(self.data / self.system["structure"], index=str(self.system["index"]))
        atoms.calc = None
        atoms.info.clear()
        if (held := fixed_atoms(atoms)).any():
            atoms.set_constraint(FixAtoms(mask=held))
        return atoms

    def stages(self) -> list[tuple[Stage, str | None]]:
        """Stages with the name of the one they start from."""
        found = []
        for entry in self.system["stages"]:
            entry = dict(entry)
            after = entry.pop("after", None)
            entry["pairs"] = tuple(tuple(pair) for pair in entry.get("pairs", ()))
            entry["duration"] *= self.options.scale
            found.append((Stage(**entry), after))
        return found

    def run(self, deadline: float | None) -> bool:
        """Everything that is not done; False when time is up."""
        self.scans()
        calculator = UnipotCalculator(self.checkpoint, head=self.system.get("head"))
        done: dict[str, Any] = {}
        for stage, after in self.stages():
            if after is not None and after not in done:
                continue
            atoms = self.start() if after is None else done[after].copy()
            atoms.calc = calculator
            run = StageRun(atoms, stage, self.folder)
            if not run.is_done:
                left = None if deadline is None else deadline - time.perf_counter()
                if left is not None and left <= 0:
                    return False
                run.run(seconds=left)
                print(f"{self.name} {stage.name}: {_sentence(run)}", flush=True)
            if not run.is_done:
                return False
            if run.record.failure is None:
                done[stage.name] = run.atoms
        return True

    def scans(self) -> list[dict[str, Any]]:
        """Results of the scans, made once."""
        file = self.folder / "scans.json"
        if file.exists():
            return json.loads(file.read_text())
        calculator = UnipotCalculator(self.checkpoint, head=self.system.get("head"), dtype=torch.float64)
        longest = calculator.potential.cutoff + BEYOND
        found = [
            dimer_scan(calculator, tuple(pair), longest=longest, n_points=2 * round((longest - 0.2) / 0.005) + 1)
            for pair in self.system["dimers"]
        ]
        results = [_described(scan, SMOOTH_FROM) for scan in found]
        if self.system["volume"]:
            atoms = self.start()
            atoms.calc = calculator
            results.append(_described(volume_scan(atoms), 0.0))
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results) + "\n", encoding="utf-8")
        return results

    def results(self) -> dict[str, Any]:
        """What is there."""
        stages = []
        for stage, after in self.stages():
            if not (self.folder / f"{stage.name}.state.npz").exists():
                stages.append({"name": stage.name, "state": "not started" if after is None else f"not started (after {after})"})
                continue
            atoms = self.start()
            run = StageRun(atoms, stage, self.folder)
            record = run.record
            stages.append(
                {
                    "name": stage.name,
                    "state": "done" if run.is_done else "running",
                    "failure": record.failure,
                    "picoseconds": record.n_steps * stage.timestep / 1000,
                    "temperature": record.mean_temperature(),
                    "drift_mev_per_atom_ps": 1000 * record.drift if stage.ensemble == "nve" else None,
                    "closest": min(record.closest),
                    "bonds": kept_bonds(atoms, run.atoms),
                    "milliseconds_per_step": 1000 * record.seconds / max(1, record.n_steps),
                    "n_atoms": record.n_atoms,
                    "peaks": [
                        {"pair": "-".join(d.symbols), "model": d.first_peak(), "data": self._reference_peak(d.symbols)}
                        for d in run.distributions
                        if d.n_frames
                    ],
                    "trace": {
                        "times": record.times,
                        "temperature": record.temperature,
                        "total_energy": record.total_energy,
                    },
                    "distributions": {
                        "-".join(d.symbols): (d.distances.tolist(), d.values.tolist())
                        for d in run.distributions
                        if d.n_frames
                    },
                }
            )
        return {"name": self.name, "stages": stages, "scans": self.scans() if (self.folder / "scans.json").exists() else []}

    def _reference_peak(self, symbols: tuple[str, str]) -> Any:
        if not self.system.get("reference"):
            return None
        return reference_distribution(read(self.data / self.system["reference"], ":"), symbols).first_peak()


def _sentence(run: StageRun) -> str:
    record, stage = run.record, run.stage
    per_step = 1000 * record.seconds / max(1, record.n_steps)
    state = record.failure or f"{record.n_steps * stage.timestep / 1000:.2f} of {stage.duration:g} ps, {record.mean_temperature():.0f} K"
    drift = f", drift {1000 * record.drift:.3f} meV/atom/ps" if stage.ensemble == "nve" else ""
    return f"{state}{drift}, {per_step:.1f} ms/step"


def _described(scan: Scan, start: float) -> dict[str, Any]:
    return {
        "name": scan.name,
        "quantity": scan.quantity,
        "finite": scan.is_finite,
        "repulsive_until": scan.repulsive_until,
        "spacing": scan.spacing,
        "jump_ev": scan.jump(start),
        "order": scan.smoothness(start),
        "slope_error": scan.slope_error(start),
        "values": scan.values.tolist(),
        "energies": scan.energies.tolist(),
    }


def markdown(results: dict[str, Any]) -> str:
    """Two tables."""
    stages = [(system["name"], stage) for system in results["systems"] for stage in system["stages"]]
    runs = ReportTable(
        title="runs",
        columns=("system", "atoms", "stage", "ps", "mean T, K", "closest pair / Σ radii", "bonds kept", "drift, meV/atom/ps", "ms/step",
                 "first peaks, Å (data)", "failure"),
        rows=tuple(_row(name, stage) for name, stage in stages),
    )  # fmt: skip
    scans = ReportTable(
        title="scans",
        columns=("system", "scan", "finite", "repulsive up to / Σ radii or V0", "spacing", "largest jump of the second difference, meV",
                 "order of smoothness", "forces against energies"),
        rows=tuple(
            (system["name"], f"{s['name']} {s['quantity'].split(',')[0]}", "yes" if s["finite"] else "NO",
             s["repulsive_until"],
             f"{s['spacing']:.3g}", 1000 * s["jump_ev"], s["order"], f"{s['slope_error']:.1e}")
            for system in results["systems"] for s in system["scans"]
        ),
    )  # fmt: skip
    where = f"{results['hardware']}, {results['threads']} thread(s), commit {results['commit']}, torch {results['torch']}"
    return "\n\n".join([where, runs.to_markdown(), scans.to_markdown()]) + "\n"


def _row(system: str, stage: dict[str, Any]) -> tuple[Any, ...]:
    if "temperature" not in stage:
        return (system, None, stage["name"], None, None, None, None, None, None, "", stage["state"])
    peaks = [f"{p['pair']} {p['model'][0]:.2f}" + (f" ({p['data'][0]:.2f})" if p["data"] else "") for p in stage["peaks"]]
    outcome = stage["failure"] or ("none" if stage["state"] == "done" else stage["state"])
    numbers = [stage[key] for key in ("picoseconds", "temperature", "closest", "bonds", "drift_mev_per_atom_ps", "milliseconds_per_step")]
    return (system, stage["n_atoms"], stage["name"], *numbers, ", ".join(peaks), outcome)


def picture(system: dict[str, Any]) -> bytes:
    """Temperature, pair distributions, and scans of a system."""
    figure, (temperature, distribution, scan) = new_figure(3, system["name"], size=(12.0, 3.7))
    for k, stage in enumerate(s for s in system["stages"] if "trace" in s):
        trace = stage["trace"]
        temperature.plot(trace["times"], trace["temperature"], color=colour_of(k), linewidth=0.8, label=stage["name"])
        for pair, (distances, values) in stage["distributions"].items():
            distribution.plot(distances, values, linewidth=1.0, label=f"{pair} {stage['name']}")
    for k, found in enumerate(s for s in system["scans"] if s["quantity"].startswith("distance")):
        values, energies = np.array(found["values"]), np.array(found["energies"])
        scan.plot(values, energies - energies[-1], color=colour_of(k), linewidth=1.0, label=found["name"])
    temperature.set(xlabel="time, ps", ylabel="temperature, K")
    distribution.set(xlabel="distance, Å", ylabel="g(r)", ylim=(0, 6))
    scan.set(xlabel="distance, Å", ylabel="energy, eV", ylim=(-10, 30))
    for axis in (temperature, distribution, scan):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    return svg_bytes(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("outputs/stability"))
    parser.add_argument("--only", nargs="*", help="names of systems")
    parser.add_argument("--seconds", type=float, help="stop after that many")
    parser.add_argument("--scale", type=float, default=1.0, help="of all durations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="write the report of what is there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = yaml.safe_load(options.plan.read_text(encoding="utf-8"))
    studies = [Study(name, system, options) for name, system in plan.items()]
    deadline = None if options.seconds is None else time.perf_counter() + options.seconds
    chosen = [study for study in studies if not options.report and (not options.only or study.name in options.only)]
    finished = [study.run(deadline) for study in chosen]
    options.output.mkdir(parents=True, exist_ok=True)
    results = {
        "hardware": hardware()["processor"],
        "threads": options.threads,
        "commit": commit(),
        "torch": torch.__version__,
        "systems": [study.results() for study in studies if study.folder.exists()],
    }
    (options.output / "stability.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    (options.output / "stability.md").write_text(markdown(results), encoding="utf-8")
    for system in results["systems"]:
        (options.output / f"{system['name']}.svg").write_bytes(picture(system))
    print(markdown(results))
    return 0 if all(finished) else 3


if __name__ == "__main__":
    sys.exit(main())
