"""Figures about the contents of stores: distributions, pair distances, the map of coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unipot.data.overview.coverage import CoverageMap
from unipot.data.overview.distributions import Distribution, Quantity
from unipot.data.overview.pair_distances import PairDistances
from unipot.errors import InputError
from unipot.reporting.canvas import COLOURS, colour_of, new_figure, styled, svg_bytes
from unipot.structure import SYMBOLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: elements in the matrix of pairs, pairs among the violins
MAX_ELEMENTS, MAX_VIOLINS = 40, 18
_NUMBERS_IN_CELLS = 12
_MISSING = "#e3e6ea"

Panel = tuple[Quantity, Sequence[Distribution | None]]


@styled
def distribution_figure(panels: Sequence[Panel], names: Sequence[str], n_columns: int = 2) -> bytes:
    """Histograms, one panel per quantity and one colour per store; SVG.

    Args:
        panels: quantity and one distribution per store.
        names: of the stores.
        n_columns: panels in a row.

    Raises:
        ValueError: no panel has data.
    """
    panels = [panel for panel in panels if any(d is not None for d in panel[1])]
    if not panels:
        raise InputError("a figure of distributions needs at least one quantity that is defined somewhere")
    n_rows = -(-len(panels) // n_columns)
    figure, axes = new_figure(len(panels), n_columns=n_columns, size=(10.4, 2.75 * n_rows + 0.35))
    for axis, (quantity, found) in zip(axes, panels, strict=True):
        for k, distribution in enumerate(found):
            if distribution is not None:
                _histogram(axis, distribution, k, names[k], filled=len(names) == 1)
        axis.set_xlabel(quantity.axis)
        axis.set_ylabel("share of structures per bin")
        axis.set_ylim(bottom=0)
        if quantity.scale == "log":
            axis.set_xscale("log")
        elif quantity.scale == "asinh":
            axis.set_xscale("symlog", linthresh=quantity.linear_within)
    if len(names) > 1:
        handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(names), 6), fontsize=9)
    return svg_bytes(figure)


@styled
def own_axis_figure(text: str, found: Sequence[Distribution | None], names: Sequence[str]) -> bytes:
    """One panel per store, each with its own axis, for numbers that lie orders of magnitude apart; SVG.

    Raises:
        ValueError: no store has data.
    """
    shown = [(k, distribution) for k, distribution in enumerate(found) if distribution is not None]
    if not shown:
        raise InputError("a figure of distributions needs at least one quantity that is defined somewhere")
    n_columns = min(len(shown), 3)
    figure, axes = new_figure(len(shown), n_columns=n_columns, size=(10.4 if n_columns > 1 else 5.2, 2.8 * -(-len(shown) // n_columns)))
    for axis, (k, distribution) in zip(axes, shown, strict=True):
        _histogram(axis, distribution, k, names[k], filled=True)
        axis.set_xlabel(text)
        axis.set_ylabel("share of structures per bin")
        axis.ticklabel_format(useOffset=False, axis="x")
        axis.locator_params(nbins=5, axis="x")
        if len(names) > 1:
            axis.set_title(names[k], color=colour_of(k))
    return svg_bytes(figure)


@styled
def pair_matrix_figure(distances: PairDistances) -> bytes:
    """Matrix of element pairs: below the diagonal the smallest distance over the sum of covalent radii, above it structures; SVG.

    Raises:
        ValueError: no pair comes within the cutoff.
    """
    from ase.data import covalent_radii
    from matplotlib.colors import LogNorm, TwoSlopeNorm

    smallest, counts = distances.table()
    elements = _most_frequent(counts)
    n = len(elements)
    sums = covalent_radii[elements][:, None] + covalent_radii[elements][None, :]
    ratio = smallest[np.ix_(elements, elements)] / sums
    number = counts[np.ix_(elements, elements)].astype(float)
    lower, upper = np.tril(np.ones((n, n), bool)), np.triu(np.ones((n, n), bool), 1)
    size = min(9.2, max(3.8, 0.42 * n + 1.8))
    figure, (axis,) = new_figure(1, size=(size + 1.6, size))
    axis.set_facecolor(_MISSING)
    shown = np.where(lower & np.isfinite(ratio), ratio, np.nan)
    near = axis.imshow(shown, cmap="RdYlBu", norm=TwoSlopeNorm(1.0, 0.5, 2.0))
    bar = figure.colorbar(near, ax=axis, shrink=0.75, pad=0.02, extend="both", ticks=[0.5, 0.75, 1, 1.5, 2])
    bar.set_label("below the diagonal: smallest distance ÷ sum of covalent radii", fontsize=8)
    if n > 1 and (upper & (number > 0)).any():
        scale = LogNorm(1, max(float(number.max()), 10.0))
        many = axis.imshow(np.where(upper & (number > 0), number, np.nan), cmap="viridis", norm=scale)
        counted = figure.colorbar(many, ax=axis, shrink=0.75, pad=0.02)
        counted.set_label("above the diagonal: structures in the sample with the pair", fontsize=8)
    if n <= _NUMBERS_IN_CELLS:
        _write_numbers(axis, smallest[np.ix_(elements, elements)], shown, np.where(upper, number, 0))
    labels = [SYMBOLS[z] for z in elements]
    axis.set_xticks(range(n), labels, fontsize=8 if n <= 25 else 6.5)
    axis.set_yticks(range(n), labels, fontsize=8 if n <= 25 else 6.5)
    axis.grid(False)
    return svg_bytes(figure)


@styled
def pair_violin_figure(distances: PairDistances) -> bytes:
    """How the nearest distance of the most frequent pairs varies over structures, with the sum of covalent radii; SVG.

    Raises:
        ValueError: no pair comes within the cutoff.
    """
    from ase.data import covalent_radii

    counts = np.triu(distances.table()[1])
    order = np.argsort(counts, axis=None)[::-1][:MAX_VIOLINS]
    pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(order, counts.shape), strict=True) if counts[a, b] > 0]
    if not pairs:
        raise InputError("a figure of pair distances needs at least one pair of atoms within the cutoff")
    figure, (axis,) = new_figure(1, size=(max(4.0, 0.56 * len(pairs) + 1.2), 3.6))
    for place, pair in enumerate(pairs):
        _violin(axis, place, distances.of_pair(*pair))
        radius = covalent_radii[pair[0]] + covalent_radii[pair[1]]
        label = "sum of covalent radii" if place == 0 else None
        axis.plot([place - 0.4, place + 0.4], [radius, radius], color=COLOURS[1], linewidth=1.6, label=label)
    axis.set_xticks(range(len(pairs)), [f"{SYMBOLS[a]}–{SYMBOLS[b]}\n{counts[a, b]:,}" for a, b in pairs], fontsize=8)
    axis.set_xlabel("pair and structures that have it")
    axis.set_ylabel("smallest distance in a structure, Å")
    axis.set_ylim(bottom=0)
    axis.set_xlim(-0.7, len(pairs) - 0.3)
    axis.grid(axis="x", visible=False)
    axis.legend(loc="lower right", fontsize=8)
    return svg_bytes(figure)


@styled
def coverage_figure(coverage: CoverageMap, names: Sequence[str]) -> bytes:
    """The samples on the plane of largest variance, one colour per store; SVG."""
    single = len(names) == 1
    figure, (axis,) = new_figure(1, size=(6.6 if single else 8.2, 5.4))
    everything = np.concatenate(coverage.points)
    # one after the other in a shuffled order, so that the last store does not hide the others
    owner = np.repeat(np.arange(len(names)), [len(points) for points in coverage.points])
    order = np.random.default_rng(0).permutation(len(everything))
    colours = np.array([colour_of(k) for k in range(len(names))])[owner[order]]
    size = 10 if len(everything) < 3000 else 5
    axis.scatter(*everything[order].T, s=size, c=colours, alpha=0.55, linewidths=0, rasterized=True)
    for k, (name, points) in enumerate(zip(names, coverage.points, strict=True)):
        axis.scatter([], [], s=30, color=colour_of(k), label=f"{name} ({len(points):,})")
    first, second = coverage.explained
    axis.set_xlabel(f"first principal direction ({first:.0%} of the variance), dimensionless")
    axis.set_ylabel(f"second principal direction ({second:.0%}), dimensionless")
    if not single:
        figure.legend(loc="outside right upper", fontsize=9, handletextpad=0.2)
    return svg_bytes(figure)


@styled
def overlap_figure(covered: np.ndarray, names: Sequence[str]) -> bytes:
    """Matrix of the share of each store (row) that another (column) covers; SVG."""
    n = len(names)
    figure, (axis,) = new_figure(1, size=(0.95 * n + 4.2, 0.7 * n + 2.6))
    axis.set_facecolor(_MISSING)
    image = axis.imshow(100 * covered, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(covered):
        if np.isfinite(value):
            axis.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=9, color="black" if value > 0.45 else "white")
    axis.set_xticks(range(n), names, rotation=30, ha="right")
    axis.set_yticks(range(n), names)
    axis.set_xlabel("… is covered by this dataset")
    axis.set_ylabel("share of this dataset that …")
    axis.grid(False)
    figure.colorbar(image, ax=axis, shrink=0.9).set_label("covered, %", fontsize=8)
    return svg_bytes(figure)


def _histogram(axis: Axes, distribution: Distribution, number: int, name: str, *, filled: bool) -> None:
    shares = distribution.counts / distribution.n
    colour = colour_of(number)
    axis.stairs(shares, distribution.edges, fill=filled, color=colour, alpha=0.85 if filled else 1.0, linewidth=1.5, label=name)


def _most_frequent(counts: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(counts.any(axis=0))
    if len(present) == 0:
        raise InputError("a figure of pair distances needs at least one pair of atoms within the cutoff")
    return np.sort(present[np.argsort(counts[present].sum(axis=1))[::-1][:MAX_ELEMENTS]])


def _write_numbers(axis: Axes, smallest: np.ndarray, ratio: np.ndarray, number: np.ndarray) -> None:
    """Distances (Å) below the diagonal, structures above it."""
    largest = np.log(max(float(number.max()), 10.0))
    for (row, column), value in np.ndenumerate(ratio):
        if np.isfinite(value):
            ink, text = "white" if value < 0.6 or value > 1.8 else "black", f"{smallest[row, column]:.2f}"
        elif number[row, column]:
            ink, text = "black" if np.log(number[row, column]) > 0.6 * largest else "white", f"{int(number[row, column]):,}"
        else:
            continue
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)


def _violin(axis: Axes, place: int, values: np.ndarray) -> None:
    """Mirrored histogram with the median; few values as points, where a shape would be invented."""
    if len(values) < 20:
        axis.plot(np.full(len(values), place), values, "o", markersize=2.5, color=COLOURS[0], alpha=0.6)
        return
    counts, edges = np.histogram(values, bins=40)
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    width = 0.4 * smooth / smooth.max()
    centres = (edges[:-1] + edges[1:]) / 2
    axis.fill_betweenx(centres, place - width, place + width, color=COLOURS[0], alpha=0.6, linewidth=0)
    axis.plot([place - 0.12, place + 0.12], [np.median(values)] * 2, color="black", linewidth=1.5)
