"""Least squares of energies on compositions, E_s ≈ Σ_Z N_sZ e_Z, over any number of structures in the memory of a triangle.

What is accumulated is the triangular factor of [fractions | energy per atom]: an orthogonal transformation of all rows,
so that the solution, rank and residual are those of the least-squares problem with every row in memory (Golub and
Van Loan, Matrix Computations, 5.3), and not those of the normal equations, which would square the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, symbols_of

#: singular values below this fraction of the largest (columns scaled to one) count as undetermined
RANK_TOLERANCE = 1e-5
#: elements named per direction in a report
N_TERMS = 8
#: rows transformed at a time: 2 MB with all elements, which stays in the cache
_BLOCK = 2048
#: one odd number per element, so that equal compositions are found by one sum per frame
_KEYS = np.random.default_rng(119).integers(0, 2**63, MAX_ATOMIC_NUMBER + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, kw_only=True)
class CompositionFit:
    """How well compositions determined one energy per element.

    Attributes:
        values: (119,) eV per atom; 0 for elements that neither occur nor were given.
        elements: atomic numbers that were fitted: they occur and were not given.
        given: atomic numbers whose values were given and subtracted before the fit.
        n_frames: frames used.
        rank: directions that the compositions determine, at most `len(elements)`.
        condition: ratio of the largest to the smallest determined singular value; 1 when nothing was fitted.
        rmse_per_atom: eV/atom left by all values together.
        undetermined: the combinations of elements that the data leave open, in words; "" when there are none.
    """

    values: np.ndarray
    elements: tuple[int, ...]
    given: tuple[int, ...] = ()
    n_frames: int
    rank: int
    condition: float
    rmse_per_atom: float
    undetermined: str

    @property
    def n_elements(self) -> int:
        """Elements that were fitted."""
        return len(self.elements)

    @property
    def known(self) -> np.ndarray:
        """(119,) bool, elements with a value."""
        return np.isin(np.arange(MAX_ATOMIC_NUMBER + 1), [*self.elements, *self.given])

    def sentence(self) -> str:
        text = (
            f"{self.n_frames} frames, {self.n_elements} elements, rank {self.rank}, condition {self.condition:.3g}, "
            f"residual {1000 * self.rmse_per_atom:.1f} meV/atom"
        )
        return text + (f"; not determined by the compositions: {self.undetermined}" if self.undetermined else "")


class CompositionRegression:
    """Takes compositions and total energies chunk by chunk; `solve` gives what all of them together say.

    Neither the order nor the size of the chunks matters beyond rounding.

    Attributes:
        n_frames: frames added so far.
        n_atoms: atoms in them.

    Example:
        >>> regression = CompositionRegression()
        >>> for n in (1, 2, 3):  # chunks of one frame: water and n oxygen molecules
        ...     regression.add(np.bincount([1, 1, 8] + 2 * n * [8], minlength=119)[None], [2 * -13.0 + (1 + 2 * n) * -430.0])
        >>> regression.solve().values[[1, 8]].round(6).tolist()
        [-13.0, -430.0]
    """

    def __init__(self) -> None:
        self.n_frames, self.n_atoms = 0, 0
        self._energy = 0.0
        self._elements = np.zeros(0, dtype=np.int64)
        self._triangle = np.zeros((0, 1))  # columns: fractions of _elements, energy per atom

    @property
    def mean_energy(self) -> float:
        """eV/atom, all energies over all atoms; 0 without frames."""
        return self._energy / max(self.n_atoms, 1)

    def add(self, counts: np.ndarray, energies: np.ndarray) -> None:
        """Take in some frames.

        Args:
            counts: (n, 119) atoms of each element, column = atomic number.
            energies: (n,) eV, total.

        Raises:
            ValueError: shapes disagree, an energy is not finite, or a frame has no atoms.
        """
        counts, energies = np.asarray(counts), np.asarray(energies, dtype=np.float64)
        _check_frames(counts, energies)
        if len(energies) == 0:
            return
        n_atoms = counts.sum(axis=1, dtype=np.int64)
        distinct, n_equal, means, spread = _distinct(counts, energies / n_atoms)
        elements = np.flatnonzero(distinct.any(axis=0))
        for start in range(0, len(distinct), _BLOCK):
            part = slice(start, start + _BLOCK)
            block = distinct[part, elements]
            rows = np.column_stack([block / block.sum(axis=1)[:, None], means[part]]) * np.sqrt(n_equal[part])[:, None]
            self._absorb(rows, elements)
        self._absorb(np.array([[spread]]), elements[:0])
        self.n_frames += len(energies)
        self.n_atoms += int(n_atoms.sum())
        self._energy += float(energies.sum())

    def merge(self, other: CompositionRegression) -> None:
        """Take in all frames of `other`, as another process may have collected them."""
        self._absorb(other._triangle, other._elements)
        self.n_frames += other.n_frames
        self.n_atoms += other.n_atoms
        self._energy += other._energy

    def solve(self, given: Mapping[int, float] | None = None) -> CompositionFit:
        """Energy per element by least squares on energies per atom, every frame with the same weight.

        Along directions that the compositions do not determine, the elements move together: among all minimisers the
        one closest to a common value per atom is taken, so thirty frames of one composition give one number, not garbage.

        Args:
            given: atomic number -> eV of elements that are not to be fitted; theirs is subtracted first.

        Raises:
            ValueError: there are no frames.
        """
        if self.n_frames == 0:
            raise InputError("references need at least one frame with an energy; give energies, or reference values per element")
        given = dict(given or {})
        values = np.zeros(MAX_ATOMIC_NUMBER + 1)
        values[list(given)] = list(given.values())
        free = ~np.isin(self._elements, list(given))
        elements, matrix = self._elements[free], self._triangle[:, :-1]
        target = self._triangle[:, -1] - matrix[:, ~free] @ values[self._elements[~free]]
        solution, rank, condition, null = _least_squares(matrix[:, free], target)
        values[elements] = solution
        return CompositionFit(
            values=values,
            elements=tuple(int(z) for z in elements),
            given=tuple(sorted(given)),
            n_frames=self.n_frames,
            rank=rank,
            condition=condition,
            rmse_per_atom=float(np.linalg.norm(target - matrix[:, free] @ solution) / np.sqrt(self.n_frames)),
            undetermined=_undetermined(null, elements),
        )

    def _absorb(self, rows: np.ndarray, elements: np.ndarray) -> None:
        """Rows [fractions of `elements` | energy per atom] into the triangle."""
        both = np.union1d(self._elements, elements)
        stacked = np.zeros((len(self._triangle) + len(rows), len(both) + 1))
        for part, part_elements, first in ((self._triangle, self._elements, 0), (rows, elements, len(self._triangle))):
            columns = np.append(np.searchsorted(both, part_elements), len(both))
            stacked[first : first + len(part), columns] = part
        self._elements, self._triangle = both, np.linalg.qr(stacked, mode="r")


def fit_composition(counts: np.ndarray, energies: np.ndarray) -> CompositionFit:
    """`CompositionRegression` of frames that are all in memory.

    Args:
        counts: (n_frames, 119) atoms of each element.
        energies: (n_frames,) eV, total.

    Raises:
        ValueError: there are no frames, an energy is not finite, or shapes disagree.
    """
    regression = CompositionRegression()
    if len(energies):
        regression.add(counts, energies)
    return regression.solve()


def combination_in_words(direction: np.ndarray, elements: tuple[int, ...] | np.ndarray) -> str:
    """A combination of elements, the largest coefficient scaled to one: `Pb + 0.50 Ti - 0.50 O`."""
    sizes = np.abs(direction) / np.abs(direction).max()
    # the first of equals, and rounded, so that the words do not depend on the last bits
    scaled = np.round(direction / direction[np.argmax(sizes > 1 - 1e-6)], 6)
    terms = sorted(((c, SYMBOLS[z]) for c, z in zip(scaled, elements, strict=True) if c), key=lambda term: -abs(term[0]))
    terms = [term for k, term in enumerate(terms) if k < 2 or abs(term[0]) > 0.05]
    text = " ".join(f"{'-' if c < 0 else '+'} {_coefficient(abs(c))}{symbol}" for c, symbol in terms[:N_TERMS])
    return text.removeprefix("+ ") + (f" and {len(terms) - N_TERMS} smaller terms" if len(terms) > N_TERMS else "")


def _coefficient(size: float) -> str:
    return "" if abs(size - 1) < 0.005 else f"{size:.2f} " if size > 0.05 else f"{size:.1g} "


def _check_frames(counts: np.ndarray, energies: np.ndarray) -> None:
    if counts.shape != (len(energies), MAX_ATOMIC_NUMBER + 1):
        raise InputError(f"counts have shape {counts.shape}, expected {(len(energies), MAX_ATOMIC_NUMBER + 1)}")
    if not np.isfinite(energies).all():
        raise InputError(f"{int((~np.isfinite(energies)).sum())} of {len(energies)} energies are not finite; drop those frames")
    if not counts.any(axis=1).all():
        raise InputError(f"{int((~counts.any(axis=1)).sum())} of {len(energies)} frames have no atoms; drop those frames")


def _distinct(counts: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Frames of one composition as one row: an orthogonal transformation of them, so nothing is lost.

    Trajectories have few compositions, and k equal rows with targets t are √k·(row, mean t) and a remainder ‖t − mean t‖.

    Returns:
        Distinct counts, how many frames have them, their mean target, and the remainder of all of them together.
    """
    _, first, inverse = np.unique(counts.astype(np.uint64) @ _KEYS, return_index=True, return_inverse=True)
    few = len(first) < 0.8 * len(counts)  # else collecting them costs more than it saves
    if not few or not np.array_equal(counts, counts[first][inverse]):  # two compositions may have one key
        return counts, np.ones(len(counts)), target, 0.0
    n_equal = np.bincount(inverse)
    means = np.bincount(inverse, weights=target) / n_equal
    return counts[first], n_equal, means, float(np.linalg.norm(target - means[inverse]))


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, int, float, np.ndarray]:
    """Solution closest to a common value, rank, condition, and an orthonormal basis (n, n − rank) of what is open."""
    n = matrix.shape[1]
    if n == 0:
        return np.zeros(0), 0, 1.0, np.zeros((0, 0))
    column = np.linalg.norm(matrix, axis=0)
    padding = max(0, n - len(target))  # zero rows, so that vt is square
    u, singular, vt = np.linalg.svd(np.pad(matrix / column, ((0, padding), (0, 0))), full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    particular = (vt[:rank].T @ ((u[: len(target), :rank].T @ target) / singular[:rank])) / column
    null = np.linalg.qr((vt[rank:] / column).T)[0]
    return _closest_to_common(particular, null), rank, float(singular[0] / singular[rank - 1]), null


def _closest_to_common(particular: np.ndarray, null: np.ndarray) -> np.ndarray:
    """particular + null·z with z and δ minimising ‖particular + null·z − δ·1‖."""
    if null.shape[1] == 0:
        return particular
    ones = np.ones((len(particular), 1))
    unknowns = np.linalg.lstsq(np.hstack([null, -ones]), -particular, rcond=None)[0]
    return particular + null @ unknowns[:-1]


def _undetermined(null: np.ndarray, elements: np.ndarray) -> str:
    if null.shape[1] > 1 and null.shape[1] == len(elements) - 1:
        return f"every difference between {symbols_of(elements)} (the compositions fix one number only)"
    return "; ".join(combination_in_words(row, elements) for row in _reduced(null))


def _reduced(null: np.ndarray) -> np.ndarray:
    """(d, n) basis of the space of `null` (n, d), orthonormal, in which each direction has an element of its own.

    It is the same whatever orthonormal basis is given: elements are chosen one by one as in a QR factorisation with
    column pivoting, by the part of the space they still span.
    """
    rest, own = null.T.copy(), []
    for _ in range(null.shape[1]):
        sizes = np.linalg.norm(rest, axis=0)
        own.append(int(np.argmax(sizes > sizes.max() * (1 - 1e-6))))
        axis = rest[:, own[-1]] / sizes[own[-1]]
        rest -= np.outer(axis, axis @ rest)
    own.sort()
    return np.linalg.solve(null[own].T, null.T)
