"""Structures of equal geometry among millions: candidates by their fingerprints, in bounded memory.

Rows are divided by a hash of the composition so that a part fits in memory. Within a part, space is cut into cells along one
fingerprint number after the other; a row near a wall counts in the cells on both sides, so that two rows within the limits
always share a cell, and rows alone in their cell are dropped. What is left is compared number by number: no pair whose
sixteen numbers agree within the limits is missed. `unipot.data.quality.geometry_match` then decides from the structures themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unipot.data.storage.columns import chunks
from unipot.errors import InputError

#: Å by which atoms of duplicates may be displaced
DISPLACEMENT = 1e-4
#: by how much each fingerprint number may then differ: three times the largest change among 7,410 frames of thirty sets whose
#: atoms were all displaced by 1e-4 Å in random directions (the first does not depend on positions: rounding)
LIMITS = 1e-4 * np.array([0.2, 1.0, 1.3, 2.1, 2.6, 3.6, 3.8, 11.0, 12.0, 12.0, 3.5, 4.4, 4.0, 47.0, 5.0, 5.5])
#: rows sorted together; 100 bytes each
ROWS_AT_A_TIME = 1 << 22
#: cells are this many limits wide: an eighth of the rows counts twice per number
_CELL = 8.0
#: the order in which numbers are used: those that vary most in units of their limits come first
_ORDER = (1, 15, 2, 14, 11, 5, 4, 10, 3, 6, 13, 8, 7, 12, 9, 0)
#: pairs per row at which comparing is cheaper than cutting once more
_PAIRS_PER_ROW = 4
#: cuts in a row that divide next to nothing before cutting ends
_USELESS_CUTS = 3
#: runs above this length are thinned before they are compared
_LONG_RUN = 64
#: boxes per limit
_BOXES = 16
_LINKS_AT_A_TIME = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Groups of rows that belong together.

    Attributes:
        members: (n_members,) int64 rows, ascending within a cluster.
        offsets: (n_clusters + 1,) int64, where each cluster begins in `members`.
    """

    members: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"cluster {index} was asked for, there are {len(self)}")
        return self.members[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    @property
    def n_repeats(self) -> int:
        """Rows that repeat an earlier one."""
        return len(self.members) - len(self)

    @classmethod
    def of(cls, clusters: Sequence[np.ndarray]) -> Clusters:
        """From one array of rows per cluster."""
        members = np.concatenate([np.empty(0, dtype=np.int64), *clusters])
        return cls(members=members, offsets=np.concatenate([[0], np.cumsum([len(c) for c in clusters], dtype=np.int64)]).astype(np.int64))


def candidate_clusters(
    formulas: Sequence[np.ndarray],
    fingerprints: Sequence[np.ndarray],
    *,
    displacement: float = DISPLACEMENT,
    rows_at_a_time: int = ROWS_AT_A_TIME,
) -> Clusters:
    """Clusters of rows of the same composition whose fingerprints agree, directly or through others.

    Args:
        formulas: per source (n,) uint64, column `formula`; may be memory-mapped.
        fingerprints: per source (n, 16) float32; may be memory-mapped.
        displacement: Å; the sixteen numbers may differ by what a displacement of all atoms this large does to them.
        rows_at_a_time: rows in memory, 100 bytes each; more rows of one composition are held together all the same.

    Returns:
        Clusters of two rows and more, numbered through the sources one after the other, sorted by their first rows.

    Raises:
        ValueError: the displacement is not positive, or the columns of a source have different lengths.

    Example:
        >>> rows = np.zeros((3, 16), dtype=np.float32)
        >>> rows[1] = 0.5
        >>> candidate_clusters([np.ones(3, dtype=np.uint64)], [rows])[0].tolist()
        [0, 2]
    """
    if not displacement > 0:
        raise InputError(f"displacement is {displacement}; give a positive length in Å, {DISPLACEMENT} by default")
    limits = LIMITS * (displacement / DISPLACEMENT)
    for formula, fingerprint in zip(formulas, fingerprints, strict=True):
        if len(formula) != len(fingerprint):
            raise InputError(f"there are {len(formula)} formulas for {len(fingerprint)} fingerprints; prepare the store again")
    total = sum(len(formula) for formula in formulas)
    n_parts = max(1, -(-total // rows_at_a_time))
    found = [_clusters_of_part(formulas, fingerprints, part, n_parts, limits) for part in range(n_parts)]
    clusters = [cluster for part in found for cluster in part] if n_parts > 1 else list(found[0])
    order = np.argsort([cluster[0] for cluster in clusters], kind="stable") if clusters else []
    return Clusters.of([clusters[k] for k in order])


def _clusters_of_part(
    formulas: Sequence[np.ndarray], fingerprints: Sequence[np.ndarray], part: int, n_parts: int, limits: np.ndarray
) -> Clusters:
    """Clusters among the compositions that fall into one part."""
    rows, formula = _rows_of_part(formulas, part, n_parts)
    # a composition that occurs once has no duplicate: its fingerprint need not be read
    _, inverse, counts = np.unique(formula, return_inverse=True, return_counts=True)
    repeated = counts[inverse] > 1
    rows, formula = rows[repeated], inverse[repeated].astype(np.uint64)
    if len(rows) == 0:
        return Clusters.of([])
    values = gather(fingerprints, rows)
    links = _Links(len(rows))
    keys, members = _shared_cells(formula, values, limits)
    bounds = np.flatnonzero(np.diff(keys, prepend=keys[:1] ^ np.uint64(1), append=keys[-1:] ^ np.uint64(1)))
    members, bounds = _thinned(members, bounds, values, limits, links)
    _compare(members, bounds, formula, values, limits, links)
    return links.clusters(rows)


def _shared_cells(keys: np.ndarray, values: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys (sorted) of cells with several rows, and the row of each; a row may be in several cells.

    A key is a hash: two cells that collide give candidates too many, never too few.
    """
    members = np.arange(len(keys))
    margin = 0.501 / _CELL
    before, useless = np.inf, 0
    for number in _ORDER:
        keys, members, n_pairs = _without_single(keys, members)
        useless = useless + 1 if n_pairs > 0.9 * before else 0
        if n_pairs <= _PAIRS_PER_ROW * len(keys) or useless == _USELESS_CUTS:
            break
        before = n_pairs
        place = values[members, number].astype(np.float64) / (_CELL * limits[number])
        low, high = np.floor(place - margin).astype(np.int64), np.floor(place + margin).astype(np.int64)
        twice = np.flatnonzero(high != low)
        keys = np.concatenate([_mixed(keys, low), _mixed(keys[twice], high[twice])])
        members = np.concatenate([members, members[twice]])
    return _without_single(keys, members)[:2]


def _mixed(keys: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """A 64-bit hash of key and cell."""
    mixed = keys * np.uint64(0x9E3779B97F4A7C15) + cells.view(np.uint64)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def _without_single(keys: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Sorted by key, without keys that occur once; and the number of pairs that are left."""
    order = np.argsort(keys, kind="stable")
    keys, members = keys[order], members[order]
    if len(keys) == 0:
        return keys, members, 0
    same = keys[1:] == keys[:-1]
    shared = np.append(same, False) | np.insert(same, 0, False)
    keys, members = keys[shared], members[shared]
    lengths = np.diff(np.append(np.flatnonzero(np.diff(keys, prepend=keys[:1] ^ np.uint64(1))), len(keys)))
    return keys, members, int((lengths * (lengths - 1) // 2).sum())


def _rows_of_part(formulas: Sequence[np.ndarray], part: int, n_parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and formulas of one part, ascending."""
    rows, found, first = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)], 0
    for formula in formulas:
        for start, stop in chunks(len(formula)):
            piece = np.asarray(formula[start:stop])
            chosen = np.flatnonzero(piece % np.uint64(n_parts) == part)
            rows.append(chosen + (first + start))
            found.append(piece[chosen])
        first += len(formula)
    return np.concatenate(rows), np.concatenate(found)


def gather(fingerprints: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(n, 16) float32 fingerprints of ascending rows of all sources."""
    bounds = np.cumsum([0, *[len(column) for column in fingerprints]])
    cuts = np.searchsorted(rows, bounds)
    parts = [column[rows[a:b] - first] for column, first, a, b in zip(fingerprints, bounds, cuts, cuts[1:], strict=False)]
    return np.concatenate(parts)


def _thinned(
    members: np.ndarray, bounds: np.ndarray, values: np.ndarray, limits: np.ndarray, links: _Links
) -> tuple[np.ndarray, np.ndarray]:
    """Long runs reduced to one row per small box, so that thousands of copies do not make millions of pairs."""
    lengths = np.diff(bounds)
    if len(lengths) == 0 or lengths.max() <= _LONG_RUN:
        return members, bounds
    runs = []
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        run = members[first:last]
        if len(run) > _LONG_RUN:
            boxes = np.floor(values[run].astype(np.float64) * (_BOXES / limits)).astype(np.int64)
            _, one, inverse = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
            links.add(run[one[inverse.ravel()]], run)
            run = run[one]
        runs.append(run)
    return np.concatenate(runs), np.concatenate([[0], np.cumsum([len(run) for run in runs])])


def _compare(
    members: np.ndarray, bounds: np.ndarray, formula: np.ndarray, values: np.ndarray, limits: np.ndarray, links: _Links
) -> None:
    """Compare every row with the next, the next but one, … of its run, all runs at once."""
    if len(members) == 0:
        return
    lengths = np.diff(bounds)
    place, end = np.arange(len(members)), np.repeat(bounds[1:], lengths)
    # a row that stands for its box may be a box away from the row it stands for, on both sides
    allowed = (limits * (1 + 2 / _BOXES)).astype(np.float32)
    for step in range(1, int(lengths.max())):
        near = place + step < end
        place, end = place[near], end[near]
        for start, stop in chunks(len(place)):
            a, b = members[place[start:stop]], members[place[start:stop] + step]
            equal = (np.abs(values[a] - values[b]) <= allowed).all(axis=1) & (formula[a] == formula[b])
            links.add(a[equal], b[equal])


class _Links:
    """Pairs of rows, kept as at most a star per cluster."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        different = a != b
        self._pairs.append((a[different].astype(np.int32), b[different].astype(np.int32)))
        self._waiting += int(different.sum())
        if self._waiting > _LINKS_AT_A_TIME:
            rows, labels = self._labelled()
            _, one, inverse = np.unique(labels, return_index=True, return_inverse=True)
            self._pairs, self._waiting = [(rows[one[inverse]], rows)], 0

    def clusters(self, names: np.ndarray) -> Clusters:
        """Connected rows, called by `names`."""
        rows, labels = self._labelled()
        members = names[rows]
        order = np.lexsort((members, labels))
        members, labels = members[order], labels[order]
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        return Clusters(members=members, offsets=np.append(starts, len(members)).astype(np.int64))

    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have a link, and the cluster of each."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a = np.concatenate([np.empty(0, dtype=np.int32), *[a for a, _ in self._pairs]])
        b = np.concatenate([np.empty(0, dtype=np.int32), *[b for _, b in self._pairs]])
        linked = np.unique(np.concatenate([a, b]))
        a, b = np.searchsorted(linked, a), np.searchsorted(linked, b)
        graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(linked), len(linked)))
        return linked, connected_components(graph, directed=False)[1]
