"""`unipot evaluate`: errors of a model per dataset, property and element, in the arithmetic of validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from unipot.data.store import Store
from unipot.models.potential import Potential
from unipot.reporting.evaluation import Evaluation, error_table, evaluate_head, full_table
from unipot.reporting.plots import element_error_figure, parity_figure
from unipot.workflows.compose import RESOLVED_CONFIG
from unipot.workflows.config import DatasetConfig, LabelConfig
from unipot.workflows.datasets import store_at
from unipot.workflows.report import EVALUATIONS
from unipot.workflows.user_frames import frames_batches, name_of
from unipot.workflows.yardsticks import pretrain_config, validation_sets
from unipot.zoo.artifact import load_potential


@dataclass(kw_only=True)
class EvaluateConfig:
    """`unipot evaluate`: `data` is one path or several; without it, the validation sets of the run that made the checkpoint."""

    checkpoint: str = "???"
    data: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    output: str | None = None
    format: str = "auto"
    sources: dict[str, LabelConfig] = field(default_factory=dict)
    max_atoms: int = "???"  # type: ignore[assignment]
    max_edges: int = "???"  # type: ignore[assignment]
    dtype: str | None = None
    device: str = "cpu"
    thresholds: dict[str, float] = field(default_factory=dict)
