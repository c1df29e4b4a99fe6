"""How quantities are distributed over the structures of stores: exact histograms from the memory-mapped columns, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unipot.composition import CompositionRegression
from unipot.data.statistics import labelled_compositions
from unipot.data.storage.columns import chunks
from unipot.data.store import Store
from unipot.structure import MAX_ATOMIC_NUMBER
from unipot.units import GPA

#: rows from which quantiles, and so the ranges of axes, are taken
SAMPLE = 200_000
N_BINS = 60
_QUANTILES = (0.01, 0.5, 0.99)
#: part of a sample that may lie beyond each end of an axis
_BEYOND = 0.002
#: a logarithmic axis spans at most this factor
_LONGEST_LOG = 1e9


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number per structure.

    Attributes:
        name: of the quantity, as an axis says it.
        unit: "" without one.
        values: store, rows (slice or sorted indices) -> (n,) float64, NaN where it is not defined.
        scale: of the axis: `linear`, `log` (zeros are counted apart) or `asinh` (both signs, linear within `linear_within`).
    """

    name: str
    unit: str
    values: Callable[[Store, slice | np.ndarray], np.ndarray]
    scale: str = "linear"
    linear_within: float = 1.0

    @property
    def axis(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One quantity over one store.

    Attributes:
        edges: (n_bins + 1,) of the bins, shared by the stores that are compared.
        counts: (n_bins,) structures.
        n: structures where the quantity is defined.
        n_zero: of them those of exactly zero, on a logarithmic axis.
        n_below, n_above: of them those beyond the axis.
        smallest, largest: over all; NaN where n is 0.
        quantiles: 1 %, 50 %, 99 %, from a sample.
    """

    edges: np.ndarray
    counts: np.ndarray
    n: int
    n_zero: int
    n_below: int
    n_above: int
    smallest: float
    largest: float
    quantiles: tuple[float, float, float]


def _per_atom(column: str, last: int | None = None) -> Callable[[Store, slice | np.ndarray], np.ndarray]:
    def values(store: Store, rows: slice | np.ndarray) -> np.ndarray:
        numbers = np.asarray(store.column(column)[rows], dtype=np.float64)
        return (numbers if last is None else numbers[:, last]) / store.n_atoms[rows]

    return values


def _column(name: str, factor: float = 1.0) -> Callable[[Store, slice | np.ndarray], np.ndarray]:
    def values(store: Store, rows: slice | np.ndarray) -> np.ndarray:
        return np.asarray(store.column(name)[rows], dtype=np.float64) * factor

    return values


ATOMS = Quantity(name="atoms per structure", unit="", values=_column("n_atoms"))
ENERGY = Quantity(name="energy per atom as labelled", unit="eV/atom", values=_per_atom("energy"))
MAX_FORCE = Quantity(name="largest force in a structure", unit="eV/Å", values=_column("max_force"), scale="log")
NET_FORCE = Quantity(name="norm of the sum of forces", unit="eV/Å", values=_column("net_force"), scale="log")
PRESSURE = Quantity(name="pressure, positive under compression", unit="GPa", values=_column("pressure", 1 / GPA), scale="asinh")
MAX_STRESS = Quantity(name="largest stress component", unit="GPa", values=_column("max_stress", 1 / GPA), scale="log")
VOLUME = Quantity(name="cell volume (vacuum included) per atom", unit="Å³", values=_column("volume_per_atom"), scale="log")
NEIGHBORS = Quantity(name="neighbours per atom within 5 Å", unit="", values=_per_atom("edge_counts", 1))
CLOSEST = Quantity(name="closest contact ÷ sum of covalent radii", unit="", values=_column("closest"))


def sample_rows(n_rows: int, n: int, seed: int) -> np.ndarray:
    """(min(n, n_rows),) int64 different rows, ascending: a seeded random sample, or all."""
    if n >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, size=n, replace=False, shuffle=False))


def distributions(stores: Sequence[Store], quantity: Quantity, seed: int = 0) -> list[Distribution | None]:
    """One distribution per store over common bins; None for a store in which the quantity is nowhere defined.

    Args:
        stores: what is compared.
        quantity: of what.
        seed: of the sample behind quantiles and the range of the axis.
    """
    stores = [Store(store.path) for store in stores]  # maps of their own, which are given back before the next quantity
    samples = [_finite(quantity.values(store, sample_rows(len(store), SAMPLE, seed))) for store in stores]
    edges = bin_edges(samples, quantity.scale, quantity.linear_within)
    found: list[Distribution | None] = []
    for store, sample in zip(stores, samples, strict=True):
        parts = (_finite(quantity.values(store, slice(first, last))) for first, last in chunks(len(store)))
        found.append(_count(parts, edges, sample, quantity.scale == "log"))
    return found


def distribution_of(values: np.ndarray) -> Distribution | None:
    """The same of numbers that are in memory, on a linear axis of their own."""
    finite = _finite(values)
    return _count([finite], bin_edges([finite]), finite, False)


def bin_edges(samples: Sequence[np.ndarray], scale: str = "linear", linear_within: float = 1.0) -> np.ndarray:
    """(n_bins + 1,) from the smallest to the largest of the samples, without the outermost 0.2 % of each.

    Args:
        samples: per store (n,) finite numbers.
        scale: `log`: bins of equal ratio, only positive numbers count; `asinh`: equal in asinh(x / linear_within).
        linear_within: unit of the quantity.
    """
    used = [sample[sample > 0] if scale == "log" else sample for sample in samples]
    ends = np.array([np.quantile(sample, [_BEYOND, 1 - _BEYOND]) for sample in used if len(sample)]).reshape(-1, 2)
    if len(ends) == 0:
        return np.linspace(0.0, 1.0, N_BINS + 1)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if scale == "log":
        low = max(low, high / _LONGEST_LOG)
        return np.geomspace(low / 1.2, high * 1.2, N_BINS + 1)
    if scale == "asinh":
        ends = np.arcsinh(np.array([low, high]) / linear_within)
        return linear_within * np.sinh(np.linspace(ends[0] - 0.1, ends[1] + 0.1, N_BINS + 1))
    if all((sample == np.round(sample)).all() for sample in used):  # whole numbers: no bin may hold more of them than another
        step = max(1, int(np.ceil((high - low + 1) / N_BINS)))
        return np.arange(np.floor(low) - 0.5, high + step, step)
    margin = 0.03 * (high - low) or max(1e-3, 0.01 * abs(low))
    return np.linspace(low - margin, high + margin, N_BINS + 1)


def composition_residuals(store: Store, seed: int = 0) -> tuple[np.ndarray, str]:
    """What one energy per element leaves of the energies, and how well that regression is determined.

    Returns:
        (n,) eV/atom over a sample of the structures with an energy, and a sentence on the fit ("" without energies).
    """
    store = Store(store.path)  # maps of its own, as above
    rows = sample_rows(len(store), SAMPLE, seed)
    regression = CompositionRegression()
    for counts, energies in labelled_compositions(store, rows):
        regression.add(counts, energies)
    if regression.n_frames == 0:
        return np.empty(0), ""
    fit = regression.solve()
    residuals = [(e - counts @ fit.values) / counts.sum(axis=1) for counts, e in labelled_compositions(store, rows)]
    return np.concatenate(residuals), fit.sentence()


def structures_per_element(store: Store) -> np.ndarray:
    """(119,) int64 structures that contain each element."""
    items = store.composition_elements  # one item per structure and element
    found = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
    for first, last in chunks(len(items), 1 << 22):
        found += np.bincount(items[first:last], minlength=MAX_ATOMIC_NUMBER + 1)
    return found


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _count(parts: Iterable[np.ndarray], edges: np.ndarray, sample: np.ndarray, logarithmic: bool) -> Distribution | None:
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    n = n_zero = n_below = n_above = 0
    smallest, largest = np.inf, -np.inf
    for part in parts:
        if len(part) == 0:
            continue
        n += len(part)
        smallest, largest = min(smallest, float(part.min())), max(largest, float(part.max()))
        if logarithmic:
            n_zero += int((part == 0).sum())
            part = part[part != 0]
        n_below += int((part < edges[0]).sum())
        n_above += int((part > edges[-1]).sum())
        counts += np.histogram(part, edges)[0]
    if n == 0:
        return None
    quantiles = tuple(float(q) for q in np.quantile(sample, _QUANTILES)) if len(sample) else (np.nan,) * 3
    return Distribution(
        edges=edges,
        counts=counts,
        n=n,
        n_zero=n_zero,
        n_below=n_below,
        n_above=n_above,
        smallest=smallest,
        largest=largest,
        quantiles=quantiles,
    )
