"""Accuracy as Markdown, and the summary over sets that the front is drawn from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmark_peers.contenders import CONTENDERS
from benchmark_peers.markdown import table
from benchmark_peers.sets import SETS, RaceSet


def accuracy(part: dict[str, Any], reference: str) -> str:
    """One row per set and test file: force and energy errors of every contender, medians over seeds."""
    del reference
    done = [run for run in part["runs"] if "errors" in run]
    labels = [c.label for c in CONTENDERS if any(run["label"] == c.label for run in done)]
    rows = []
    for chosen, test in _tests(done):
        floor = next(run["sizes"]["floor"][test] for run in done if run["set"] == chosen.name)
        rows.append([f"{chosen.name}, {test}", chosen.statistic.upper(), *(_cell(done, label, chosen, test) for label in labels)])
        if floor["force_rmse"] > 1.0:
            floors = f"floor {floor['force_rmse']:.0f} RMSE" if chosen.statistic == "rmse" else f"floor {floor['force_mae']:.0f} MAE"
            rows[-1][0] += f" ({floors}, from net forces)"
    ratios = force_ratios(done)
    means = [f"**{ratios[label]:.2f}**" if label in ratios else "–" for label in labels]
    rows.append(["geometric mean of force error over the best", "", *means])
    note = (
        f"After {part['seconds']:g} s of CPU time (one thread) of training each, medians over seeds: force error in meV/Å / energy error "
        "in meV (acac, 3bpa, rmd17) or meV/atom (others). Steps differ: see the JSON files."
    )
    recipes = {run["label"]: run["recipe"]["source"] for run in done}
    failed = [f"* {run['title']}: {run['error']}" for run in part["runs"] if "error" in run]
    lists = "\n".join([f"* {label}: {source}" for label, source in recipes.items()] + failed)
    return "### Accuracy at equal training cost\n\n" + "\n\n".join([note, table(["set", "metric", *labels], rows), lists])


def mixture_accuracy(part: dict[str, Any], reference: str) -> str:
    """One row per test file of the mixture."""
    del reference
    done = [run for run in part["runs"] if "errors" in run]
    labels = list(dict.fromkeys(run["label"] for run in done))
    rows = []
    for test in dict.fromkeys(name for run in done for name in run["errors"]):
        cells = []
        for label in labels:
            errors = [run["errors"][test] for run in done if run["label"] == label and test in run["errors"]]
            cells.append(" / ".join(f"{statistics.median(e[key] for e in errors):.1f}" for key in MIXTURE_KEYS) if errors else "–")
        rows.append([f"{test} ({done[0]['errors'][test]['n']})", *cells])
    steps = ["steps", *(f"{statistics.median(r['steps'] for r in done if r['label'] == label):.0f}" for label in labels)]
    note = (
        f"Five sets, a head each, {part['structures_per_step']} structures per step, after {part['seconds']:g} s of CPU time (one thread): "
        "force MAE in meV/Å / energy MAE in meV/atom on held-out structures (their number in brackets; those with "
        "elements that the head has not seen are left out)."
    )
    return "### Mixture at equal training cost\n\n" + note + "\n\n" + table(["test file", *labels], [*rows, steps])


MIXTURE_KEYS = ("force_mae_mev_per_a", "energy_mae_mev_per_atom")


def force_ratios(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Label -> geometric mean, over the tests that all contenders have, of its force error over the smallest of them.

    Contenders that lack more than a test are left out first, so that one with a single run does not shrink the common ground.
    """
    tests = _tests(runs)
    errors = {label: {(c.name, t): value for c, t in tests if (value := _force(runs, label, c, t)) is not None} for label in _labels(runs)}
    most = max((len(e) for e in errors.values()), default=0)
    complete = {label: e for label, e in errors.items() if len(e) == most}
    common = set.intersection(*(set(e) for e in complete.values())) if complete else set()
    best = {test: min(e[test] for e in complete.values()) for test in common}
    return {label: math.exp(statistics.fmean(math.log(e[t] / best[t]) for t in common)) for label, e in complete.items() if common}


def _tests(runs: Sequence[dict[str, Any]]) -> list[tuple[RaceSet, str]]:
    present = {run["set"] for run in runs}
    return [(chosen, test) for chosen in SETS if chosen.name in present for test in chosen.tests]


def _labels(runs: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["label"] for run in runs))


def _force(runs: Sequence[dict[str, Any]], label: str, chosen: RaceSet, test: str) -> float | None:
    return _median(runs, label, chosen, test, f"force_{chosen.statistic}")


def _cell(runs: Sequence[dict[str, Any]], label: str, chosen: RaceSet, test: str) -> str:
    force = _force(runs, label, chosen, test)
    energy = _median(runs, label, chosen, test, f"{chosen.energy}_{chosen.statistic}")
    return "–" if force is None or energy is None else f"{force:.1f} / {energy:.1f}"


def _median(runs: Sequence[dict[str, Any]], label: str, chosen: RaceSet, test: str, key: str) -> float | None:
    values = [run["errors"][test][key] for run in runs if run["label"] == label and run["set"] == chosen.name]
    return statistics.median(values) if values and all(map(math.isfinite, values)) else None
