"""`AtomBatch`: many structures as one set of concatenated tensors, and `Predictions`, what a potential returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from unipot.errors import InputError, UnknownName
from unipot.neighbors import batch_neighbor_list
from unipot.neighbors.device import device_neighbor_list
from unipot.neighbors.near_origin import Moved, near_origin
from unipot.properties import PROPERTIES
from unipot.structure import Structure

#: dtypes in which a neighbour list writes its offsets at once
SHIFT_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True, kw_only=True)
class AtomBatch:
    """Structures side by side, ready for a potential. Nothing that reads a batch may write to it.

    Attributes:
        atomic_numbers: (n_atoms,) int64.
        positions: (n_atoms, 3) Å; those of a float32 batch are moved near the origin first, see `unipot.neighbors.near_origin`.
        cell: (n_structures, 3, 3) Å, rows are lattice vectors.
        pbc: (n_structures, 3) bool.
        structure_index: (n_atoms,) int64, the structure an atom belongs to, ascending.
        n_atoms_per_structure: (n_structures,) int64.
        head_index: (n_structures,) int64, position in `HeadBank.names` of the head that evaluates the structure.
        edge_index: (2, n_edges) int64, row 0 centre i, row 1 neighbour j, sorted by i.
        cell_shifts: (n_edges, 3) in the dtype of positions; r_ij = R_j + S·cell − R_i.
        total_charge: (n_structures,) |e|.
        spin_multiplicity: (n_structures,) int64, 0 where not stated.
        fixed: (n_atoms,) bool.
        labels: property name -> tensor; energies and scalar properties (n_structures,) are always float64, the rest has the
            dtype of positions. Missing entries are zero and masked.
        label_mask: property name -> (n_structures,) bool, True where the label is there.
        dataset_index: (n_structures,) int64, which dataset of a mixture a structure came from.
        ids: structure ids, for messages.
        cutoff: Å, of `edge_index`.
    """

    atomic_numbers: Tensor
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    structure_index: Tensor
    n_atoms_per_structure: Tensor
    head_index: Tensor
    edge_index: Tensor
    cell_shifts: Tensor
    total_charge: Tensor
    spin_multiplicity: Tensor
    fixed: Tensor
    dataset_index: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    label_mask: dict[str, Tensor] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    cutoff: float = 0.0

    @property
    def n_atoms(self) -> int:
        return self.atomic_numbers.shape[0]

    @property
    def n_structures(self) -> int:
        return self.n_atoms_per_structure.shape[0]

    @property
    def n_edges(self) -> int:
        return self.edge_index.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AtomBatch:
        """The same batch on another device (a new object)."""
        move = lambda value: _map_tensors(value, lambda t: t.to(device, non_blocking=non_blocking))  # noqa: E731
        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def pin_memory(self) -> AtomBatch:
        """The same batch in page-locked memory (a new object); called by `DataLoader(pin_memory=True)`."""
        return replace(self, **{f.name: _map_tensors(getattr(self, f.name), lambda t: t.pin_memory()) for f in fields(self)})

    def sum_over_atoms(self, per_atom: Tensor) -> Tensor:
        """(n_atoms, ...) -> (n_structures, ...) sums."""
        total = per_atom.new_zeros((self.n_structures, *per_atom.shape[1:]))
        return total.index_add(0, self.structure_index, per_atom)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a potential returns for a batch; a property that was not asked for is None.

    Attributes:
        energy: (n_structures,) eV, float64, total energy with references added.
        forces: (n_atoms, 3) eV/Å, −∂E/∂R.
        stress: (n_structures, 3, 3) eV/Å³, (1/V) ∂E/∂ε, zero for structures that are not periodic along all axes.
        members: name of a scalar property -> (n_structures, n_members) float64, what each member of its head predicts, in its unit;
            NaN for structures with an element that the head was not trained on. `predictions["gap"]` is the mean.
    """

    energy: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    members: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.members:
            return self.members[name].mean(dim=1)
        value = getattr(self, name, None) if name in PROPERTIES else None
        if value is None:
            raise UnknownName(f"property {name!r} was not predicted; ask the potential for it")
        return value


