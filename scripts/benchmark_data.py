"""Measure the data path beside its peers: structures per second from disk to a model-ready batch, bytes, conversion.

The same 5,000 real structures are converted by every package to its own format and read back in shuffled batches of 64, in
turns (A B C, A B C, …), without and with neighbour lists, with several numbers of loader workers. Limits that no format can pass
are measured in the same turns: the bytes of the records alone, and the neighbour engine alone.

    python scripts/benchmark_data.py --data DATA --output RESULTS --peer-python mace=ENV/bin/python
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

from benchmark_peers import data_driver  # noqa: E402
from benchmark_peers.conditions import commit, hardware, package_version  # noqa: E402
from benchmark_peers.driver import say  # noqa: E402

PEERS = ("fairchem", "mace", "arrow")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the reference data (mptrj_1k, oc20_debug, …)")
    parser.add_argument("--output", type=Path, required=True, help="folder for data.json, data.md and the workers' logs")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PACKAGE=PYTHON",
        help="interpreter that has mace, or another one for fairchem or arrow",
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loader processes; 0 reads in the main process")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds after warm-up, at least 5")
    parser.add_argument("--slice-seconds", type=float, default=1.0, help="of one contender in one round; at least one batch")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å")
    return parser.parse_args()


def main() -> None:
    """Measure and write JSON and Markdown."""
    options = arguments()
    if options.rounds < 5:
        sys.exit(f"--rounds is {options.rounds}; at least 5 are needed for a median that means something")
    options.output.mkdir(parents=True, exist_ok=True)
    pythons = {name: sys.executable for name in ("unipot", "fairchem", "arrow")}
    pythons |= dict(pair.split("=", 1) for pair in options.peer_python)
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in ("torch", "numpy", "numba")},
        "load": os.getloadavg()[0],
        "cutoff": options.cutoff,
        "batch_size": data_driver.BATCH_SIZE,
        "rounds": options.rounds,
        "not_measured": [f"{name} (no --peer-python {name}=…)" for name in PEERS if name not in pythons] + ["network file systems", "GPU"],
    }
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "real.extxyz"
        say("writing the structures")
        report["source"] = data_driver.write_source(options.data, source)
        n = report["source"]["structures"]
        report |= data_driver.measure(source, Path(work), options.output, pythons, n, options)
    (options.output / "data.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    text = markdown(report)
    (options.output / "data.md").write_text(text)
    print(text)


def markdown(report: dict[str, Any]) -> str:
    """The results as tables; ratios say how many times the rate of that row unipot reads."""
    machine, source = report["hardware"], report["source"]
    versions = ", ".join(f"{name} {number}" for name, number in (report["versions"] | report["packages"]).items())
    lines = [
        f"Commit {report['commit']}, {report['date']}; {machine['processor']}, {machine['cores']} cores, "
        f"load {report['load']:.1f}; {versions}.",
        "",
        f"{source['structures']:,} real structures of {source['mean_atoms']:.1f} atoms on average (largest {source['largest']}), shuffled "
        f"batches of {report['batch_size']}, float32, cutoff {report['cutoff']} Å, page cache warm; medians of {report['rounds']} "
        "interleaved rounds.",
    ]
    titles = list(report["reading"])
    labels = list(dict.fromkeys(label for part in report["reading"].values() for label in part))
    lines += ["", "Structures/s; in brackets, unipot's rate over this one.", "", "| format | " + " | ".join(titles) + " |"]
    lines.append("|---|" + "--:|" * len(titles))
    for label in labels:
        cells = []
        for title in titles:
            part = report["reading"][title]
            rate = part.get(label, {}).get("median")
            cells.append("" if rate is None else f"{rate:,.0f} ({part['unipot']['median'] / rate:.1f})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| format | bytes per structure | conversion, structures/s | edges of one pass |", "|---|--:|--:|--:|"]
    for label, row in report["conversion"].items():
        edges = f"{report['edges'][label]:,}" if label in report["edges"] else ""
        lines.append(f"| {label} | {row['bytes_per_structure']:,.0f} | {row['structures_per_second']:,.0f} | {edges} |")
    lines += ["", "Not measured: " + "; ".join(report["not_measured"] + [f"{k}: {v}" for k, v in report["errors"].items()]) + "."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
