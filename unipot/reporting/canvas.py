"""The sheet all figures are drawn on: one style, no global state, SVG or PNG bytes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe-Ito: told apart with colour-blindness and in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "unipot",
}


_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, bytes]) -> Callable[_Arguments, bytes]:
    """Everything that `draw` makes has the style, legends and titles included."""

    @wraps(draw)
    def wrapped(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> bytes:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return wrapped


def colour_of(number: int) -> str:
    """Colour of the dataset or model with this number."""
    return COLOURS[number % len(COLOURS)]


def new_figure(n_panels: int, title: str = "", *, n_columns: int | None = None, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with `n_panels` panels, row by row.

    Args:
        n_panels: at least 1.
        title: above all of them.
        n_columns: panels per row; all in one row by default.
        size: inches, of the whole.
    """
    # a Figure of its own, not pyplot: no global state, no window system
    import matplotlib
    from matplotlib.figure import Figure

    n_columns = n_columns or n_panels
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = [figure.add_subplot(-(-n_panels // n_columns), n_columns, k + 1) for k in range(n_panels)]
        if title:
            figure.suptitle(title, fontsize=11)
    return figure, axes


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG."""
    return _saved(figure, "svg", {"Date": None})


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, for what has too many parts for an SVG."""
    return _saved(figure, "png", {"Software": None})


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
