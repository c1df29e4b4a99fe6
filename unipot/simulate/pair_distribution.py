"""Pair distribution functions g(r), gathered frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from unipot.errors import InputError
from unipot.neighbors import neighbor_list


@dataclass(kw_only=True)
class PairDistribution:
    """g(r) between two elements of periodic structures.

    Attributes:
        symbols: of the two, for instance ("O", "O").
        longest: Å.
        n_bins: of the histogram.
        counts: (n_bins,) pairs gathered so far, each frame's divided by the number of pairs of an ideal gas of its
            density.
        n_frames: gathered so far.
    """

    symbols: tuple[str, str]
    longest: float = 6.0
    n_bins: int = 120
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    n_frames: int = 0

    def __post_init__(self) -> None:
        if len(self.counts) == 0:
            self.counts = np.zeros(self.n_bins)

    @property
    def distances(self) -> np.ndarray:
        """(n_bins,) Å, middles of the bins."""
        return (np.arange(self.n_bins) + 0.5) * self.longest / self.n_bins

    @property
    def values(self) -> np.ndarray:
        """(n_bins,) g(r)."""
        return self.counts / max(1, self.n_frames)

    def add(self, atoms: Atoms) -> None:
        """Gather a frame.

        Raises:
            ValueError: an axis is not periodic, so that there is no density.
        """
        if not atoms.pbc.all():
            raise InputError(f"a pair distribution needs three periodic axes, pbc is {atoms.pbc.tolist()}")
        first, second = (atoms.numbers == atomic_numbers[symbol] for symbol in self.symbols)
        (centre, neighbor), shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, self.longest)
        own = first[centre] & second[neighbor]
        vectors = atoms.positions[neighbor[own]] - atoms.positions[centre[own]] + shifts[own] @ atoms.cell.array
        edges = np.linspace(0.0, self.longest, self.n_bins + 1)
        found = np.histogram(np.linalg.norm(vectors, axis=1), edges)[0]
        shells = 4 * np.pi / 3 * np.diff(edges**3)
        ideal = first.sum() * (second.sum() / atoms.get_volume()) * shells
        self.counts = self.counts + found / np.maximum(ideal, 1e-300)
        self.n_frames += 1

    def first_peak(self) -> tuple[float, float]:
        """Distance (Å, by a parabola through three bins) and height of the first maximum above 1."""
        values = self.values
        for k in range(1, self.n_bins - 1):
            if values[k] > 1.0 and values[k] >= values[max(0, k - 3) : k + 4].max():
                left, middle, right = values[k - 1 : k + 2]
                bend = left - 2 * middle + right
                shift = 0.5 * (left - right) / bend if bend else 0.0
                return float(self.distances[k] + shift * self.longest / self.n_bins), float(middle)
        return float("nan"), float("nan")
