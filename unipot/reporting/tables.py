"""One table, three renderings: terminal, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from unipot.errors import InputError
from unipot.structure import SYMBOLS
from unipot.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from unipot.finetune.alignment.align import AlignmentReport
    from unipot.finetune.alignment.new_elements import NewElement
    from unipot.finetune.alignment.parents import ParentScore
    from unipot.finetune.alignment.readout_choice import ReadoutChoice
    from unipot.finetune.search.halving import Choice, Trial
    from unipot.finetune.uncertainty.calibrated_posterior import PosteriorReport

Cell = str | int | float | None
#: characters that a line of a heading over numbers may have in a terminal
_HEADING = 8


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Rows under named columns; a column name carries its unit.

    Attributes:
        title: one line.
        columns: one heading per column.
        rows: cells; None and nan are shown as a dash, floats with three significant digits.
        best: row to be emphasised, or None.

    Example:
        >>> print(ReportTable(title="errors", columns=("set", "MAE"), rows=(("a", 0.01234),)).to_markdown())
        | set | MAE |
        |---|---:|
        | a | 0.0123 |
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    best: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"table {self.title!r}: a row has {len(row)} cells for {len(self.columns)} columns: {row}")

    def to_markdown(self) -> str:
        """GitHub table without its title."""
        lines = [self.columns, ["---:" if right else "---" for right in self._right_aligned()]]
        lines += [[f"**{text}**" if self.best == i else text for text in map(cell_text, row)] for i, row in enumerate(self.rows)]
        texts = ["| " + " | ".join(line) + " |" for line in lines]
        texts[1] = texts[1].replace(" ", "")
        return "\n".join(texts)

    def to_html(self) -> str:
        """A `<table>` with its caption; every text escaped."""
        classes = ["number" if right else "text" for right in self._right_aligned()]
        head = "".join(f'<th class="{c}">{escape(name)}</th>' for c, name in zip(classes, self.columns, strict=True))
        body = []
        for i, row in enumerate(self.rows):
            cells = "".join(f'<td class="{c}">{escape(cell_text(value))}</td>' for c, value in zip(classes, row, strict=True))
            body.append(f'<tr class="best">{cells}</tr>' if self.best == i else f"<tr>{cells}</tr>")
        return f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

    def to_rich(self) -> RichTable:
        """For the terminal: without columns that have no cell; names and numbers unbroken, under headings in short lines."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        plain = lambda text: Text(printable(text))  # noqa: E731
        table = Table(title=plain(self.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        shown = [n for n in range(len(self.columns)) if not self.rows or any(cell_text(row[n]) != "–" for row in self.rows)]
        right = self._right_aligned()
        for n in shown:
            heading = "\n".join(wrap(self.columns[n], _HEADING, break_long_words=False)) if right[n] else self.columns[n]
            table.add_column(plain(heading), justify="right" if right[n] else "left", no_wrap=right[n] or n == 0)
        for i, row in enumerate(self.rows):
            table.add_row(*(plain(cell_text(row[n])) for n in shown), style="bold" if self.best == i else None)
        return table

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        rows = [[None if isinstance(v, float) and v != v else v for v in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows, "best": self.best}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ReportTable:
        """Inverse of `to_dict`."""
        rows = tuple(tuple(row) for row in content["rows"])
        return cls(title=content["title"], columns=tuple(content["columns"]), rows=rows, best=content["best"])

    def _right_aligned(self) -> list[bool]:
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.columns)
        return [bool(cells) and all(c is None or isinstance(c, int | float) for c in cells) for cells in columns]


def cell_text(value: Cell) -> str:
    """A cell as the tables show it."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")
    return str(value)


def parent_table(scores: Sequence[ParentScore], chosen: str) -> ReportTable:
    """The heads of a checkpoint on the user's frames, before any training."""
    errors = [(s.energy_mae, s.energy_rmse, s.force_mae, s.force_rmse, s.stress_mae, s.stress_rmse) for s in scores]
    return ReportTable(
        title="Parent heads on the training frames, after a composition shift",
        columns=(
            "head", "level of theory", "energy MAE meV/atom", "RMSE meV/atom", "force MAE meV/Å", "RMSE meV/Å", "cosine",
            "stress MAE meV/Å³", "RMSE meV/Å³", "no reference for",
        ),  # fmt: skip
        rows=tuple(
            (s.head, s.level_of_theory, *_millis(own[:4]), s.force_cosine, *_millis(own[4:]), _listed(s.unknown_elements))
            for s, own in zip(scores, errors, strict=True)
        ),
        best=next((i for i, s in enumerate(scores) if s.head == chosen), None),
    )


def held_out_table(choice: ReadoutChoice) -> ReportTable:
    """What solving for a layer of the readout gains on frames that were not fitted."""
    names = [entry.candidate for entry in choice.held_out]
    return ReportTable(
        title=f"Alignment candidates on held-out training frames, {choice.n_folds} folds",
        columns=("alignment", "energy MAE meV/atom", "force MAE meV/Å", "stress MAE meV/Å³"),
        rows=tuple((e.candidate, *(1e3 * x for x in (e.energy, e.forces, e.stress))) for e in choice.held_out),
        best=names.index(choice.chosen),
    )


def alignment_table(report: AlignmentReport) -> ReportTable:
    """The composition shift of a new head: what moved, and how well the frames determine it."""
    rows: list[tuple[Cell, ...]] = [("new head", report.head), ("parent head", report.parent), ("level of theory", report.level_of_theory)]
    rows.append(("alignment", report.readout.chosen))
    fit = report.to_dict()["fit"]
    if fit is None:
        rows.append(("shift", "none: no frame carries an energy"))
    else:
        rows += [(f"shift of {symbol}, eV/atom", f"{value:+.4f}") for symbol, value in fit["shift_per_element_eV"].items()]
        rows += [
            ("common shift, eV/atom", f"{fit['common_shift_eV_per_atom']:+.4f}"),
            ("frames with an energy", str(fit["n_frames"])),
            ("rank of the compositions", f"{fit['rank']} of {fit['n_elements']} elements"),
            ("condition number", cell_text(fit["condition"])),
            ("ridge (squared atomic fraction)", cell_text(float(fit["ridge"]))),
            ("label − parent before, RMSE eV/atom", cell_text(fit["rmse_before_eV_per_atom"])),
            ("label − parent after, RMSE meV/atom", cell_text(1e3 * fit["rmse_after_eV_per_atom"])),
            ("the same, frame left out, meV/atom", _milli(fit["rmse_left_out_eV_per_atom"])),
            ("not determined by the frames", "; ".join(fit["regularised_directions"]) or "nothing"),
        ]
    return ReportTable(title="Alignment of the new head", columns=("quantity", "value"), rows=tuple(rows))


def small_data_table(trials: Sequence[Trial], choice: Choice, *, n_folds: int) -> ReportTable:
    """What small-data mode tried on held-out frames, and what it chose."""
    rows: list[tuple[Cell, ...]] = [("start", "", 0, *[None] * 3, 1.0, 0.0)]
    for t in trials:
        errors = [1e3 * t.errors[name] if name in t.errors else None for name in ("energy_per_atom", "forces", "stress")]
        rows.append((t.candidate, f"{t.fold + 1} of {n_folds}", t.steps, *errors, t.score if t.errors else None, t.seconds))
    own = [i for i, row in enumerate(rows) if row[0] == (choice.candidate or "start")]
    lengths = {trial.steps for trial in trials if trial.candidate == choice.candidate and trial.steps >= (choice.steps or 0)}
    chosen = [i for i in own if not choice.steps or rows[i][2] == min(lengths)]  # not a longer training that was not worth it
    return ReportTable(
        title="Small-data mode: errors on held-out frames",
        columns=(
            "candidate", "fold", "steps", "energy MAE meV/atom", "force MAE meV/Å", "stress MAE meV/Å³", "error / that of the start",
            "seconds",
        ),  # fmt: skip
        rows=tuple(rows),
        best=chosen[-1],
    )


def uncertainty_table(report: PosteriorReport) -> ReportTable:
    """Calibration of the error bars of a head: ± 1.645 standard deviations are to cover 90 % of the errors."""
    return ReportTable(
        title=f"Uncertainties of head {report.head}: {report.method}, {report.calibrated_in_words()}",
        columns=("property", "errors", "independent", "coverage before", "factor", "RMS factor", "half-width of 90 %, meV", "MAE, meV"),
        rows=tuple(
            (name, own.n, own.n_effective, own.coverage_before, own.factor, own.rms_factor, _milli(own.width), _milli(own.error))
            for name, own in (("energy", report.energy), ("forces", report.forces))
        ),
    )


def new_element_table(elements: Sequence[NewElement]) -> ReportTable:
    """Elements that no head of the checkpoint was trained on: what they start from, and how much there is to learn from."""
    return ReportTable(
        title="New elements: extrapolation outside surroundings like those of the frames",
        columns=("element", "starts from", "training frames", "atoms"),
        rows=tuple((SYMBOLS[e.atomic_number], e.start, e.n_frames, e.n_atoms) for e in elements),
    )


def _milli(value: float | None) -> str:
    return cell_text(None if value is None else 1e3 * value)


def _millis(values: Sequence[float]) -> list[float]:
    return [1e3 * value for value in values]


def _listed(symbols: Sequence[str]) -> str:
    return ", ".join(symbols) if symbols else "–"
