"""`CoreRepulsion`: screened nuclear repulsion between atoms far closer than any bond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.structure import SYMBOLS
from unipot.units import BOHR, HARTREE

#: eV Å, of two elementary charges
COULOMB = HARTREE * BOHR
#: (coefficient, exponent) of the universal screening function
#: (Ziegler, Biersack & Littmark, The Stopping and Range of Ions in Solids, 1985)
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
#: Å and 1; screening length a = SCREENING_LENGTH / (Z_i^POWER + Z_j^POWER), 0.8854 Bohr radii (ibid.)
SCREENING_LENGTH, SCREENING_POWER = 0.46850, 0.23
#: full repulsion below this part of the distance at which it ends
FULL_BELOW = 0.5
#: of the sum of covalent radii. Equilibrium bonds lie above 0.65, but for strong multiple ones of metals (Cr dimers
#: 0.58) and matter under pressure (down to 0.44): pairs that training data have that close end their repulsion there.
#: With 0.55 and no such list molybdenum at 6000 K fell into a hole of the potential at 0.47 of the sum after 10.6 ps,
#: where no data are; its data begin at 0.61
DEFAULT_REACH = 0.65
#: Å; closest distances are rounded down to it, so that the pair they are from does not feel the repulsion
STEP = 1e-3


class CoreRepulsion(nn.Module):
    """Ziegler–Biersack–Littmark repulsion that ends smoothly at `reach` times the sum of the covalent radii, or where data begin.

    E = ½ Σ_ij s(r_ij) · k Z_i Z_j / r_ij · φ(r_ij / a_ij), with a switch s of three continuous derivatives that is 1 up
    to half of the end distance R_ij and 0 from R_ij on (or from the cutoff on, if that is shorter). R_ij is reach ·
    (c_i + c_j), or the shortest distance of such a pair in the training data where that is shorter. Both factors fall
    with the distance, so every pair repels at every distance below R_ij. It has no parameters, is the same for every
    head, and is evaluated in float64 for the few pairs that are that close, usually none: training data, and references
    and scales fitted to them, do not see it.

    Args:
        reach: of the sum of covalent radii (Cordero et al. 2008, as in ASE), above 0 and at most 1.
        closest: pair of elements, as `O-Cr` with the lighter first -> Å, shortest distance in training data; longer
            ones than `reach` gives change nothing and are not kept.

    Raises:
        ValueError: `reach` is outside its range, or a pair or distance makes no sense.

    Example:
        >>> from unipot.batch import collate
        >>> from unipot.structure import Structure
        >>> pair = lambda d: collate([Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, d]])], cutoff=5.0)
        >>> core = CoreRepulsion()
        >>> [round(float(core(batch, edge_lengths(batch), 5.0).sum()), 2) for batch in (pair(0.1), pair(0.4), pair(0.75))]
        [669.21, 51.0, 0.0]
    """

    def __init__(self, reach: float = DEFAULT_REACH, closest: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if isinstance(reach, bool) or not 0 < reach <= 1:
            raise InputError(f"core_repulsion is {reach}; give the fraction of the sum of covalent radii where it ends, as 0.65, or null")
        self.reach = float(reach)
        closest = {} if closest is None else closest
        if not isinstance(closest, Mapping):
            raise InputError(f"core_repulsion: closest is {closest!r}; give distances by pair of elements, as {{'Mo-Mo': 1.88}}")
        ends, self.closest = end_distances(self.reach, (), torch.device("cpu")), dict[str, float]()
        for pair, distance in sorted(closest.items()):
            if isinstance(distance, bool) or not isinstance(distance, int | float) or not distance > 0:
                raise InputError(f"core_repulsion: the closest distance of {pair} is {distance!r}; give one above 0, in Å")
            if distance < float(ends[elements_of_pair(pair)]):
                self.closest[pair] = float(distance)

    def admitting(self, closest: Mapping[tuple[int, int], float]) -> CoreRepulsion:
        """The same, ending where these data begin as well.

        Args:
            closest: atomic numbers of a pair -> Å, shortest distance in the data.
        """
        merged = dict(self.closest)
        for (first, second), distance in closest.items():
            pair = "-".join(SYMBOLS[z] for z in sorted((first, second)))
            merged[pair] = min(merged.get(pair, math.inf), math.floor(distance / STEP) * STEP)
        return CoreRepulsion(self.reach, {pair: round(distance, 6) for pair, distance in merged.items()})

    def forward(self, batch: AtomBatch, lengths: Tensor, cutoff: float) -> Tensor:
        """(n_atoms,) eV, float64: half of the repulsion of each pair on each of its atoms.

        Args:
            batch: positions and cell carry the autograd graph.
            lengths: (n_edges,) Å of its edges, from `edge_lengths`.
            cutoff: Å, of the model; the batch may hold longer edges.
        """
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=batch.positions.device)
        close, end = self.close_pairs(batch, lengths, cutoff)
        if len(close) == 0:
            return energies
        centre, neighbor = batch.edge_index[:, close]
        distance = torch.linalg.vector_norm(edge_vectors(batch, close).double(), dim=1)
        charges = batch.atomic_numbers.double()
        pair = repulsion(distance, charges[centre], charges[neighbor]) * switch(distance / end)
        return energies.index_add(0, centre, 0.5 * pair)

    def close_pairs(self, batch: AtomBatch, lengths: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
        """Positions of the edges that feel it, and the distance (Å, float64) at which it ends for each; see `forward`."""
        ends = end_distances(self.reach, tuple(self.closest.items()), lengths.device)
        end = ends[batch.atomic_numbers[batch.edge_index[0]], batch.atomic_numbers[batch.edge_index[1]]].clamp(max=cutoff)
        close = torch.nonzero(lengths < end)[:, 0]
        return close, end[close]

    def describe(self) -> dict[str, Any]:
        """JSON-able constructor arguments; without close pairs as in the first cards that had a repulsion."""
        return {"reach": self.reach, **({"closest": self.closest} if self.closest else {})}


def repulsion(distance: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """k Z_i Z_j φ(r/a) / r in eV, of distances in Å and nuclear charges."""
    x = distance * (first**SCREENING_POWER + second**SCREENING_POWER) / SCREENING_LENGTH
    screening = sum(coefficient * torch.exp(-exponent * x) for coefficient, exponent in SCREENING)
    return COULOMB * first * second / distance * screening


def switch(x: Tensor) -> Tensor:
    """1 up to `FULL_BELOW`, 0 from 1 on, falling in between as 1 − 35t⁴ + 84t⁵ − 70t⁶ + 20t⁷: three continuous derivatives."""
    t = ((x - FULL_BELOW) / (1 - FULL_BELOW)).clamp(0.0, 1.0)
    return 1 + t**4 * (-35 + t * (84 + t * (-70 + 20 * t)))


def edge_vectors(batch: AtomBatch, edges: Tensor | None = None) -> Tensor:
    """(n_edges, 3) Å, r_ij of all edges or of those at the positions `edges`."""
    centre, neighbor = batch.edge_index if edges is None else batch.edge_index[:, edges]
    vectors = batch.positions.index_select(0, neighbor) - batch.positions.index_select(0, centre)
    if bool(batch.pbc.any()):
        shifts = batch.cell_shifts if edges is None else batch.cell_shifts[edges]
        cells = batch.cell.index_select(0, batch.structure_index[centre])
        vectors = vectors + torch.einsum("ea,eab->eb", shifts, cells)
    return vectors


def edge_lengths(batch: AtomBatch) -> Tensor:
    """(n_edges,) Å, outside the autograd graph."""
    with torch.no_grad():
        return torch.linalg.vector_norm(edge_vectors(batch), dim=1)


def elements_of_pair(pair: str) -> tuple[int, int]:
    """Atomic numbers of `O-Cr`.

    Raises:
        ValueError: it is not two symbols with the lighter element first.
    """
    numbers = [SYMBOLS.index(symbol) for symbol in pair.split("-") if symbol in SYMBOLS[1:]]
    if len(numbers) != 2 or pair.count("-") != 1 or numbers != sorted(numbers):
        raise InputError(f"core_repulsion: {pair!r} is not a pair of elements; write two symbols, the lighter element first, as O-Cr")
    return numbers[0], numbers[1]


@cache
def end_distances(reach: float, closest: tuple[tuple[str, float], ...], device: torch.device) -> Tensor:
    """(119, 119) Å, float64: where the repulsion of each pair of elements ends."""
    radii = reach * covalent_radii(torch.device("cpu"))
    ends = radii[:, None] + radii[None, :]
    for pair, distance in closest:
        first, second = elements_of_pair(pair)
        ends[first, second] = ends[second, first] = distance
    return ends.to(device)


@cache
def covalent_radii(device: torch.device) -> Tensor:
    """(119,) Å, float64, Cordero et al. 2008; elements beyond curium, which have none, take that of curium."""
    from ase.data import covalent_radii as radii

    table = torch.tensor(radii[:119], dtype=torch.float64)
    table[97:] = table[96]
    return table.to(device)
