"""Duplicates of stores in words: verified clusters, what their energies say, and frames that leak from training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unipot.data.quality.duplicate_search import DISPLACEMENT, Clusters, candidate_clusters, gather
from unipot.data.quality.geometry_match import Distances, distances_of, same_geometry
from unipot.data.storage.columns import chunks
from unipot.data.store import Store
from unipot.structure import Structure

#: eV/atom by which energies of one geometry at one level of theory may differ before it is said to be alarming
ENERGY_TOLERANCE = 0.01
_EXAMPLES = 5
#: structures whose distances are worked out together
_VERIFIED_AT_A_TIME = 256
#: frames of one cluster above which only closer candidates are compared: among a million frames of a stiff molecule nearly all
#: are linked by chains of similar ones, and comparing each with each would never end
_LARGEST_CLUSTER, _FINEST_DISPLACEMENT = 500, 1.1e-5
#: training rows looked at together for leakage
_ROWS_AT_A_TIME = 1 << 21


@dataclass(frozen=True, kw_only=True)
class DuplicateSummary:
    """Frames of equal geometry.

    Attributes:
        n_structures: frames that repeat an earlier one.
        n_clusters: different geometries that occur more than once.
        examples: a few, as `first id = other id`.
        n_candidates: frames that looked repeated by their fingerprints.
        verified: distances were compared, not only fingerprints.
        largest_energy_difference: eV/atom within a cluster at one level of theory; NaN where no two have an energy.
        n_contradictions: clusters whose energies differ by more than 0.01 eV/atom at one level of theory.
        contradictions: a few, in words.
    """

    n_structures: int
    n_clusters: int
    examples: list[str] = field(default_factory=list)
    n_candidates: int = 0
    verified: bool = True
    largest_energy_difference: float = float("nan")
    n_contradictions: int = 0
    contradictions: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; nan becomes null."""
        difference = self.largest_energy_difference
        return {
            "structures": self.n_structures,
            "clusters": self.n_clusters,
            "examples": self.examples,
            "candidates": self.n_candidates,
            "verified": self.verified,
            "largest_energy_difference": None if np.isnan(difference) else difference,
            "contradictions": {"clusters": self.n_contradictions, "examples": self.contradictions},
        }

    def describe(self) -> str:
        """One line for a table."""
        text = f"{self.n_structures:,}" + (f" of {self.n_clusters:,} geometries, for example {self.examples[0]}" if self.examples else "")
        if self.n_contradictions:
            text += f"; {self.n_contradictions:,} with contradicting energies: {self.contradictions[0]}"
        return text


def verified_clusters(
    candidates: Clusters,
    structure: Callable[[int], Structure],
    fingerprints: Callable[[np.ndarray], np.ndarray],
    displacement: float = DISPLACEMENT,
) -> Clusters:
    """Candidates divided into clusters whose members have the geometry of their first.

    In a cluster of more than 500 candidates those are compared whose atoms lie closer, down to a ninth of the displacement.

    Args:
        candidates: from `candidate_clusters`.
        structure: row -> structure.
        fingerprints: (n,) rows -> (n, 16).
        displacement: Å, that the candidates were found with.
    """
    found: list[np.ndarray] = []
    for batch in _batches(part for cluster in candidates for part in _finer(cluster, fingerprints, displacement)):
        distances = iter(distances_of([structure(int(row)) for cluster in batch for row in cluster]))
        for cluster in batch:
            found += _divided(cluster, [next(distances) for _ in cluster])
    return Clusters.of(sorted(found, key=lambda cluster: int(cluster[0])))


def _finer(cluster: np.ndarray, fingerprints: Callable[[np.ndarray], np.ndarray], displacement: float) -> Iterator[np.ndarray]:
    """The cluster, or closer clusters within it where it is large."""
    if len(cluster) <= _LARGEST_CLUSTER or displacement / 3 < _FINEST_DISPLACEMENT:
        yield cluster
        return
    one_formula = np.zeros(len(cluster), dtype=np.uint64)
    for part in candidate_clusters([one_formula], [fingerprints(cluster)], displacement=displacement / 3):
        yield from _finer(cluster[part], fingerprints, displacement / 3)


