"""What part of structure space datasets cover, and how far they overlap: descriptors, a map, and coverage per ordered pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipot.data.overview.distributions import sample_rows
from unipot.data.store import Store

#: a structure is covered by what is nearer than this neighbour of its own dataset
NEIGHBOR = 5
#: so much of one distribution do two equal samples of it cover: 1 - 2^-NEIGHBOR
WITHIN = 1 - 0.5**NEIGHBOR
_ROWS_AT_A_TIME = 512


@dataclass(frozen=True, kw_only=True)
class CoverageMap:
    """Samples of several stores in one descriptor space.

    Attributes:
        points: per store (n, 2) coordinates on the map.
        explained: share of the variance along the two axes of the map.
        covered: (n_stores, n_stores) share of store a (row) that store b (column) covers: of equal samples, b's has a structure
            nearer than the fifth nearest of a's own of other groups. About `WITHIN` for one distribution; the diagonal is one half
            of a by the other. NaN where a sample is too small.
        by_group: (n_stores,) whether neighbours of the same group (material, trajectory) were left out.
    """

    points: list[np.ndarray]
    explained: tuple[float, float]
    covered: np.ndarray
    by_group: np.ndarray


def coverage_map(stores: Sequence[Store], n_structures: int, seed: int = 0) -> CoverageMap:
    """Descriptors of a sample of each store, their principal plane and their overlap.

    The descriptor of a structure is its fingerprint and the atomic fraction of each element; both blocks are scaled to the same
    total variance over the stores together, every store with equal weight.

    Args:
        stores: what is compared.
        n_structures: sampled per store, at most.
        seed: of the sample.
    """
    rows = [sample_rows(len(store), n_structures, seed) for store in stores]
    fingerprints = [np.asarray(_reopened(store).column("fingerprint")[r], dtype=np.float64) for store, r in zip(stores, rows, strict=True)]
    fractions = [_fractions(store, r) for store, r in zip(stores, rows, strict=True)]
    weights = np.concatenate([np.full(len(r), 1 / len(r)) for r in rows]) / len(rows)
    blocks = (_scaled(np.concatenate(fingerprints), weights, each=True), _scaled(np.concatenate(fractions), weights))
    pooled = np.concatenate(blocks, axis=1)
    bounds = np.cumsum([0, *[len(r) for r in rows]])
    descriptors = [pooled[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    plane, explained = _principal_plane(pooled, weights)
    kinds = [_own_kind(np.asarray(_reopened(store).groups[r])) for store, r in zip(stores, rows, strict=True)]
    return CoverageMap(
        points=[part @ plane for part in descriptors],
        explained=explained,
        covered=_coverage(descriptors, [kind for kind, _ in kinds], seed),
        by_group=np.array([grouped for _, grouped in kinds]),
    )


def _coverage(descriptors: Sequence[np.ndarray], kinds: Sequence[np.ndarray], seed: int) -> np.ndarray:
    covered = np.full((len(descriptors), len(descriptors)), np.nan)
    for a, (points, kind) in enumerate(zip(descriptors, kinds, strict=True)):
        half = np.random.default_rng(seed).permutation(int(kind.max()) + 1)[kind] % 2 == 0  # whole groups on one side
        for b, others in enumerate(descriptors):
            one, own, other = (points[half], kind[half], points[~half]) if a == b else (points, kind, others)
            covered[a, b] = _covered(one, own, other)
    return covered


def _reopened(store: Store) -> Store:
    """With memory maps of its own: what is read through them is given back after use."""
    return Store(store.path)


def _fractions(store: Store, rows: np.ndarray) -> np.ndarray:
    counts = _reopened(store).composition_counts_of(rows)
    return counts / counts.sum(axis=1, keepdims=True)


def _scaled(values: np.ndarray, weights: np.ndarray, each: bool = False) -> np.ndarray:
    """Centred, with total variance 1 over all columns; with `each` every column contributes the same."""
    centred = values - weights @ values
    variance = weights @ centred**2
    if each:
        spread = np.sqrt(np.where(variance > 1e-12, variance, np.inf))
        return centred / spread / np.sqrt(max(np.isfinite(spread).sum(), 1))
    return centred / np.sqrt(max(variance.sum(), 1e-12))


def _principal_plane(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(n_features, 2) directions of largest variance, each with a fixed sign, and their shares."""
    covariance = (values.T * weights) @ values
    variances, directions = np.linalg.eigh(covariance)
    plane = directions[:, [-1, -2]]
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    shares = variances[[-1, -2]] / max(float(variances.sum()), 1e-12)
    return plane, (float(shares[0]), float(shares[1]))


def _own_kind(groups: np.ndarray) -> tuple[np.ndarray, bool]:
    """Numbers that neighbours must differ in: of the group, or of the structure where nearly all share a few groups."""
    names, owner, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    grouped = len(names) >= 2 * NEIGHBOR and int(sizes.max()) <= len(groups) // 2
    return (owner if grouped else np.arange(len(groups))), grouped


def _covered(points: np.ndarray, kinds: np.ndarray, others: np.ndarray) -> float:
    """Share of `points` with one of `others` nearer than their own `NEIGHBOR`th nearest of another kind."""
    n = min(len(points), len(others))
    if n <= 2 * NEIGHBOR:
        return float("nan")
    rng = np.random.default_rng(0)
    own = np.sort(rng.permutation(len(points))[:n])
    points, kinds, others = points[own], kinds[own], others[np.sort(rng.permutation(len(others))[:n])]
    n_covered = 0
    for first in range(0, n, _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        near = _squares(points[rows], points)
        near[kinds[rows][:, None] == kinds[None, :]] = np.inf
        limit = np.partition(near, NEIGHBOR - 1, axis=1)[:, NEIGHBOR - 1]
        n_covered += int((_squares(points[rows], others).min(axis=1) <= limit).sum())
    return n_covered / n


def _squares(points: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(n_points, n_references) squared distances."""
    return (points**2).sum(axis=1)[:, None] + (references**2).sum(axis=1) - 2 * points @ references.T
