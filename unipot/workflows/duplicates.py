"""`unipot duplicates`: frames of equal geometry within and across stores, and held-out frames that training has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unipot.data.quality.duplicate_report import DuplicateSummary, StoreRows, duplicates_of, leakage
from unipot.data.quality.duplicate_search import DISPLACEMENT, Clusters
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.reporting.console import report_console
from unipot.workflows.inputs.leakage import leakage_row, leakage_table


@dataclass(kw_only=True)
class DuplicatesConfig:
    """`unipot duplicates`: `stores` are searched within and across; `held_out` stores are searched for frames of `stores`."""

    stores: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)  # test or validation stores that should share nothing with `stores`
    displacement: float = DISPLACEMENT  # Å by which atoms of candidates may lie apart
    verify: bool = True  # compare all distances within 6 Å of the candidates too
    output: str | None = "duplicates.json"  # null: print only
    listed: int = 1000  # clusters and leaked frames named in the file


def duplicates(config: DuplicatesConfig, console: Console | None = None) -> dict[str, Any]:
    """Search, print the tables and write the findings as JSON.

    Args:
        config: what to search.
        console: standard output by default.

    Returns:
        What the JSON file holds: counts, clusters with ids, energies that contradict each other, leaked frames.

    Raises:
        ValueError: no store is given, or an option is not allowed.
        FileNotFoundError: a store is not there.
    """
    console = console or report_console()
    if not config.stores:
        raise InputError("unipot duplicates needs at least one store: stores=[a.unipot,b.unipot]")
    if config.listed < 0:
        raise InputError(f"listed is {config.listed}; give the number of clusters to name in the file, 0 for none")
    stores = [Store(path) for path in config.stores]
    held_out = [Store(path) for path in config.held_out]
    clusters, summary = duplicates_of(stores, displacement=config.displacement, verify=config.verify)
    rows = StoreRows(stores)
    console.print(_duplicates_table(rows, clusters, summary))
    for contradiction in summary.contradictions:
        console.print(f"  same geometry, other energy: {contradiction}", highlight=False, markup=False, soft_wrap=True)
    result: dict[str, Any] = {
        "stores": config.stores,
        "displacement": config.displacement,
        **summary.to_dict(),
        "groups": [[rows.name(row) for row in clusters[k].tolist()] for k in range(min(len(clusters), config.listed))],
    }
    if held_out:
        result["leakage"] = _leakages(stores, held_out, config, console)
    if config.output:
        Path(config.output).write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"wrote {config.output}", highlight=False)
    return result


def _duplicates_table(rows: StoreRows, clusters: Clusters, summary: DuplicateSummary) -> Table:
    columns = ("store", "structures", "repeat a frame of the same store", "share a geometry with another store")
    how = "distances compared" if summary.verified else "by fingerprint only"
    title = f"{summary.n_structures:,} frames repeat an earlier one, {summary.n_clusters:,} geometries ({how})"
    table = Table(*columns, title=title, title_justify="left")
    within, across = _counts(rows, clusters)
    for k, store in enumerate(rows.stores):
        cells = (str(store.path), f"{len(store):,}", f"{within[k]:,}", f"{across[k]:,}")
        table.add_row(*map(Text, cells))
    return table


def _counts(rows: StoreRows, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Per store: frames that repeat one of the same store, and frames whose geometry another store has too."""
    n_stores = len(rows.stores)
    store = np.searchsorted(rows.bounds, clusters.members, side="right") - 1
    cluster = np.repeat(np.arange(len(clusters)), np.diff(clusters.offsets))
    _, first, counts = np.unique(cluster * n_stores + store, return_index=True, return_counts=True)
    within, across = np.zeros(n_stores, dtype=np.int64), np.zeros(n_stores, dtype=np.int64)
    np.add.at(within, store[first], counts - 1)
    n_stores_of = np.bincount(cluster[first], minlength=len(clusters))
    shared = n_stores_of[cluster[first]] > 1
    np.add.at(across, store[first][shared], counts[shared])
    return within, across


def _leakages(stores: Sequence[Store], held_out: Sequence[Store], config: DuplicatesConfig, console: Console) -> list[dict[str, Any]]:
    table = leakage_table("held-out frames that are in the searched stores")
    found = []
    for held in held_out:
        for store in stores:
            everything = range(len(store)), range(len(held))
            leaked = leakage(store, everything[0], held, everything[1], displacement=config.displacement, verify=config.verify)
            table.add_row(*leakage_row(str(store.path), leaked, store, held, str(held.path)))
            pairs = zip(leaked.held_out[: config.listed].tolist(), leaked.training[: config.listed].tolist(), strict=True)
            ids = [[held.ids[mine], store.ids[theirs]] for mine, theirs in pairs]
            row = {"training": str(store.path), "held_out": str(held.path), "structures": len(leaked), "of": leaked.n_held_out, "ids": ids}
            found.append(row)
    console.print(table)
    return found


