"""Learning curves out of a run's `metrics.csv`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from unipot.errors import InputError
from unipot.training.metrics_log import read_metrics

#: name of the file in a run folder
METRICS_FILE = "metrics.csv"

Curve = tuple[np.ndarray, np.ndarray]


def read_curves(run: str | Path) -> dict[str, Curve]:
    """Column name -> (steps, values) of the rows in which the column has a number.

    Raises:
        FileNotFoundError: the run has no `metrics.csv`.
        ValueError: the file has no column `step`.
    """
    path = Path(run) / METRICS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; give the folder of a finished `unipot pretrain` or `unipot finetune` run")
    rows = read_metrics(path)
    if rows and "step" not in rows[0]:
        raise InputError(f"{path} has no column 'step'; its columns are: {', '.join(rows[0])}")
    columns: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, text in row.items():
            if name not in ("step", "epoch") and text and _is_number(text):
                columns.setdefault(name, []).append((int(float(row["step"])), float(text)))
    return {name: (np.array([s for s, _ in pairs]), np.array([v for _, v in pairs])) for name, pairs in columns.items()}


def force_curves(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Dataset -> validation force MAE in meV/Å."""
    return {name: (steps, 1e3 * values) for name, (steps, values) in _matching(curves, "forces/mae").items()}


def energy_curves(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Dataset -> validation energy MAE in meV/atom."""
    return {name: (steps, 1e3 * values) for name, (steps, values) in _matching(curves, "energy_per_atom/mae").items()}


def loss_curve(curves: dict[str, Curve]) -> Curve | None:
    """The training loss, averaged over windows where it has more than 200 points."""
    found = curves.get("train/loss")
    if found is None or len(found[0]) <= 200:
        return found
    steps, values = found
    n_windows = 200
    windows = np.array_split(np.arange(len(steps)), n_windows)
    return np.array([steps[w].mean() for w in windows]), np.array([values[w].mean() for w in windows])


def _matching(curves: dict[str, Curve], ending: str) -> dict[str, Curve]:
    pattern = re.compile(rf"validation/([^/]+)/{ending}")
    matches = {column: pattern.fullmatch(column) for column in curves}
    return {match.group(1): curves[column] for column, match in matches.items() if match}


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