def summarize(
    clusters: Clusters,
    candidates: Clusters,
    *,
    name_of: Callable[[int], str],
    energies: np.ndarray,
    levels: np.ndarray,
    verified: bool,
) -> DuplicateSummary:
    """Counts, examples and contradicting energies.

    Args:
        clusters: the duplicates.
        candidates: what was looked at.
        name_of: row -> id for the report.
        energies: (n_members,) eV/atom in the order of `clusters.members`; NaN: none.
        levels: (n_members,) int, equal where energies are comparable.
        verified: whether distances were compared.
    """
    largest, contradictions, n_contradictions = float("nan"), [], 0
    for k in range(len(clusters)):
        part = slice(clusters.offsets[k], clusters.offsets[k + 1])
        spread, low, high = _largest_spread(energies[part], levels[part])
        if np.isnan(spread):
            continue
        largest = spread if np.isnan(largest) else max(largest, spread)
        if spread > ENERGY_TOLERANCE:
            n_contradictions += 1
            if len(contradictions) < _EXAMPLES:
                a, b = (name_of(int(clusters.members[part][j])) for j in (low, high))
                contradictions.append(f"{a} and {b} differ by {spread:.4g} eV/atom")
    examples = [f"{name_of(int(clusters[k][0]))} = {name_of(int(clusters[k][1]))}" for k in range(min(len(clusters), _EXAMPLES))]
    return DuplicateSummary(
        n_structures=clusters.n_repeats,
        n_clusters=len(clusters),
        examples=examples,
        n_candidates=candidates.n_repeats,
        verified=verified,
        largest_energy_difference=largest,
        n_contradictions=n_contradictions,
        contradictions=contradictions,
    )