def collate(
    structures: Sequence[Structure],
    *,
    cutoff: float,
    head_index: Sequence[int] | None = None,
    dataset_index: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    engine: str = "auto",
) -> AtomBatch:
    """Concatenate structures and find their neighbours.

    Args:
        structures: at least one.
        cutoff: Å, of the neighbour list.
        head_index: per structure; 0 for all by default.
        dataset_index: per structure; 0 for all by default.
        dtype: of positions, cells and all labels but energies.
        engine: neighbour engine, see `unipot.neighbors`.

    Raises:
        ValueError: there are no structures, or an index has the wrong length.
    """
    if len(structures) == 0:
        raise InputError("a batch needs at least one structure")
    for name, index in (("head_index", head_index), ("dataset_index", dataset_index)):
        if index is not None and len(index) != len(structures):
            raise InputError(f"{name} has {len(index)} entries for {len(structures)} structures")
    n_atoms, positions = np.array([s.n_atoms for s in structures]), np.concatenate([s.positions for s in structures])
    cell, pbc = np.stack([s.cell for s in structures]), np.stack([s.pbc for s in structures])
    shift_dtype, names = SHIFT_DTYPES.get(dtype, np.int64), _names(structures)
    edges, shifts = batch_neighbor_list(positions, cell, pbc, n_atoms, cutoff, engine, shift_dtype=shift_dtype, names=names)
    moved = rounded_from(positions, cell, pbc, n_atoms, dtype)
    (labels, masks), zeros = _concatenated_labels(structures, dtype), [0] * len(structures)
    return AtomBatch(
        atomic_numbers=torch.from_numpy(np.concatenate([s.atomic_numbers for s in structures])),
        positions=torch.from_numpy(moved.positions).to(dtype),
        cell=torch.from_numpy(cell).to(dtype),
        pbc=torch.from_numpy(pbc),
        structure_index=torch.from_numpy(np.repeat(np.arange(len(structures)), n_atoms)),
        n_atoms_per_structure=torch.from_numpy(n_atoms),
        head_index=torch.as_tensor(zeros if head_index is None else head_index, dtype=torch.int64),
        edge_index=torch.from_numpy(edges),
        cell_shifts=torch.from_numpy(moved.shifts(edges, shifts)).to(dtype),  # a conversion only for dtypes that numpy does not have
        total_charge=torch.tensor([s.total_charge for s in structures], dtype=dtype),
        spin_multiplicity=torch.tensor([s.spin_multiplicity or 0 for s in structures], dtype=torch.int64),
        fixed=torch.from_numpy(np.concatenate([s.fixed for s in structures])),
        dataset_index=torch.as_tensor(zeros if dataset_index is None else dataset_index, dtype=torch.int64),
        labels=labels,
        label_mask=masks,
        ids=tuple(s.id for s in structures),
        cutoff=cutoff,
    )


def rounded_from(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, n_atoms: np.ndarray, dtype: torch.dtype) -> Moved:
    """What is rounded to `dtype`: the positions themselves in float64, else near the origin; see `near_origin` for the arguments."""
    return Moved(positions=positions) if dtype == torch.float64 else near_origin(positions, cell, pbc, n_atoms)


def with_neighbors(batch: AtomBatch, cutoff: float, engine: str = "auto") -> AtomBatch:
    """The same batch (a new object) with the neighbours within `cutoff`, found where the batch lies: by a compiled engine on
    the CPU, in torch on any other device.

    Distances are taken in float64 between the positions of the batch: those of a float32 batch are rounded, so pairs within
    about 1e-6 Å of the cutoff may differ from `collate`, which reads the positions before they are rounded.

    Args:
        batch: collated without neighbours, or with others, which are replaced.
        cutoff: Å.
        engine: for a batch on the CPU, see `unipot.neighbors`.

    Raises:
        ValueError: as `unipot.neighbors.batch_neighbor_list`.
    """
    if batch.positions.device.type == "cpu":
        arrays = [tensor.detach().numpy() for tensor in (batch.positions, batch.cell, batch.pbc, batch.n_atoms_per_structure)]
        names = (lambda k: f"structure {batch.ids[k]!r}") if batch.ids else None
        found = batch_neighbor_list(*arrays, cutoff, engine, shift_dtype=SHIFT_DTYPES.get(batch.positions.dtype, np.int64), names=names)
        edge_index, shifts = map(torch.from_numpy, found)
    else:
        edge_index, shifts = device_neighbor_list(batch.positions, batch.cell, batch.pbc, batch.n_atoms_per_structure, cutoff)
    return replace(batch, edge_index=edge_index, cell_shifts=shifts.to(batch.positions.dtype), cutoff=float(cutoff))


def _names(structures: Sequence[Structure]) -> Callable[[int], str]:
    return lambda k: f"structure {structures[k].id!r} (number {k} of the batch)"


def _concatenated_labels(structures: Sequence[Structure], dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    labels: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, prop in PROPERTIES.items():
        mask = np.array([name in s.labels for s in structures])
        if not mask.any():
            continue
        rows = [s.labels[name] if name in s.labels else np.zeros(prop.label_shape(s.n_atoms)) for s in structures]
        stacked = np.concatenate(rows) if prop.per == "atom" else np.stack(rows)
        # total energies reach -1e5 eV, where float32 resolves 8 meV only
        labels[name] = torch.from_numpy(stacked).to(torch.float64 if name == "energy" else dtype)
        masks[name] = torch.from_numpy(mask)
    return labels, masks


def _map_tensors(value, function):  # type: ignore[no-untyped-def]
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: function(tensor) for key, tensor in value.items()}
    return value
