"""Neighbour lists of a structure that moves: made with a skin around the cutoff and kept until an atom could have crossed it.

Between two builds let F be the homogeneous deformation of the periodic lattice vectors and u_i = R_i − R_i⁰F what atom i moved
beside it. Then r_ij⁰ = (r_ij − (u_j − u_i)) F⁻¹, so every pair within the cutoff now was within (cutoff + |u_i| + |u_j|)·‖F⁻¹‖₂
then, whatever its lattice offset. The list is kept while that is at most cutoff + skin for the two atoms that moved most, and
pairs beyond the cutoff are left out by the comparison that the engines make: what comes out is, order included, what a fresh
list holds (Verlet 1967, Phys. Rev. 159, 98, with the cell accounted for).
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from unipot.errors import InputError
from unipot.neighbors import limits
from unipot.neighbors.batched import batch_neighbor_list
from unipot.neighbors.device import device_neighbor_list
from unipot.neighbors.engines import Edges, default_engine

#: Å; of the skin, kept back so that rounding in displacements and distances cannot lose a pair
_ROUNDING = 1e-6


class VerletList:
    """Neighbour list of one structure on the CPU.

    Args:
        cutoff: Å, positive.
        skin: Å, not negative; 0 makes a new list for every geometry.
        engine: that finds the pairs, see `unipot.neighbors`.
        shift_dtype: of cell_shifts.

    Attributes:
        n_builds: lists made so far.
        n_uses: geometries whose pairs were given.

    Raises:
        ValueError: cutoff or skin is out of range.

    Example:
        >>> moving = VerletList(cutoff=2.0, skin=0.5)
        >>> cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
        >>> [moving.pairs(np.array([[0.0, 0, 0], [0, 0, z]]), cell, pbc)[0].shape[1] for z in (2.2, 2.1, 1.9)]
        [0, 0, 2]
        >>> moving.n_builds
        1
    """

    def __init__(self, cutoff: float, skin: float, *, engine: str = "auto", shift_dtype: type | np.dtype = np.float64) -> None:
        limits.check_cutoff(cutoff)
        check_skin(skin)
        self.cutoff, self.skin, self.engine, self.shift_dtype = float(cutoff), float(skin), engine, np.dtype(shift_dtype)
        self.n_builds = self.n_uses = 0
        self._made: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # positions, lattice, pbc
        self._candidates: Edges = (np.empty((2, 0), np.int64), np.empty((0, 3)))

    def _holds(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether the present list has every pair within the cutoff; False where a number is not finite."""
        if self._made is None:
            return False
        before, lattice_before, pbc_before = self._made
        if positions.shape != before.shape or not np.array_equal(pbc, pbc_before):
            return False
        lattice = np.where(pbc[:, None], cell, 0.0)
        deformed, growth = before, 1.0
        if not np.array_equal(lattice, lattice_before):
            if not np.isfinite(lattice).all():
                return False
            deformation = np.eye(3) + np.linalg.pinv(lattice_before) @ (lattice - lattice_before)
            smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
            if not smallest > 0.1:  # nothing that this list was made for
                return False
            deformed, growth = before @ deformation, 1 / smallest
        moved = positions - deformed
        if not np.isfinite(moved).all():
            return False
        moved -= moved.mean(axis=0)  # only differences count
        lengths = np.sqrt(np.einsum("ac,ac->a", moved, moved))
        farthest = float(lengths.max() + np.partition(lengths, -2)[-2]) if len(lengths) > 1 else float(lengths.sum())
        return (self.cutoff + farthest) * growth <= self.cutoff + self.skin - _ROUNDING

    def pairs(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, name: str = "structure") -> Edges:
        """All pairs within the cutoff, as `unipot.neighbors.neighbor_list` gives them.

        Args:
            positions: (n_atoms, 3) Å.
            cell: (3, 3) Å.
            pbc: (3,) bool.
            name: what messages call the structure.

        Returns:
            edge_index (2, n_edges) int64 and cell_shifts (n_edges, 3), new arrays each time.

        Raises:
            ValueError: see `unipot.neighbors.neighbor_list`.
        """
        found = self.kept_pairs(positions, cell, pbc)
        if found is None:
            self._build(*_contiguous(positions, cell, pbc), name)
            self.n_uses += 1
            found = self._near(*_contiguous(positions, cell, pbc))
        return found

    def kept_pairs(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Edges | None:
        """The same from the present list, None where a new one has to be made."""
        arrays = _contiguous(positions, cell, pbc)
        if not self._holds(*arrays):
            return None
        self.n_uses += 1
        return self._near(*arrays)

    def _near(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Edges:
        """The candidates within the cutoff."""
        lattice = np.where(pbc[:, None], cell, 0.0)
        edges, shifts = self._candidates
        if self._compiled:
            kept = np.empty(edges.shape[1], np.int64)
            n_kept = _kernels().near_pairs(positions, lattice, edges, shifts, self.cutoff**2, kept)
            found = np.empty((2, n_kept), np.int64), np.empty((n_kept, 3), shifts.dtype)
            _kernels().take_pairs(edges, shifts, kept, *found)
            return found
        vectors = positions[edges[1]] - positions[edges[0]]
        for k in range(3):  # in the order in which the compiled engine adds
            vectors = vectors + shifts[:, k, None] * lattice[k]
        near = vectors[:, 0] * vectors[:, 0] + vectors[:, 1] * vectors[:, 1] + vectors[:, 2] * vectors[:, 2] < self.cutoff**2
        return edges[:, near], shifts[near]

    def _build(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, name: str) -> None:
        reach, alone = self.cutoff + self.skin, np.array([len(positions)])
        self._made = None
        self._candidates = batch_neighbor_list(
            positions, cell[None], pbc[None], alone, reach, self.engine, shift_dtype=self.shift_dtype, names=lambda k: name
        )
        self._made = positions.copy(), np.where(pbc[:, None], cell, 0.0), pbc.copy()
        self.n_builds += 1

    @property
    def _compiled(self) -> bool:
        engine = default_engine() if self.engine == "auto" else self.engine
        return engine == "numba" and self.shift_dtype in (np.float32, np.float64)


class DeviceVerletList:
    """The same for a structure whose positions are on a device: displacements, pairs and comparison stay there.

    One number travels to the host for the decision and one for the size of the result.

    Args:
        cutoff: Å, positive.
        skin: Å, not negative.

    Attributes:
        n_builds: lists made so far.
        n_uses: geometries whose pairs were given.

    Raises:
        ValueError: cutoff or skin is out of range.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        limits.check_cutoff(cutoff)
        check_skin(skin)
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.n_builds = self.n_uses = 0
        self._made: tuple[Tensor, Tensor, Tensor] | None = None
        self._candidates: tuple[Tensor, Tensor] | None = None

    def _holds(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> bool:
        """Whether the present list has every pair within the cutoff; see `VerletList`."""
        if self._made is None or positions.shape != self._made[0].shape or positions.device != self._made[0].device:
            return False
        before, inverse_before, lattice_before = self._made
        lattice = torch.where(pbc[:, None], cell, 0.0)
        change = inverse_before @ (lattice - lattice_before)  # F − 1
        smallest = 1 - torch.linalg.matrix_norm(change)  # at most 1 / ‖F⁻¹‖₂, without a decomposition
        moved = positions - before - before @ change
        lengths = torch.linalg.vector_norm(moved - moved.mean(dim=0), dim=1)
        farthest = torch.topk(lengths, min(2, len(lengths))).values.sum()
        room = self.cutoff + self.skin - _ROUNDING
        periodic = (inverse_before.abs().amax(dim=0) > 0) == pbc
        # comparisons with numbers that are not finite are false
        return bool((smallest > 0.1) & ((self.cutoff + farthest) <= room * smallest) & periodic.all())

    def pairs(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs within the cutoff, as `device_neighbor_list` gives them.

        Args:
            positions: (n_atoms, 3) Å, float64.
            cell: (3, 3) Å, float64.
            pbc: (3,) bool.

        Returns:
            edge_index (2, n_edges) int64, cell_shifts (n_edges, 3) float64.

        Raises:
            ValueError: see `device_neighbor_list`.
        """
        found = self.kept_pairs(positions, cell, pbc)
        if found is None:
            positions, cell = positions.detach().double(), cell.detach().double()
            self._build(positions, cell, pbc)
            self.n_uses += 1
            found = self._near(positions, cell, pbc)
        return found

    def kept_pairs(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor] | None:
        """The same from the present list, None where a new one has to be made."""
        positions, cell = positions.detach().double(), cell.detach().double()
        if not self._holds(positions, cell, pbc):
            return None
        self.n_uses += 1
        return self._near(positions, cell, pbc)

    def _build(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> None:
        self._made = None
        alone, lattice = torch.tensor([len(positions)], device=positions.device), torch.where(pbc[:, None], cell, 0.0)
        edges, shifts = device_neighbor_list(positions, cell[None], pbc[None], alone, self.cutoff + self.skin)
        self._candidates = edges, shifts.to(positions.dtype)
        self._made = positions.clone(), torch.linalg.pinv(lattice), lattice
        self.n_builds += 1

    def _near(self, positions: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates within the cutoff."""
        assert self._candidates is not None
        edges, shifts = self._candidates
        lattice = torch.where(pbc[:, None], cell, 0.0)
        vectors = positions.index_select(0, edges[1]) - positions.index_select(0, edges[0])
        for k in range(3):  # in the order in which the engines add
            vectors = vectors + shifts[:, k, None] * lattice[k]
        squared = vectors[:, 0] * vectors[:, 0] + vectors[:, 1] * vectors[:, 1] + vectors[:, 2] * vectors[:, 2]
        near = (squared < self.cutoff * self.cutoff).nonzero()[:, 0]
        return edges[:, near], shifts[near]


def _contiguous(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.ascontiguousarray(positions, np.float64), np.ascontiguousarray(cell, np.float64), np.ascontiguousarray(pbc, np.bool_)


def check_skin(skin: float) -> None:
    """Raises:
    ValueError: the skin is negative or not finite.
    """
    if not 0 <= skin < np.inf:
        raise InputError(f"skin is {skin}; it must be a length in Å, 0 or more")


@cache
def _kernels() -> ModuleType:
    """The compiled comparison; imported when first needed, as it may have to be compiled."""
    from unipot.neighbors import compiled_skin

    return compiled_skin
