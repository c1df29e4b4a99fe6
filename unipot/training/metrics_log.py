"""`metrics.csv`: one row per logged step, that a resumed run continues instead of overwriting."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class MetricsCsv(Logger):
    """Writes each row as soon as its step is over; columns may appear later, earlier rows then have them empty.

    Args:
        path: of the file.

    Example:
        >>> MetricsCsv("/tmp/metrics.csv").name
        'csv'
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []
        self._last_step = -1

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    def keep_until(self, step: int) -> None:
        """Forget rows after `step`: a resumed run makes them again."""
        rows = [row for row in read_metrics(self.path) if _is_whole(row) and int(row["step"]) <= step]
        self._columns = _columns(rows)
        self._last_step = max((int(row["step"]) for row in rows), default=-1)
        self._rewrite(rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the row of `step`; a later call with the same step fills the same row."""
        row: dict[str, Any] = {"step": step, **metrics}
        new = [column for column in row if column not in self._columns]
        if new or step == self._last_step:
            self._columns += new
            rows: list[dict[str, Any]] = list(read_metrics(self.path))
            if step == self._last_step and rows:
                rows[-1].update(row)
            else:
                rows.append(row)
            self._rewrite(rows)
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        self._last_step = -1 if step is None else step

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """The run folder holds the resolved configuration already."""

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".partial")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)


def read_metrics(path: str | Path) -> list[dict[str, str]]:
    """Rows of a metrics file as text, empty where a number was not logged; no rows if there is no file."""
    path = Path(path)
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _is_whole(row: dict[str, str]) -> bool:
    """False for the half of a row that a full disk or a dying machine has left."""
    return None not in row and None not in row.values() and row.get("step", "").isdigit()


def _columns(rows: list[dict[str, str]]) -> list[str]:
    return list(rows[0]) if rows else []
