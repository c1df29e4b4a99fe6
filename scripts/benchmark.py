"""Measure unipot beside its peers: training and inference throughput, memory, accuracy at equal time, data path, import time.

Every model runs in a process of its own, in its package's environment, and all are timed in turns (A B C, A B C, …) by this
one driver, so ratios hold while the machine's speed drifts. How to make the environments and what exactly is measured:
`scripts/benchmark_peers/README.md`.

    python scripts/benchmark.py --data DATA --peer-python nequip=ENV/bin/python --peer-python mace=ENV/bin/python --output RESULTS
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers import parts  # noqa: E402
from benchmark_peers.conditions import commit, hardware, package_version  # noqa: E402
from benchmark_peers.driver import CONTENDERS, say  # noqa: E402
from benchmark_peers.tables import markdown  # noqa: E402

PARTS = ("throughput", "mixture", "accuracy", "import")
MODELS = tuple(c.model for c in CONTENDERS)
NOT_COVERED = ("compiled models", "GPU", "peers other than those in the tables")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the reference data (acac, rmd17_ethanol, mptrj_1k, …)")
    parser.add_argument("--output", type=Path, required=True, help="folder for benchmark.json, benchmark.md and the workers' logs")
    parser.add_argument("--peer-python", action="append", default=[], metavar="PACKAGE=PYTHON", help="interpreter that has nequip or mace")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--contenders", nargs="+", default=None, metavar="MODEL", help="only these of " + ", ".join(MODELS))
    parser.add_argument("--reference", default="NequIP preset S", help="label of the contender that ratios refer to")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every worker")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds after warm-up, at least 5")
    parser.add_argument("--slice-seconds", type=float, default=1.0, help="of one contender in one round; at least one step")
    parser.add_argument("--accuracy-seconds", type=float, default=300.0, help="wall time of training for each contender and seed")
    parser.add_argument("--accuracy-frames", nargs=2, type=int, default=[1000, 1000], metavar=("TRAIN", "TEST"), help="of rmd17_ethanol")
    parser.add_argument("--accuracy-seeds", type=int, default=1, help="runs of each contender; tables give medians")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å, of every model")
    parser.add_argument("--seed", type=int, default=0, help="of weights and orders")
    sizes = 'changes to the backbones, as {"native": {"n_channels": 96}}'
    parser.add_argument("--hyperparameters", type=json.loads, default={}, metavar="JSON", help=sizes)
    recipes = 'changes to training recipes, as {"native": {"learning_rate": 0.01}}'
    parser.add_argument("--recipes", type=json.loads, default={}, metavar="JSON", help=recipes)
    return parser.parse_args()


def main() -> None:
    """Measure the chosen parts and write them as JSON and as Markdown."""
    options = arguments()
    _check(options)
    options.output.mkdir(parents=True, exist_ok=True)
    pythons = {"unipot": sys.executable} | dict(pair.split("=", 1) for pair in options.peer_python)
    asked = [c for c in CONTENDERS if options.contenders is None or c.model in options.contenders]
    report = conditions(options)
    report["not_measured"] = [f"{c.label} (no --peer-python {c.package}=… given)" for c in asked if c.package not in pythons]
    report["not_measured"] += NOT_COVERED
    with tempfile.TemporaryDirectory() as work:
        setup = parts.Setup(
            pythons=pythons,
            contenders=tuple(c for c in asked if c.package in pythons),
            data=options.data,
            work=Path(work),
            logs=options.output,
            cutoff=options.cutoff,
            threads=options.threads,
            rounds=options.rounds,
            slice_seconds=options.slice_seconds,
            seed=options.seed,
            hyperparameters=options.hyperparameters,
            recipes=options.recipes,
        )
        for part in options.parts:
            report[part] = measure(part, setup, options)
            report["versions"] |= _package_versions(report[part])
            write(report, options)  # after every part, so that an interrupted run keeps what it has
    print(markdown(report, options.reference))


def measure(part: str, setup: parts.Setup, options: argparse.Namespace) -> dict[str, Any]:
    """One part."""
    if part == "throughput":
        return parts.throughput(setup)
    if part == "mixture":
        return parts.mixture(setup)
    if part == "accuracy":
        n_train, n_test = options.accuracy_frames
        return parts.accuracy(setup, seconds=options.accuracy_seconds, n_train=n_train, n_test=n_test, seeds=options.accuracy_seeds)
    return parts.import_time()


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings that belong to every figure."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in ("torch", "fairchem-core")},
        "dtype": "float32",
        "threads": options.threads,
        "cutoff": options.cutoff,
        "reference": options.reference,
        "rounds": options.rounds,
        "seed": options.seed,
        "hyperparameters": options.hyperparameters,
    }


def write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """`benchmark.json` and `benchmark.md` in the output folder."""
    (options.output / "benchmark.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (options.output / "benchmark.md").write_text(markdown(report, options.reference))
    say(f"wrote {options.output / 'benchmark.json'} and benchmark.md")


def _check(options: argparse.Namespace) -> None:
    if not options.data.is_dir():
        sys.exit(f"--data {options.data} is not a folder; give the folder that holds acac, rmd17_ethanol, mptrj_1k, …")
    if options.rounds < 5:
        sys.exit(f"--rounds is {options.rounds}; at least 5 are needed for a median that means something")
    packages = {c.package for c in CONTENDERS} - {"unipot"}
    for pair in options.peer_python:
        package, _, python = pair.partition("=")
        if package not in packages or not Path(python).is_file():
            allowed = ", ".join(sorted(packages))
            sys.exit(f"--peer-python {pair}: give PACKAGE=PYTHON with a package out of {allowed} and an interpreter that exists")
    unknown = [model for model in options.contenders or [] if model not in MODELS]
    if unknown:
        sys.exit(f"--contenders: {unknown[0]!r} is not known; choose from {', '.join(MODELS)}")


def _package_versions(part: dict[str, Any]) -> dict[str, str]:
    """Versions that the workers reported; a torch that differs from this process's is named with its model."""
    groups = list(part["results"].values()) if "batches" in part else []
    if "seeds" in part:
        groups = [{label: result["runs"][0] for label, result in part["results"].items()}]
    found: dict[str, str] = {}
    for label, result in (pair for group in groups for pair in group.items()):
        packages = dict(result.get("packages", {}))
        torch_version = packages.pop("torch", package_version("torch"))
        found |= {name: number for name, number in packages.items() if name != "e3nn"}
        if torch_version != package_version("torch"):
            found[f"torch of {label}"] = torch_version
    return found


if __name__ == "__main__":
    main()
