"""Draw the accuracy–cost front from the results of `scripts/benchmark.py` (parts accuracy, throughput and md).

Accuracy is the force error over the smallest of all contenders, as geometric mean over the sets; cost is training atoms per second,
and atoms per second of an MD step. Points that no other one beats in both are joined.

    python scripts/benchmark_front.py --results RESULTS
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # so that the checkout is measured, not an installed copy

from benchmark_peers.accuracy_tables import force_ratios  # noqa: E402
from benchmark_peers.markdown import table  # noqa: E402

Points = dict[str, tuple[float, float]]


def main() -> None:
    """Write `front.png` and `front.md` into the results folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="output folder of scripts/benchmark.py")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of the rates")
    options = parser.parse_args()
    ratios = force_ratios([run for run in _result(options.results, "accuracy")["runs"] if "errors" in run])
    costs = {
        "training, atoms/s": _rates(options.results, "throughput", f"train-{options.threads}", "median"),
        "MD step, atoms/s": _rates(options.results, "md", f"md-{options.threads}", "atoms_per_s"),
    }
    fronts = {name: {label: (rates[label], ratio) for label, ratio in ratios.items() if label in rates} for name, rates in costs.items()}
    draw(fronts, options.results / "front.png", options.threads)
    labels = sorted(ratios, key=lambda label: ratios[label])
    rows = [[label, f"{ratios[label]:.2f}", *(f"{r[label]:,.0f}" if label in r else "–" for r in costs.values())] for label in labels]
    text = table(["model", "force error over the best", *costs], rows)
    (options.results / "front.md").write_text(text + "\n")
    print(text)


def draw(fronts: dict[str, Points], path: Path, threads: int) -> None:
    """One panel per cost, both axes logarithmic; better is to the right and below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = plt.subplots(1, len(fronts), figsize=(5.5 * len(fronts), 4.2), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, fronts.items(), strict=True):
        for label, (rate, ratio) in points.items():
            own = label.startswith("native")
            axis.plot(rate, ratio, "o", color="tab:red" if own else "tab:gray", markersize=8 if own else 6)
            axis.annotate(label, (rate, ratio), textcoords="offset points", xytext=(5, 5), fontsize=8)
        best = front(points)
        axis.plot([points[label][0] for label in best], [points[label][1] for label in best], "-", color="tab:red", alpha=0.4, zorder=0)
        axis.set(xscale="log", yscale="log", xlabel=f"{name} ({threads} thread{'s' * (threads > 1)})")
        axis.margins(x=0.35, y=0.2)  # room for the labels
        axis.grid(alpha=0.3, which="both")
        for side in (axis.xaxis, axis.yaxis):  # few plain numbers: 1, 2, 5 of each decade
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
            side.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("force error over the best, geometric mean over sets")
    figure.savefig(path, dpi=110)


def front(points: Points) -> list[str]:
    """Labels, by rising rate, of points that no other one equals or beats in both rate (higher) and error (lower)."""
    best, found = math.inf, []
    for label in sorted(points, key=lambda name: (-points[name][0], points[name][1])):
        if points[label][1] < best:
            best = points[label][1]
            found.append(label)
    return found[::-1]


def _rates(folder: Path, part: str, key: str, field: str) -> dict[str, float]:
    """Label -> geometric mean over batches or systems, for those that ran on all of them."""
    results = list(_result(folder, part)["results"].values())
    labels = [label for label in results[0] if all(key in result.get(label, {}) for result in results)]
    return {label: statistics.geometric_mean(result[label][key][field] for result in results) for label in labels}


def _result(folder: Path, part: str) -> dict[str, Any]:
    path = folder / f"{part}.json"
    if not path.exists():
        sys.exit(f"{path} is not there; run scripts/benchmark.py --parts {part} --output {folder} first")
    return json.loads(path.read_text())["result"]


if __name__ == "__main__":
    main()
