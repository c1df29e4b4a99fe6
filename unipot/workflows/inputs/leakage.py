"""Held-out frames that training has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unipot.data.quality.duplicate_report import Leakage, leakage
from unipot.data.store import Store
from unipot.workflows.inputs.datasets import OpenDataset

#: held-out frames that a training run looks at; evenly spaced where there are more
_MAX_HELD_OUT = 100_000

_EXAMPLES = 3


def show_leakage(console: Console, datasets: Sequence[OpenDataset]) -> None:
    """Say which held-out frames of a dataset its own training frames repeat; nothing where there are none.

    Args:
        console: where to.
        datasets: with their split.
    """
    table = leakage_table("held-out frames that training has seen (validation will flatter)")
    for item in datasets:
        n_held_out = len(item.validation_indices)
        if n_held_out == 0:
            continue
        chosen = np.unique(np.linspace(0, n_held_out - 1, min(n_held_out, _MAX_HELD_OUT)).astype(np.int64))
        held_out = np.asarray(item.validation_indices[chosen])
        found = leakage(item.store, item.train_indices, item.validation_store, held_out)
        if len(found):
            table.add_row(*leakage_row(item.spec.name, found, item.store, item.validation_store))
    if table.row_count:
        console.print(table)


def leakage_table(title: str) -> Table:
    return Table("training", "held out", "leaked", "for example (held out = training)", title=title, title_justify="left")


def leakage_row(name: str, found: Leakage, training: Store, held_out: Store, held_name: str = "") -> list[Text]:
    pairs = zip(found.held_out[:_EXAMPLES].tolist(), found.training[:_EXAMPLES].tolist(), strict=True)
    examples = ", ".join(f"{held_out.ids[mine]} = {training.ids[theirs]}" for mine, theirs in pairs)
    cells = (name, f"{held_name} {found.n_held_out:,} frames".strip(), f"{len(found):,}", examples)
    return [Text(cell) for cell in cells]
