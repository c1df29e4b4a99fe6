"""Near-identical frames of a stream, and the work of forces and stress between them, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from unipot.structure import Structure

_MAX_STRAIN = 0.06  # largest component between two frames; the error of the trapezoid rule grows with its cube
_MAX_DISPLACEMENT = 0.25  # Å
#: frames of the same atoms that a new one is compared with
KEPT_PER_COMPOSITION = 8
#: eV/atom of disagreement that is put down to convergence of the calculations
_NOISE = 5e-4
#: for each of the true yz, xz, xy which of the three that were read holds it, where six numbers were read in another order than they have
OTHER_ORDERS = tuple(permutations(range(3)))[1:]


@dataclass(eq=False)
class Frame:
    """One structure of a window.

    Attributes:
        structure: with energy and forces or stress.
        fractional: (n_atoms, 3) positions in units of the cell; empty unless all axes are periodic.
        agreeing, disagreeing: pairs it has been in so far.
        worst: largest disagreement of a pair, see `Pair.disagreement`.
    """

    structure: Structure
    fractional: np.ndarray
    agreeing: int = 0
    disagreeing: int = 0
    worst: float = 0.0

    @classmethod
    def of(cls, structure: Structure) -> Frame:
        periodic = structure.pbc.all()
        return cls(structure, structure.positions @ np.linalg.inv(structure.cell) if periodic else np.empty((0, 3)))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The way from an earlier frame to a later one.

    Attributes:
        energy: eV, change of the energy label.
        of_forces, of_stress: eV, work by the trapezoid rule; 0 where nothing moved or strained.
        of_other_orders: eV, of the stress if its shears were read in the wrong order, for each of `OTHER_ORDERS`.
        n_atoms: of the structure.
        uncertainty: eV, what the trapezoid rule and convergence may miss: half the work of the change of the labels, and
            0.5 meV/atom.
    """

    energy: float
    of_forces: float
    of_stress: float
    of_other_orders: tuple[float, ...]
    n_atoms: int
    uncertainty: float

    @property
    def disagreement(self) -> float:
        """|dE − work| ÷ uncertainty; below 1 nearly always where labels are right."""
        return abs(self.energy - self.of_forces - self.of_stress) / self.uncertainty


@dataclass(eq=False)
class Window:
    """The latest frames of one list of atoms.

    Attributes:
        frames: newest last.
    """

    frames: list[Frame] = field(default_factory=list)

    def add(self, structure: Structure) -> tuple[list[tuple[Frame, Frame, Pair]], list[Frame]]:
        """Pairs that the new frame makes, and frames that have left the window."""
        new = Frame.of(structure)
        pairs = list(_pairs(self.frames, new))
        self.frames.append(new)
        gone = self.frames[:-KEPT_PER_COMPOSITION]
        self.frames = self.frames[-KEPT_PER_COMPOSITION:]
        return pairs, gone


def _pairs(frames: list[Frame], new: Frame) -> Iterator[tuple[Frame, Frame, Pair]]:
    if not frames:
        return
    periodic = bool(new.structure.pbc.all())
    cells = np.stack([frame.structure.cell for frame in frames])
    if periodic:
        strains = np.linalg.solve(cells, np.broadcast_to(new.structure.cell, cells.shape)) - np.eye(3)
        near = np.flatnonzero(np.abs(strains).max(axis=(1, 2)) <= _MAX_STRAIN)
    else:
        near = np.flatnonzero(np.abs(cells - new.structure.cell).max(axis=(1, 2)) <= 1e-6)
    if len(near) == 0:
        return
    chosen = [frames[k] for k in near]
    # in the frame halfway between both cells, where the trapezoid rule is of second order
    middle = 0.5 * (cells[near] + new.structure.cell)
    if periodic:
        fractional = new.fractional - np.stack([frame.fractional for frame in chosen])
        shifts = (fractional - np.round(fractional)) @ middle
    else:
        shifts = new.structure.positions - np.stack([frame.structure.positions for frame in chosen])
    if not new.structure.fixed.any():
        # a rigid translation does no work, forces that do not sum to zero would; fixed atoms pin the frame already
        shifts = shifts - shifts.mean(axis=1, keepdims=True)
    close = np.flatnonzero(np.einsum("kac,kac->ka", shifts, shifts).max(axis=1) <= _MAX_DISPLACEMENT**2)
    for k in close.tolist():
        pair = _pair(chosen[k].structure, new.structure, shifts[k], middle[k], periodic)
        if pair is not None:
            yield chosen[k], new, pair


def _pair(a: Structure, b: Structure, shift: np.ndarray, middle: np.ndarray, periodic: bool) -> Pair | None:
    strain = np.linalg.solve(middle, b.cell - a.cell) if periodic else np.zeros((3, 3))
    moved, strained = np.abs(shift).max() > 1e-6, np.abs(strain).max() > 1e-7
    if not (moved or strained) or (strained and not ("stress" in a.labels and "stress" in b.labels)):
        return None
    if moved and not ("forces" in a.labels and "forces" in b.labels):
        return None
    of_forces = of_stress = change = 0.0
    others = (0.0,) * len(OTHER_ORDERS)
    if moved:
        first, last = a.labels["forces"], b.labels["forces"]
        of_forces = -0.5 * float(np.sum((first + last) * shift))
        change += 0.5 * float(np.sum(np.linalg.norm(last - first, axis=1) * np.linalg.norm(shift, axis=1)))
    if strained:
        symmetric = 0.5 * (strain + strain.T)
        first, last = a.volume * a.labels["stress"], b.volume * b.labels["stress"]
        of_stress = 0.5 * float(np.sum((first + last) * symmetric))
        others = _of_other_orders(0.5 * (first + last), symmetric)
        change += 0.5 * float(np.sum(np.abs((last - first) * symmetric)))
    energy = float(b.labels["energy"] - a.labels["energy"])
    return Pair(
        energy=energy,
        of_forces=of_forces,
        of_stress=of_stress,
        of_other_orders=others,
        n_atoms=a.n_atoms,
        uncertainty=change + _NOISE * a.n_atoms,
    )


def _of_other_orders(virial: np.ndarray, strain: np.ndarray) -> tuple[float, ...]:
    """eV, work of a virial (3, 3) on a strain (3, 3), its shears exchanged as each of `OTHER_ORDERS` says."""
    rows, columns = (1, 0, 0), (2, 2, 1)
    shears, strains = virial[rows, columns], strain[rows, columns]
    straight = float(np.diag(virial) @ np.diag(strain))
    return tuple(straight + 2 * float(shears[list(order)] @ strains) for order in OTHER_ORDERS)
