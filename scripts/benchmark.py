"""Measure unipot beside its peers: cost of training, inference and MD steps, memory, roofline, accuracy at equal training cost.

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
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers.conditions import commit, hardware, package_version  # noqa: E402
from benchmark_peers.contenders import PACKAGES, Contender, available  # noqa: E402
from benchmark_peers.driver import say  # noqa: E402
from benchmark_peers.import_time import import_time  # noqa: E402
from benchmark_peers.md import md_step  # noqa: E402
from benchmark_peers.md_systems import SYSTEMS  # noqa: E402
from benchmark_peers.mixture import mixture, mixture_accuracy  # noqa: E402
from benchmark_peers.races import accuracy  # noqa: E402
from benchmark_peers.roofline import roofline  # noqa: E402
from benchmark_peers.sets import SETS  # noqa: E402
from benchmark_peers.setup import Setup  # noqa: E402
from benchmark_peers.tables import markdown  # noqa: E402
from benchmark_peers.throughput import throughput  # noqa: E402

PARTS = ("throughput", "md", "roofline", "mixture", "mixture-accuracy", "accuracy", "import")
NOT_COVERED = ("compiled models but in throughput and md", "GPU", "peers other than those in the tables")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the reference data (acac, rmd17_ethanol, mptrj_1k, …)")
    parser.add_argument("--output", type=Path, required=True, help="folder for <part>.json, benchmark.md and the workers' logs")
    parser.add_argument("--peer-python", action="append", default=[], metavar="PACKAGE=PYTHON", help="interpreter that has a peer")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    keys = ", ".join(c.key for c in available())
    parser.add_argument("--contenders", nargs="+", default=None, metavar="KEY", help=f"only these of {keys}")
    parser.add_argument("--reference", default="NequIP preset S", help="label of the contender that ratios refer to")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1], help="numbers of threads, each measured, in turns")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds after warm-up, at least 5")
    parser.add_argument("--slice-seconds", type=float, default=1.0, help="of one contender in one round; at least one step")
    parser.add_argument("--together", type=int, default=6, help="processes alive at once; each group has the reference, memory limits it")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="of the MD step")
    parser.add_argument("--sets", nargs="+", choices=[s.name for s in SETS], default=[s.name for s in SETS], help="of the accuracy races")
    parser.add_argument("--accuracy-seconds", type=float, default=200.0, help="CPU time of training for each contender, set and seed")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each contender; tables give medians")
    parser.add_argument("--jobs", type=int, default=1, help="races at once, one thread each")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å, of every model but DPA3")
    parser.add_argument("--seed", type=int, default=0, help="first one, of weights and orders")
    sizes = 'changes to the backbones, as {"native-small": {"n_channels": 96}}'
    parser.add_argument("--hyperparameters", type=json.loads, default={}, metavar="JSON", help=sizes)
    recipes = 'changes to training recipes, as {"native-small": {"learning_rate": 0.01}}'
    parser.add_argument("--recipes", type=json.loads, default={}, metavar="JSON", help=recipes)
    return parser.parse_args()


def main() -> None:
    """Measure the chosen parts and write them as JSON and, with those of earlier calls, as Markdown."""
    options = arguments()
    _check_options(options)
    options.output.mkdir(parents=True, exist_ok=True)
    pythons = {"unipot": sys.executable} | dict(pair.split("=", 1) for pair in options.peer_python)
    asked = [c for c in available() if options.contenders is None or c.key in options.contenders]
    missing = [f"{c.label} (no --peer-python {c.package}=… given)" for c in asked if c.package not in pythons]
    with tempfile.TemporaryDirectory() as work:
        setup = _setup(options, pythons, tuple(c for c in asked if c.package in pythons), Path(work))
        for part in options.parts:
            result = measure(part, setup, options)
            report = {"conditions": conditions(options, result, [*missing, *NOT_COVERED]), "result": result}
            # after every part, so that an interrupted run keeps what it has
            (options.output / f"{part}.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
            (options.output / "benchmark.md").write_text(markdown(reports(options.output), options.reference))
            say(f"wrote {options.output / part}.json and benchmark.md")
    print(markdown(reports(options.output), options.reference))


def measure(part: str, setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    """One part."""
    if part not in ("throughput", "md"):
        setup = replace(setup, contenders=tuple(c for c in setup.contenders if not c.compiled))
    races = {"seconds": options.accuracy_seconds, "seeds": range(options.seed, options.seed + options.seeds), "jobs": options.jobs}
    if part == "accuracy":
        return accuracy(setup, sets=options.sets, folder=options.output / "accuracy", **races)
    if part == "mixture-accuracy":
        return mixture_accuracy(setup, folder=options.output / "mixture-accuracy", **races)
    if part == "md":
        return md_step(setup, options.systems)
    if part == "import":
        return import_time()
    return {"throughput": throughput, "roofline": roofline, "mixture": mixture}[part](setup)


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Part -> its report, for those that have been measured into `folder`."""
    return {part: json.loads(path.read_text()) for part in PARTS if (path := folder / f"{part}.json").exists()}


def conditions(options: argparse.Namespace, result: dict[str, Any], not_measured: list[str]) -> dict[str, Any]:
    """Machine, versions and settings that belong to every figure."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "torch": package_version("torch")} | _package_versions(result),
        "dtype": "float32",
        "threads": options.threads,
        "cutoff": options.cutoff,
        "reference": options.reference,
        "rounds": options.rounds,
        "seed": options.seed,
        "hyperparameters": options.hyperparameters,
        "recipes": options.recipes,
        "not_measured": not_measured,
    }


def _setup(options: argparse.Namespace, pythons: dict[str, str], contenders: tuple[Contender, ...], work: Path) -> Setup:
    return Setup(
        pythons=pythons,
        contenders=contenders,
        reference=options.reference,
        data=options.data,
        work=work,
        logs=options.output,
        cutoff=options.cutoff,
        threads=tuple(options.threads),
        rounds=options.rounds,
        slice_seconds=options.slice_seconds,
        together=options.together,
        seed=options.seed,
        hyperparameters=options.hyperparameters,
        recipes=options.recipes,
    )


def _check_options(options: argparse.Namespace) -> None:
    if not options.data.is_dir():
        sys.exit(f"--data {options.data} is not a folder; give the folder that holds acac, rmd17_ethanol, mptrj_1k, …")
    if options.rounds < 5:
        sys.exit(f"--rounds is {options.rounds}; at least 5 are needed for a median that means something")
    peers = [package for package in PACKAGES if package != "unipot"]
    for pair in options.peer_python:
        package, _, python = pair.partition("=")
        if package not in peers or not Path(python).is_file():
            sys.exit(f"--peer-python {pair}: give PACKAGE=PYTHON with a package out of {', '.join(peers)} and an interpreter that exists")
    keys = [c.key for c in available()]
    if unknown := [key for key in options.contenders or [] if key not in keys]:
        sys.exit(f"--contenders: {unknown[0]!r} is not known; choose from {', '.join(keys)}")


def _package_versions(result: Any) -> dict[str, str]:
    """Versions that workers reported anywhere in a result; a torch that differs from this process's is named with its package."""
    found: dict[str, str] = {}
    for packages in _reported(result):
        own = [name for name in packages if name not in ("torch", "e3nn")]
        found |= {name: packages[name] for name in own}
        if packages["torch"] != package_version("torch"):
            found[f"torch of {own[0]}"] = packages["torch"]
    return found


def _reported(tree: Any) -> Iterator[dict[str, str]]:
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        if "packages" in tree:
            yield tree["packages"]
        for value in tree.values():
            yield from _reported(value)


if __name__ == "__main__":
    main()
