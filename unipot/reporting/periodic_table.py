"""A periodic table coloured by how many structures contain each element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unipot.errors import InputError
from unipot.reporting.canvas import new_figure, styled, svg_bytes
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: atomic number before the first element of each period
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
_MAP = "cividis"


def place_of(atomic_number: int) -> tuple[float, int]:
    """(row, column) in the long-form table with 18 columns; lanthanides and actinides stand below it.

    Example:
        >>> place_of(1), place_of(2), place_of(26), place_of(58)
        ((0, 0), (0, 17), (3, 7), (7.4, 3))
    """
    period = next(k for k in range(7) if atomic_number <= _NOBLE[k + 1])
    number, length = atomic_number - _NOBLE[period], _NOBLE[period + 1] - _NOBLE[period]
    if number <= (1 if length == 2 else 2):
        return period, number - 1
    if length == 32 and 2 < number <= 16:  # La to Yb, Ac to No
        return period + 2.4, number - 1
    return period, 17 - (length - number)


@styled
def periodic_table_figure(structures: np.ndarray, atoms: np.ndarray) -> bytes:
    """One cell per element: symbol, structures that contain it, its atoms; SVG.

    Args:
        structures: (119,) structures that contain each element; the colour, on a logarithmic scale.
        atoms: (119,) atoms of each element.

    Raises:
        ValueError: there is no element.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    if not structures.any():
        raise InputError("a periodic table needs at least one element that occurs")
    figure, (axis,) = new_figure(1, size=(10.4, 5.3))
    scale = LogNorm(1, max(float(structures.max()), 10.0))
    colours = colormaps[_MAP]
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        row, column = place_of(number)
        n = int(structures[number])
        _cell(axis, row, column, number, n, int(atoms[number]), colours(scale(n)) if n else None)
    for row, text in ((7.4, "57–70"), (8.4, "89–102")):
        axis.text(1.9, row + 0.5, text, ha="right", va="center", fontsize=8, color="#888888")
    axis.set(xlim=(-0.05, 18.05), ylim=(9.5, -0.05), aspect="equal")
    axis.axis("off")
    inset = axis.inset_axes([0.2, 0.885, 0.36, 0.035])
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=inset, orientation="horizontal")
    bar.set_label("structures that contain the element", fontsize=8, labelpad=2)
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()
    bar.ax.xaxis.set_major_formatter(lambda value, _: short_number(round(value)))
    bar.outline.set_visible(False)
    return svg_bytes(figure)


def short_number(value: int) -> str:
    """Three digits at most, and a letter.

    Example:
        >>> short_number(999), short_number(1234), short_number(45_600_000)
        ('999', '1.2k', '46M')
    """
    if value < 1000:
        return str(value)
    for letter in "kMGT":
        number = value / 1000
        if number < 999.5 or letter == "T":
            return f"{number:.1f}{letter}" if number < 9.95 else f"{number:.0f}{letter}"
        value = number  # type: ignore[assignment]
    raise AssertionError("unreachable")


def _cell(axis: Axes, row: float, column: int, number: int, n_structures: int, n_atoms: int, colour: tuple | None) -> None:
    from matplotlib.patches import Rectangle

    style = {"facecolor": colour or "#f4f5f7", "edgecolor": "white", "linewidth": 1.2}
    axis.add_patch(Rectangle((column, row), 1, 1, **style))
    if colour is None:
        axis.text(column + 0.5, row + 0.5, SYMBOLS[number], ha="center", va="center", fontsize=9, color="#b3bac2")
        return
    ink = "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.45 else "white"
    axis.text(column + 0.07, row + 0.2, str(number), ha="left", va="center", fontsize=4.5, color=ink)
    axis.text(column + 0.5, row + 0.33, SYMBOLS[number], ha="center", va="center", fontsize=10, fontweight="bold", color=ink)
    axis.text(column + 0.5, row + 0.64, short_number(n_structures), ha="center", va="center", fontsize=6.5, color=ink)
    axis.text(column + 0.5, row + 0.85, f"{short_number(n_atoms)} at.", ha="center", va="center", fontsize=5.5, color=ink)
