"""`MovingBatch`: the batch of a structure that moves, of which only positions, cell and neighbours are made again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unipot.batch import SHIFT_DTYPES, AtomBatch, collate
from unipot.neighbors.near_origin import NEAR, near_origin
from unipot.neighbors.verlet import DeviceVerletList, VerletList
from unipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


class MovingBatch:
    """Batches of one structure, each equal to what `collate` would make of it, with a neighbour list that has a skin.

    Args:
        cutoff: Å.
        skin: Å, see `unipot.neighbors.verlet`.
        head_index: of the structure.
        dtype: of positions and cell.
        device: of the batch; neighbours are found there.

    Attributes:
        neighbors: the list, with the numbers of its uses and builds.

    Raises:
        ValueError: cutoff or skin is out of range.

    Example:
        >>> from ase.build import molecule
        >>> atoms, moving = molecule("H2O"), MovingBatch(cutoff=5.0, skin=0.5)
        >>> for _ in range(3):
        ...     batch = moving.known(atoms) or moving.new(atoms, Structure.from_ase(atoms))
        ...     atoms.rattle(0.01)
        >>> batch.n_edges, moving.neighbors.n_builds
        (6, 1)
    """

    def __init__(
        self,
        *,
        cutoff: float,
        skin: float,
        head_index: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.cutoff, self.skin, self.head_index = float(cutoff), float(skin), head_index
        self.dtype, self.device = dtype, torch.device(device)
        self.neighbors: VerletList | DeviceVerletList = (
            VerletList(cutoff, skin, shift_dtype=SHIFT_DTYPES.get(dtype, np.int64))
            if self.device.type == "cpu"
            else DeviceVerletList(cutoff, skin)
        )
        self._template: AtomBatch | None = None
        self._numbers, self._pbc = np.empty(0, np.int64), np.zeros(3, bool)

    def known(self, atoms: Atoms) -> AtomBatch | None:
        """The batch of `atoms`, or None where it has to be made with `new`.

        That is so if elements or periodic axes changed, or an atom or the cell moved too far for the list. Charge, spin
        and constraints are not looked at.
        """
        if self._template is None or not (np.array_equal(atoms.numbers, self._numbers) and np.array_equal(atoms.pbc, self._pbc)):
            return None
        arrays = self._arrays(atoms)
        found = self.neighbors.kept_pairs(*arrays)
        return None if found is None else self._batch(atoms, arrays, found)

    def new(self, atoms: Atoms, structure: Structure) -> AtomBatch:
        """The batch of `atoms`, from scratch.

        Args:
            atoms: of which positions and cell are read.
            structure: the same atoms, checked.

        Raises:
            ValueError: a number is not finite, the cell is flat, or the neighbours would not fit into memory.
        """
        self._template = self._without_neighbors(structure)
        self._numbers, self._pbc = np.array(atoms.numbers), np.array(atoms.pbc)
        arrays = self._arrays(atoms)
        if isinstance(self.neighbors, VerletList):
            return self._batch(atoms, arrays, self.neighbors.pairs(*arrays, name=f"structure {structure.id!r}"))
        return self._batch(atoms, arrays, self.neighbors.pairs(*arrays))

    def _batch(self, atoms: Atoms, arrays: tuple, found: tuple) -> AtomBatch:
        edge_index, shifts, positions, cell = (_tensor(array) for array in (*found, *arrays[:2]))
        assert self._template is not None
        positions, shifts = self._near_origin(atoms, edge_index, positions, shifts)
        return replace(
            self._template,
            positions=positions.to(self.dtype, copy=True),  # never a view of the caller's array
            cell=cell.to(self.dtype, copy=True)[None],
            edge_index=edge_index,
            cell_shifts=shifts.to(self.dtype),
        )

    def _near_origin(self, atoms: Atoms, edge_index: Tensor, positions: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """As in `collate`; decided on the host, where the atoms are."""
        if self.dtype == torch.float64 or not np.abs(atoms.positions).max() > NEAR:
            return positions, shifts
        geometry = np.asarray(atoms.positions, np.float64), np.asarray(atoms.cell.array, np.float64)[None]
        moved = near_origin(*geometry, self._pbc[None], np.array([len(atoms)]))
        if moved.wraps is not None:
            wraps = torch.from_numpy(moved.wraps).to(shifts)
            shifts = shifts + (wraps[edge_index[1]] - wraps[edge_index[0]])
        return torch.from_numpy(moved.positions).to(positions.device), shifts

    def _arrays(self, atoms: Atoms) -> tuple:
        """Positions, cell and pbc where neighbours are found, in float64: a pair is an edge by the unrounded positions."""
        arrays = atoms.positions, np.asarray(atoms.cell.array, np.float64), np.asarray(atoms.pbc, bool)
        return arrays if self.device.type == "cpu" else tuple(torch.as_tensor(array).to(self.device) for array in arrays)

    def _without_neighbors(self, structure: Structure) -> AtomBatch:
        lone = replace(structure, labels={})
        batch = collate([lone], cutoff=1e-6, head_index=[self.head_index], dtype=self.dtype)  # no two atoms are that close
        return replace(batch, cutoff=self.cutoff).to(self.device)


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)
