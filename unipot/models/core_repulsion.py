"""`CoreRepulsion`: screened nuclear repulsion between atoms far closer than any bond."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
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
#: of the sum of covalent radii. Of 12,418 real frames of 30 sets none feels it but 10 of 356 compressed ones of MatterSim (up to
#: 0.58 eV); the closest others are Cr dimers on slabs (0.58). Equilibrium bonds lie above 0.75, strong multiple ones of metals excepted.
#: Hot metals want more: with 0.55 molybdenum at 6000 K fell into a hole after 10.6 ps, with 0.65 and 0.7 it ran 20 ps at the same errors
DEFAULT_REACH = 0.55


class CoreRepulsion(nn.Module):
    """Ziegler–Biersack–Littmark repulsion that ends smoothly at `reach` times the sum of the covalent radii.

    E = ½ Σ_ij s(r_ij) · k Z_i Z_j / r_ij · φ(r_ij / a_ij), with a switch s of three continuous derivatives that is 1 up to
    half of the end distance R_ij = reach · (c_i + c_j) and 0 from R_ij on (or from the cutoff on, if that is shorter). Both
    factors fall with the distance, so every pair repels at every distance below R_ij. It has no parameters, is the same
    for every head, and is evaluated in float64 for the few pairs that are that close, usually none: training data without
    such pairs, and references and scales fitted to them, do not see it.

    Args:
        reach: of the sum of covalent radii (Cordero et al. 2008, as in ASE), above 0 and at most 1.

    Raises:
        ValueError: `reach` is outside its range.

    Example:
        >>> from unipot.batch import collate
        >>> from unipot.structure import Structure
        >>> pair = lambda d: collate([Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, d]])], cutoff=5.0)
        >>> core = CoreRepulsion()
        >>> [round(float(core(batch, edge_lengths(batch), 5.0).sum()), 2) for batch in (pair(0.1), pair(0.4), pair(0.75))]
        [669.21, 28.06, 0.0]
    """

    def __init__(self, reach: float = DEFAULT_REACH) -> None:
        super().__init__()
        if isinstance(reach, bool) or not 0 < reach <= 1:
            raise ValueError(f"core_repulsion is {reach}; give the fraction of the sum of covalent radii where it ends, as 0.55, or null")
        self.reach = float(reach)

    def forward(self, batch: AtomBatch, lengths: Tensor, cutoff: float) -> Tensor:
        """(n_atoms,) eV, float64: half of the repulsion of each pair on each of its atoms.

        Args:
            batch: positions and cell carry the autograd graph.
            lengths: (n_edges,) Å of its edges, from `edge_lengths`.
            cutoff: Å, of the model; the batch may hold longer edges.
        """
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=batch.positions.device)
        centre, neighbor = batch.edge_index
        end_of_atom = self.reach * covalent_radii(lengths.device)[batch.atomic_numbers]
        end = (end_of_atom[centre] + end_of_atom[neighbor]).clamp(max=cutoff)
        close = torch.nonzero(lengths < end)[:, 0]
        if len(close) == 0:
            return energies
        centre, neighbor = centre[close], neighbor[close]
        distance = torch.linalg.vector_norm(edge_vectors(batch, close).double(), dim=1)
        charges = batch.atomic_numbers.double()
        pair = repulsion(distance, charges[centre], charges[neighbor]) * switch(distance / end[close])
        return energies.index_add(0, centre, 0.5 * pair)

    def describe(self) -> dict[str, Any]:
        """JSON-able constructor arguments."""
        return {"reach": self.reach}


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


@cache
def covalent_radii(device: torch.device) -> Tensor:
    """(119,) Å, float64, Cordero et al. 2008; elements beyond curium, which have none, take that of curium."""
    from ase.data import covalent_radii as radii

    table = torch.tensor(radii[:119], dtype=torch.float64)
    table[97:] = table[96]
    return table.to(device)
