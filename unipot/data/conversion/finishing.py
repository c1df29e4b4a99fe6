"""The finishing pass: what only the whole dataset shows, found in the shards' columns before they become a store.

Energies far from what their composition says, frames whose labels disagree with their near-identical neighbours, and frames
of equal geometry. Their records stay in the shard and are listed in `quarantine.jsonl`; the store's index leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.quality.census import Census
from unipot.data.quality.consistency import ConsistencyCheck
from unipot.data.quality.duplicate_report import DuplicateSummary, summarize, verified_clusters
from unipot.data.quality.duplicate_search import Clusters, candidate_clusters, gather
from unipot.data.quality.energy_residuals import SPREAD_FLOOR, energy_residuals
from unipot.data.quality.quarantine import QuarantineEntry, Thresholds, Violation
from unipot.data.storage.format import group_hash
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import read_shard_info
from unipot.data.storage.shard_rows import ShardRows

#: share of energies off their composition above which the composition does not describe the set, and none is an outlier
_MAX_ENERGY_SHARE = 0.1
#: candidates beyond which the census counts duplicates by fingerprint alone; dropping them always compares distances
_MAX_VERIFIED = 200_000


@dataclass(frozen=True, eq=False)
class Finished:
    """Outcome of the finishing pass.

    Attributes:
        keep: (n,) bool over the rows of all shards, for `assemble_store`.
        entries: all quarantine entries: of the reviews, then those of this pass.
        census: merged over the reviews, with groups and duplicates.
        notes: sentences about checks that could not be made.
    """

    keep: np.ndarray
    entries: list[QuarantineEntry]
    census: Census
    notes: tuple[str, ...] = ()


def finishing_pass(
    shard_folders: Sequence[Path],
    reviews: Iterable[Mapping[str, Any]],
    thresholds: Thresholds,
    *,
    name: str,
    level_of_theory: str,
    codec: RecordCodec,
    energy_kind: str = "total",
    compression: str | None = None,
) -> Finished:
    """Look at finished shards as a whole, streaming over their columns.

    Args:
        shard_folders: in the order of the store.
        reviews: `ShardReview.state()` of every shard, and of what was read behind the last one.
        thresholds: the limits.
        name: of the dataset.
        level_of_theory: of its labels.
        codec: that packed the records.
        energy_kind: total, adsorption, formation or difference.
        compression: of the blocks.
    """
    census = Census(name, level_of_theory, ConsistencyCheck(thresholds.max_pair_disagreement))
    entries: list[QuarantineEntry] = []
    for review in reviews:
        census.merge(review["census"])
        entries += map(QuarantineEntry.from_dict, review["quarantine"])
    rows = ShardRows(shard_folders, codec, compression)
    try:
        found: dict[int, Violation] = {}
        notes = _find_energies(rows, energy_kind, thresholds, found)
        notes += _find_suspects(rows, census.check, thresholds, found)
        clusters, census.duplicates = _duplicates(rows, thresholds)
        if thresholds.duplicates == "drop":
            _find_repeats(rows, clusters, found)
        keep = np.ones(len(rows), dtype=bool)
        keep[list(found)] = False
        entries += _entries(rows, found, shard_folders)
        census.n_groups = rows.n_groups()
        if found:
            census.leave_out(rows, keep)
    finally:
        rows.close()
    return Finished(keep, entries, census, tuple(notes))


def _find_energies(rows: ShardRows, energy_kind: str, thresholds: Thresholds, found: dict[int, Violation]) -> list[str]:
    residuals = energy_residuals(rows, energy_kind)
    sizes = np.abs(residuals.values)
    checks: list[tuple[str, np.ndarray, float | None]] = []
    if energy_kind == "adsorption":
        checks.append(("max_adsorption_energy", sizes, thresholds.max_adsorption_energy))
    else:
        checks.append(("max_energy_residual", sizes, thresholds.max_energy_residual))
        far = np.where(sizes > SPREAD_FLOOR, sizes, np.nan) / max(residuals.spread, 1e-9)
        checks.append(("max_energy_residual_spreads", far, thresholds.max_energy_residual_spreads))
    notes = []
    for reason, values, limit in checks:
        if limit is None:
            continue
        with np.errstate(invalid="ignore"):
            broken = np.flatnonzero(values > limit)
        if len(broken) > max(_MAX_ENERGY_SHARE * np.isfinite(sizes).sum(), 1):
            notes.append(f"{len(broken):,} energies are beyond {reason} {limit:g}: too many to be outliers, none is in quarantine for it")
            continue
        for row in broken.tolist():
            found.setdefault(row, Violation(reason=reason, value=float(values[row]), limit=limit))
    return notes


def _find_suspects(rows: ShardRows, check: ConsistencyCheck, thresholds: Thresholds, found: dict[int, Violation]) -> list[str]:
    if check.widespread:
        share = f"{check.n_disagreeing:,} of {check.n_pairs:,} pairs of near-identical frames"
        return [f"energies and forces disagree between {share}: too many to blame single frames, none is in quarantine for it"]
    suspects = {suspect.id: suspect for suspect in check.suspects()}
    if thresholds.max_pair_disagreement is None or not suspects:
        return []
    hashes = np.array([group_hash(id) for id in suspects], dtype=np.uint64)
    for row in rows.rows_of_ids(list(suspects), hashes).tolist():
        suspect = suspects[rows.id(row)]
        detail = f"energy, forces and stress disagree with {suspect.pairs} near-identical frames"
        violation = Violation(
            reason="max_pair_disagreement", value=suspect.disagreement, limit=thresholds.max_pair_disagreement, detail=detail
        )
        found.setdefault(row, violation)
    return []


def _duplicates(rows: ShardRows, thresholds: Thresholds) -> tuple[Clusters, DuplicateSummary]:
    candidates = candidate_clusters(rows.columns("formula"), rows.columns("fingerprint"))
    verify = thresholds.duplicates == "drop" or len(candidates.members) <= _MAX_VERIFIED
    fingerprints = partial(gather, rows.columns("fingerprint"))
    clusters = verified_clusters(candidates, rows.structure, fingerprints) if verify else candidates
    energies = np.concatenate([np.empty(0), *rows.columns("energy")])[clusters.members]
    energies = energies / np.concatenate([np.empty(0, dtype=np.int32), *rows.columns("n_atoms")])[clusters.members]
    levels = np.zeros(len(clusters.members), dtype=np.int64)
    return clusters, summarize(clusters, candidates, name_of=rows.id, energies=energies, levels=levels, verified=verify)


def _find_repeats(rows: ShardRows, clusters: Clusters, found: dict[int, Violation]) -> None:
    """All but the first frame of each geometry that is kept."""
    for cluster in clusters:
        kept = [row for row in cluster.tolist() if row not in found]
        for row in kept[1:]:
            found[row] = Violation(reason="duplicate", detail=f"same geometry as {rows.id(kept[0])}")


def _entries(rows: ShardRows, found: Mapping[int, Violation], shard_folders: Sequence[Path]) -> list[QuarantineEntry]:
    parts = [str(read_shard_info(folder).extra.get("part", "")) for folder in shard_folders]
    entries = []
    for row in sorted(found):
        shard, number = rows.place(row)
        entries.append(QuarantineEntry.of(rows.id(row), parts[shard], found[row], record=(f"{shard:05d}.mdb", number)))
    return entries
