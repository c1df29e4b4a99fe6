"""Figures as SVG or PNG bytes, in one style: units on every axis, a light grid, one colour per meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unipot.errors import InputError
from unipot.evaluation.records import ParityPoints
from unipot.reporting.canvas import colour_of, new_figure, svg_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: property -> axis text
AXES = {
    "energy_per_atom": "energy per atom, eV",
    "forces": "force component, eV/Å",
    "stress": "stress component, eV/Å³",
}
#: above this many points a scatter is stored as pixels, or the page would grow without bound
MAX_VECTOR_POINTS = 2000


def parity_figure(points: Sequence[ParityPoints], title: str = "", colours: Mapping[str, str] | None = None) -> bytes:
    """One panel per property, every dataset in its colour, with the identity line and MAE in the legend; SVG.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise InputError("a parity plot needs at least one set of labels and predictions")
    panels = [p for p in AXES if any(q.property == p for q in points)]
    figure, axes = _row(len(panels), title)
    for axis, prop in zip(axes, panels, strict=True):
        _parity_panel(axis, [q for q in points if q.property == prop], AXES[prop], colours or {})
    return svg_bytes(figure)


def element_error_figure(
    errors: Mapping[str, Mapping[str, float]], title: str = "", colours: Mapping[str, str] | None = None
) -> bytes:
    """Bars of force MAE (eV/Å) per element; `errors` maps a dataset or model to symbol -> MAE; SVG.

    Raises:
        ValueError: there are no errors.
    """
    symbols = list(dict.fromkeys(symbol for table in errors.values() for symbol in table))
    if not symbols:
        raise InputError("a plot of errors per element needs at least one element")
    figure, (axis,) = _row(1, title, width=max(4.0, 0.35 * len(symbols) * max(1, 0.5 * len(errors)) + 2))
    width = 0.8 / len(errors)
    for k, (name, table) in enumerate(errors.items()):
        offsets = np.arange(len(symbols)) + (k - (len(errors) - 1) / 2) * width
        values = [1e3 * table.get(symbol, np.nan) for symbol in symbols]
        axis.bar(offsets, values, width=0.9 * width, color=(colours or {}).get(name, colour_of(k)), label=name)
    axis.set_xticks(np.arange(len(symbols)), symbols)
    axis.set_ylabel("force MAE, meV/Å")
    axis.grid(axis="x", visible=False)
    axis.legend(fontsize=8)
    return svg_bytes(figure)


def curve_figure(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], title: str = "", colours: Mapping[str, str] | None = None
) -> bytes:
    """Learning curves on logarithmic y axes: `panels` maps a y label to curve name -> (steps, values); SVG.

    Raises:
        ValueError: there is no panel with a curve.
    """
    panels = {label: curves for label, curves in panels.items() if curves}
    if not panels:
        raise InputError("learning curves need at least one curve")
    figure, axes = _row(len(panels), title)
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        for k, (name, (steps, values)) in enumerate(curves.items()):
            marker = "o" if len(steps) <= 30 else None
            axis.plot(steps, values, color=(colours or {}).get(name, colour_of(k)), linewidth=1.4, marker=marker, markersize=3, label=name)
        if all(np.all(np.asarray(values) > 0) for _, values in curves.values()):
            axis.set_yscale("log")
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
        axis.legend(fontsize=8)
    return svg_bytes(figure)


def _parity_panel(axis: Axes, points: Sequence[ParityPoints], text: str, colours: Mapping[str, str]) -> None:
    n_points = sum(len(p.label) for p in points)
    low = min(float(np.min([p.label.min(), p.prediction.min()])) for p in points)
    high = max(float(np.max([p.label.max(), p.prediction.max()])) for p in points)
    margin = 0.04 * (high - low) or 0.5
    span = (low - margin, high + margin)
    axis.plot(span, span, color="#888888", linewidth=0.8, zorder=1)
    errors = [1e3 * float(np.abs(p.prediction - p.label).mean()) for p in points]
    for k, (p, mae) in enumerate(zip(points, errors, strict=True)):
        front = 2 + sum(mae < other for other in errors)  # the tightest cloud on top, or the widest would hide it
        style = {"s": 7 if n_points < 5000 else 3, "alpha": 0.6, "linewidths": 0, "rasterized": n_points > MAX_VECTOR_POINTS}
        name = f"{p.name} (MAE {mae:.3g} m{_unit(text)})"
        axis.scatter(p.label, p.prediction, color=colours.get(p.name, colour_of(k)), label=name, zorder=front, **style)
    axis.set(xlim=span, ylim=span, xlabel=f"label: {text}", ylabel=f"prediction: {text}", aspect="equal")
    axis.locator_params(nbins=5)
    axis.ticklabel_format(useOffset=False)
    axis.legend(fontsize=7, loc="upper left", handletextpad=0.1, markerscale=2)


def _unit(text: str) -> str:
    return text.rpartition(", ")[2] + ("/atom" if "per atom" in text else "")


def _row(n_panels: int, title: str, width: float | None = None) -> tuple[Figure, list[Axes]]:
    return new_figure(n_panels, title, size=(width or 4.0 * n_panels, 3.7))
