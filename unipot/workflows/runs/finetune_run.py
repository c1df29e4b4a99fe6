"""What a fine-tuning leaves in its folder for the report: names of the files, and how they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipot.evaluation.records import Evaluation
from unipot.reporting.tables import ReportTable

#: files of a fine-tuning run, beside those every run has
SUMMARY_FILE = "finetune_summary.json"

ALIGNMENT_FILE = "alignment_report.json"

SMALL_DATA_FILE = "small_data.json"

EVALUATIONS = "evaluations"


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """What a fine-tuning run left for the report.

    Attributes:
        folder: the run folder.
        summary: name, head, frames, steps, whether from scratch.
        alignment: parent scores and alignment, as tables; None from scratch.
        warnings: of the alignment.
        small_data: what small-data mode tried and chose, as a table and sentences; None where nothing was searched.
        zero_shot: the aligned model before the first step; None from scratch.
        final: the chosen weights; None without test or validation data.
        before, after: the pretraining sets before and after.
    """

    folder: Path
    summary: dict[str, Any]
    alignment: list[ReportTable] | None
    warnings: list[str]
    zero_shot: Evaluation | None
    final: Evaluation | None
    before: list[Evaluation]
    after: list[Evaluation]
    small_data: tuple[ReportTable, list[str]] | None = None


def read_finetune_run(folder: str | Path) -> FinetuneRun:
    """Everything of a fine-tuning run that the report shows.

    Raises:
        FileNotFoundError: the folder has no summary of a fine-tuning run.
    """
    folder = Path(folder)
    if not (folder / SUMMARY_FILE).exists():
        raise FileNotFoundError(f"{folder / SUMMARY_FILE} is missing; finetune_runs= takes folders of finished `unipot finetune` runs")
    tables, warnings = None, []
    if (folder / ALIGNMENT_FILE).exists():
        content = json.loads((folder / ALIGNMENT_FILE).read_text(encoding="utf-8"))
        tables = [ReportTable.from_dict(table) for table in content["tables"]]
        warnings = [f"Warning: {text}." for text in content["alignment"]["warnings"]]
    found, small_data = folder / SMALL_DATA_FILE, None
    if found.exists():
        content = json.loads(found.read_text(encoding="utf-8"))
        small_data = ReportTable.from_dict(content["table"]), [f"{sentence}." for sentence in content["sentences"]]
    stored = Evaluation.load_all(folder / EVALUATIONS)
    return FinetuneRun(
        folder=folder,
        summary=json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")),
        alignment=tables,
        warnings=warnings,
        zero_shot=stored.get("zero_shot"),
        final=stored.get("final"),
        before=[e for name, e in stored.items() if name.startswith("before_")],
        after=[e for name, e in stored.items() if name.startswith("after_")],
        small_data=small_data,
    )


def read_evaluations(folder: str | Path) -> list[Evaluation]:
    """The evaluations that `unipot evaluate` wrote into `folder`.

    Raises:
        FileNotFoundError: there are none.
    """
    found = list(Evaluation.load_all(Path(folder) / EVALUATIONS).values())
    if not found:
        raise FileNotFoundError(f"{Path(folder) / EVALUATIONS} has no evaluation; evaluations= takes folders written by `unipot evaluate`")
    return found