class StoreRows:
    """Several stores as one sequence of rows.

    Args:
        stores: in the order of their rows.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        self.bounds = np.cumsum([0, *[len(store) for store in stores]])

    def place(self, row: int) -> tuple[int, int]:
        """Which store, and the index in it."""
        store = int(np.searchsorted(self.bounds, row, side="right")) - 1
        return store, int(row - self.bounds[store])

    def structure(self, row: int) -> Structure:
        store, index = self.place(row)
        return self.stores[store][index]

    def name(self, row: int) -> str:
        """Id, with the store's name where there are several."""
        store, index = self.place(row)
        prefix = f"{self.stores[store].name}/" if len(self.stores) > 1 else ""
        return prefix + self.stores[store].ids[index]

    def fingerprints(self, rows: np.ndarray) -> np.ndarray:
        """(n, 16) of ascending rows."""
        return gather([store.column("fingerprint") for store in self.stores], rows)

    def energies(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """eV/atom of each row, and a number that stands for level of theory and kind of energy."""
        kinds = [(store.level_of_theory, store.energy_kind) for store in self.stores]
        which = np.searchsorted(self.bounds, rows, side="right") - 1
        energies = np.full(len(rows), np.nan)
        for k, store in enumerate(self.stores):
            mine = np.flatnonzero(which == k)
            index = rows[mine] - self.bounds[k]
            energies[mine] = store.column("energy")[index] / store.n_atoms[index]
        return energies, np.array([kinds.index(kind) for kind in kinds], dtype=np.int64)[which]


def duplicates_of(stores: Sequence[Store], *, displacement: float = DISPLACEMENT, verify: bool = True) -> tuple[Clusters, DuplicateSummary]:
    """Frames of equal geometry within and across stores; rows are numbered through the stores.

    Args:
        stores: one or more.
        displacement: Å, of atoms of candidates.
        verify: compare distances of the candidates too.
    """
    rows = StoreRows(stores)
    columns = [store.column("formula") for store in stores], [store.column("fingerprint") for store in stores]
    candidates = candidate_clusters(*columns, displacement=displacement)
    clusters = verified_clusters(candidates, rows.structure, rows.fingerprints, displacement) if verify else candidates
    energies, levels = rows.energies(clusters.members)
    return clusters, summarize(clusters, candidates, name_of=rows.name, energies=energies, levels=levels, verified=verify)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Held-out frames whose geometry is also in training.

    Attributes:
        n_held_out: frames that were looked at.
        held_out: (n_leaked,) index in the held-out store.
        training: (n_leaked,) index in the training store of one frame of equal geometry.
    """

    n_held_out: int
    held_out: np.ndarray
    training: np.ndarray

    def __len__(self) -> int:
        return len(self.held_out)


def leakage(
    training: Store,
    training_indices: Sequence[int] | np.ndarray,
    held_out: Store,
    held_out_indices: Sequence[int] | np.ndarray,
    *,
    displacement: float = DISPLACEMENT,
    verify: bool = True,
) -> Leakage:
    """Held-out frames that training has seen, up to symmetry; memory is that of the held-out rows and a chunk of training.

    Args:
        training: store of the training frames.
        training_indices: which of its structures are trained on.
        held_out: store of the held-out frames; may be the same.
        held_out_indices: which of its structures are held out.
        displacement: Å, of atoms of candidates.
        verify: compare distances of the candidates too.
    """
    held_indices = np.asarray(held_out_indices, dtype=np.int64)
    formulas = held_out.column("formula")[held_indices]
    fingerprints = held_out.column("fingerprint")[held_indices]
    wanted, found = np.unique(formulas), {}
    for start, stop in chunks(len(training_indices), _ROWS_AT_A_TIME):
        indices = np.asarray(training_indices[start:stop], dtype=np.int64)
        formula = training.column("formula")[indices]
        shared = np.isin(formula, wanted)
        indices, formula = indices[shared], formula[shared]
        values = np.concatenate([fingerprints, training.column("fingerprint")[indices]])
        for cluster in candidate_clusters([np.concatenate([formulas, formula])], [values], displacement=displacement):
            for part in _finer(cluster, values.__getitem__, displacement):
                mine, theirs = part[part < len(held_indices)], part[part >= len(held_indices)] - len(held_indices)
                if len(mine) and len(theirs):
                    found.update(_matches(held_out, held_indices[mine], training, indices[theirs], verify, found))
    leaked = np.array(sorted(found), dtype=np.int64)
    return Leakage(n_held_out=len(held_indices), held_out=leaked, training=np.array([found[k] for k in leaked.tolist()], dtype=np.int64))


def _matches(
    held_out: Store, mine: np.ndarray, training: Store, theirs: np.ndarray, verify: bool, known: dict[int, int]
) -> Iterator[tuple[int, int]]:
    mine = np.array([index for index in mine.tolist() if index not in known], dtype=np.int64)
    if not verify:
        yield from ((index, int(theirs[0])) for index in mine.tolist())
        return
    distances = distances_of([training[int(index)] for index in theirs]) if len(mine) else []
    for index in mine.tolist():
        own = distances_of([held_out[index]])[0]
        match = next((k for k, other in enumerate(distances) if same_geometry(own, other)), None)
        if match is not None:
            yield index, int(theirs[match])


def _batches(candidates: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Clusters of some hundred rows together."""
    batch: list[np.ndarray] = []
    n_rows = 0
    for cluster in candidates:
        batch.append(cluster)
        n_rows += len(cluster)
        if n_rows >= _VERIFIED_AT_A_TIME:
            yield batch
            batch, n_rows = [], 0
    if batch:
        yield batch


def _divided(cluster: np.ndarray, distances: Sequence[Distances]) -> list[np.ndarray]:
    """Sub-clusters of two rows and more, each of the geometry of its first row."""
    parts: list[tuple[Distances, list[int]]] = []
    for row, own in zip(cluster.tolist(), distances, strict=True):
        part = next((members for first, members in parts if same_geometry(first, own)), None)
        if part is None:
            parts.append((own, [row]))
        else:
            part.append(row)
    return [np.array(members, dtype=np.int64) for _, members in parts if len(members) > 1]


def _largest_spread(energies: np.ndarray, levels: np.ndarray) -> tuple[float, int, int]:
    """Largest energy difference at one level, and which two; NaN where no two can be compared."""
    best = (float("nan"), 0, 0)
    for level in np.unique(levels).tolist():
        mine = np.flatnonzero((levels == level) & np.isfinite(energies))
        if len(mine) > 1:
            low, high = mine[np.argmin(energies[mine])], mine[np.argmax(energies[mine])]
            spread = float(energies[high] - energies[low])
            if not spread <= best[0]:
                best = (spread, int(low), int(high))
    return best
