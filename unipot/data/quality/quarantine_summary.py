"""Quarantine in a table: reason, limit, how many, the worst and an example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unipot.data.quality.quarantine import UNITS, QuarantineEntry, Thresholds

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class ReasonSummary:
    """Entries of one reason.

    Attributes:
        reason: see `Violation`.
        limit: threshold, None where there is none.
        count: entries.
        worst: value furthest beyond the limit; None without values.
        example: id of the entry with the worst value, or of the first.
        detail: of that entry.
    """

    reason: str
    limit: float | None
    count: int = 0
    worst: float | None = None
    example: str = ""
    detail: str = ""

    def add(self, entry: QuarantineEntry) -> None:
        """Count one entry."""
        self.count += 1
        further = entry.value is not None and (
            self.worst is None or (entry.value < self.worst if self.reason.startswith("min_") else entry.value > self.worst)
        )
        if further or not self.example:
            self.worst, self.example, self.detail = entry.value, entry.id, entry.detail

    def in_words(self) -> str:
        """Count, reason with its limit and unit, and the worst example."""
        limit = "" if self.limit is None else f" {self.limit:g} {UNITS.get(self.reason, '')}".rstrip()
        worst = self.detail or ("" if self.worst is None else f"{self.worst:.4g}")
        return f"{self.count:,} for {self.reason}{limit} (for example {self.example}{f': {worst}' if worst else ''})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"reason": self.reason, "limit": self.limit, "structures": self.count, "worst": self.worst, "example": self.example}


def summarize_quarantine(entries: Iterable[QuarantineEntry], thresholds: Thresholds | None = None) -> list[ReasonSummary]:
    """One row per reason, in the order of the thresholds; thresholds that nothing broke count 0.

    Args:
        entries: read one by one.
        thresholds: whose limits are shown; None shows only reasons that occur.
    """
    rows: dict[str, ReasonSummary] = {}
    for reason in UNITS if thresholds is not None else ():
        limit = getattr(thresholds, reason)
        if limit is not None:
            rows[reason] = ReasonSummary(reason, limit)
    for entry in entries:
        rows.setdefault(entry.reason, ReasonSummary(entry.reason, entry.limit)).add(entry)
    return list(rows.values())


def quarantine_table(summaries: Iterable[ReasonSummary]) -> Table:
    """For a terminal, with rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table("reason", "limit", "structures", "worst", "for example", title="Quarantine", title_justify="left")
    for row in summaries:
        limit = "" if row.limit is None else f"{row.limit:g} {UNITS.get(row.reason, '')}".strip()
        example = f"{row.example}: {row.detail}" if row.detail else row.example
        cells = (row.reason, limit, f"{row.count:,}", "" if row.worst is None else f"{row.worst:.4g}", example)
        table.add_row(*map(Text, cells))  # not markup: details may hold brackets
    return table
