"""What every stage of a fine-tuning is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from unipot.workflows.construction.model import dtype_named
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.runs.run_folder import RunFolder
from unipot.workflows.settings.schema import MixtureConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneContext:
    """What stays the same from the first stage to the last; a stage that works with other settings makes a copy of its own.

    Attributes:
        config: of the run, with what was decided when it began: the teacher, and how many structures a step has.
        run: its folder.
        cache: folder for stores that are made on the way.
        budget: of a batch, large enough for every structure of the run.
        console: what is done is said here.
    """

    config: FinetuneConfig
    run: RunFolder
    cache: Path
    budget: MixtureConfig
    console: Console

    @property
    def dtype(self) -> torch.dtype:
        """Of the model and its batches."""
        return dtype_named(self.config.trainer.dtype)

    def quietly(self) -> FinetuneContext:
        """The same, saying nothing."""
        return replace(self, console=Console(quiet=True))
