"""Records straight into a collated batch: headers, positions and labels of all structures are gathered at once.

The records of a batch are laid side by side and read as one array. Every number lies at a multiple of its size
(`unipot.data.storage.record`), so one gather per quantity serves structures of any size, of several stores and precisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unipot.batch import SHIFT_DTYPES, AtomBatch, rounded_from
from unipot.data.storage.record import (
    ATOM_LABELS,
    CELL_OFFSET,
    HAS_FIXED,
    HEADER_DTYPE,
    LABEL_BITS,
    LABELS_OFFSET,
    SINGLE_PRECISION,
    STRUCTURE_LABELS,
    label_size,
    record_length,
)
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.neighbors import batch_neighbor_list
from unipot.properties import PROPERTIES


def decode_batch(
    stores: Sequence[Store],
    draws: Sequence[tuple[int, int]],
    *,
    cutoff: float | None,
    head_index: Sequence[int] | None = None,
    dataset_index: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    engine: str = "auto",
) -> AtomBatch:
    """The batch that `collate` makes of the same structures, bit for bit, without making structures.

    Args:
        stores: where the records are.
        draws: (position in `stores`, position in that store) per structure, in the order of the batch.
        cutoff: Å, of the neighbour list; None leaves the edges out (`unipot.batch.with_neighbors` adds them later).
        head_index: per structure; 0 for all by default.
        dataset_index: per structure; 0 for all by default.
        dtype: of positions, cells and all labels but energies.
        engine: neighbour engine, see `unipot.neighbors`.

    Raises:
        ValueError: there are no draws, an index has the wrong length, or a record is damaged (store, shard and id are named).
    """
    _check_lengths(draws, head_index=head_index, dataset_index=dataset_index)
    which, rows = np.array(draws, dtype=np.int64).reshape(-1, 2).T
    fields, zeros = _Records(stores, which, rows), np.zeros(len(draws), dtype=np.int64)
    positions, cell = fields.positions(), fields.cells()
    if cutoff is None:
        edge_index, shifts = np.empty((2, 0), dtype=np.int64), np.empty((0, 3), dtype=np.int64)
    else:
        options = {"shift_dtype": SHIFT_DTYPES.get(dtype, np.int64), "names": lambda k: f"structure {fields.ids()[k]!r}"}
        edge_index, shifts = batch_neighbor_list(positions, cell, fields.pbc, fields.n_atoms, cutoff, engine, **options)
    moved = rounded_from(positions, cell, fields.pbc, fields.n_atoms, dtype)
    labels, masks = _with_scalars(*fields.labels(dtype), stores, which, rows)
    return AtomBatch(
        atomic_numbers=torch.from_numpy(fields.atomic_numbers()),
        positions=torch.from_numpy(moved.positions).to(dtype),
        cell=torch.from_numpy(cell).to(dtype),
        pbc=torch.from_numpy(fields.pbc),
        structure_index=torch.from_numpy(np.repeat(np.arange(len(draws)), fields.n_atoms)),
        n_atoms_per_structure=torch.from_numpy(fields.n_atoms),
        head_index=torch.as_tensor(zeros if head_index is None else head_index, dtype=torch.int64),
        edge_index=torch.from_numpy(edge_index),
        cell_shifts=torch.from_numpy(moved.shifts(edge_index, shifts)).to(dtype),
        total_charge=torch.from_numpy(fields.header["charge"].astype(np.float64)).to(dtype),
        spin_multiplicity=torch.from_numpy(fields.header["spin"].astype(np.int64)),
        fixed=torch.from_numpy(fields.fixed()),
        dataset_index=torch.as_tensor(zeros if dataset_index is None else dataset_index, dtype=torch.int64),
        labels=labels,
        label_mask=masks,
        ids=fields.ids(),
        cutoff=cutoff or 0.0,
    )


def _check_lengths(draws: Sequence[tuple[int, int]], **indices: Sequence[int] | None) -> None:
    if len(draws) == 0:
        raise InputError("a batch needs at least one structure")
    for name, index in indices.items():
        if index is not None and len(index) != len(draws):
            raise InputError(f"{name} has {len(index)} entries for {len(draws)} structures")


class _Records:
    """The records of one batch side by side.

    Args:
        stores: where they are.
        which: (n_structures,) position in `stores`.
        rows: (n_structures,) position in that store.
    """

    def __init__(self, stores: Sequence[Store], which: np.ndarray, rows: np.ndarray) -> None:
        records = _read_records(stores, which, rows)
        joined = b"".join(records)
        joined += bytes(-len(joined) % 8)  # damaged records only; sound ones are multiples of 8
        self._bytes = np.frombuffer(joined, dtype=np.uint8)
        self._float64, self._float32 = self._bytes.view("<f8"), self._bytes.view("<f4")
        self._text = joined
        lengths = np.fromiter(map(len, records), dtype=np.int64, count=len(records))
        self._starts = np.cumsum(lengths) - lengths
        if (lengths < HEADER_DTYPE.itemsize).any():
            self._refuse_damaged(stores, which, rows, lengths < HEADER_DTYPE.itemsize)
        self.header = self._bytes[self._starts[:, None] + _HEADER_BYTES].view(HEADER_DTYPE)[:, 0]
        self.n_atoms = self.header["n_atoms"].astype(np.int64)
        self._bits = self.header["label_bits"].astype(np.int64)
        self._flags = self.header["flags"].astype(np.int64)
        n_id, n_group = self.header["n_id"].astype(np.int64), self.header["n_group"].astype(np.int64)
        damaged = record_length(self.n_atoms, n_id, n_group, self._bits, self._flags) != lengths
        if damaged.any():
            self._refuse_damaged(stores, which, rows, damaged)
        self.pbc = (self._flags[:, None] >> np.arange(3) & 1).astype(bool)
        self._single = (self._flags & SINGLE_PRECISION) != 0
        self._all_double, self._all_single = not self._single.any(), bool(self._single.all())
        self._lay_out()

    def _lay_out(self) -> None:
        """Where each quantity of each record begins, in bytes."""
        offset = self._starts + LABELS_OFFSET
        self._label_at: dict[str, np.ndarray] = {}
        for name in STRUCTURE_LABELS:
            self._label_at[name] = offset
            offset = offset + (self._bits >> LABEL_BITS[name] & 1) * (8 * label_size(name))
        item = np.where(self._single, 4, 8)
        self._positions_at = offset
        offset = offset + self.n_atoms * 3 * item
        for name in ATOM_LABELS:
            self._label_at[name] = offset
            offset = offset + (self._bits >> LABEL_BITS[name] & 1) * self.n_atoms * label_size(name) * item
        self._numbers_at = offset
        self._fixed_at = offset + self.n_atoms
        self._ids_at = self._fixed_at + self.n_atoms * ((self._flags & HAS_FIXED) != 0)

    def cells(self) -> np.ndarray:
        """(n_structures, 3, 3) Å."""
        return self._float64[(self._starts[:, None] + CELL_OFFSET) // 8 + np.arange(9)].reshape(-1, 3, 3)

    def positions(self) -> np.ndarray:
        """(n_atoms, 3) Å."""
        return self._atom_rows(self._positions_at, self.n_atoms, 3).reshape(-1, 3)

    def atomic_numbers(self) -> np.ndarray:
        """(n_atoms,) int64."""
        return self._bytes[_ragged(self._numbers_at, self.n_atoms)].astype(np.int64)

    def fixed(self) -> np.ndarray:
        """(n_atoms,) bool."""
        stored = (self._flags & HAS_FIXED) != 0
        fixed = np.zeros(int(self.n_atoms.sum()), dtype=bool)
        if stored.any():
            fixed[np.repeat(stored, self.n_atoms)] = self._bytes[_ragged(self._fixed_at[stored], self.n_atoms[stored])].astype(bool)
        return fixed

    def ids(self) -> tuple[str, ...]:
        """Per structure."""
        ends = self._ids_at + self.header["n_id"]
        return tuple(self._text[a:b].decode() for a, b in zip(self._ids_at.tolist(), ends.tolist(), strict=True))

    def labels(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Labels with zeros where there is none, and masks; properties that nobody has are left out."""
        labels: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name in PROPERTIES:
            mask = (self._bits >> LABEL_BITS[name] & 1).astype(bool)
            if not mask.any():
                continue
            rows = self._label_rows(name, mask)
            # total energies reach -1e5 eV, where float32 resolves 8 meV only
            labels[name] = torch.from_numpy(rows).to(torch.float64 if name == "energy" else dtype)
            masks[name] = torch.from_numpy(mask)
        return labels, masks

    def _label_rows(self, name: str, mask: np.ndarray) -> np.ndarray:
        size, shape = label_size(name), PROPERTIES[name].shape
        if PROPERTIES[name].per == "atom":
            if mask.all():
                return self._atom_rows(self._label_at[name], self.n_atoms, size).reshape(-1, *shape)
            rows = np.zeros((int(self.n_atoms.sum()), *shape))
            own = self._atom_rows(self._label_at[name][mask], self.n_atoms[mask], size, self._single[mask])
            rows[np.repeat(mask, self.n_atoms)] = own.reshape(-1, *shape)
            return rows
        found = self._float64[self._label_at[name][mask][:, None] // 8 + np.arange(size)].reshape(-1, *shape)
        if mask.all():
            return found
        rows = np.zeros((len(mask), *shape))
        rows[mask] = found
        return rows

    def _atom_rows(self, at: np.ndarray, n_atoms: np.ndarray, size: int, single: np.ndarray | None = None) -> np.ndarray:
        """(Σ n_atoms · size,) float64 numbers that begin at byte `at` of each record."""
        counts = n_atoms * size
        if self._all_double:
            return self._float64[_ragged(at // 8, counts)]
        if self._all_single:
            return self._float32[_ragged(at // 4, counts)].astype(np.float64)
        single = self._single if single is None else single
        rows = np.empty(int(counts.sum()))
        of_single = np.repeat(single, counts)
        rows[of_single] = self._float32[_ragged(at[single] // 4, counts[single])]
        rows[~of_single] = self._float64[_ragged(at[~single] // 8, counts[~single])]
        return rows

    def _refuse_damaged(self, stores: Sequence[Store], which: np.ndarray, rows: np.ndarray, damaged: np.ndarray) -> None:
        k = int(np.flatnonzero(damaged)[0])
        raise stores[which[k]].unreadable(int(rows[k]), InputError("the record's length does not fit its header"))


_HEADER_BYTES = np.arange(HEADER_DTYPE.itemsize)


def _read_records(stores: Sequence[Store], which: np.ndarray, rows: np.ndarray) -> list[memoryview]:
    first = int(which[0])
    if (which == first).all():
        return stores[first].records(rows)
    records: list[memoryview] = [memoryview(b"")] * len(rows)
    for store in np.unique(which).tolist():
        own = np.flatnonzero(which == store)
        for k, record in zip(own.tolist(), stores[store].records(rows[own]), strict=True):
            records[k] = record
    return records


def _with_scalars(
    labels: dict[str, Tensor], masks: dict[str, Tensor], stores: Sequence[Store], which: np.ndarray, rows: np.ndarray
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Labels and masks, with the scalar properties that any structure of the batch has: float64, in their unit."""
    for name in dict.fromkeys(name for store in stores for name in store.scalars):
        values = np.full(len(rows), np.nan)
        for number, store in enumerate(stores):
            own = np.flatnonzero(which == number)
            if name in store.scalars and len(own):
                values[own] = store.scalar(name)[rows[own]]
        mask = np.isfinite(values)
        if mask.any():
            labels[name], masks[name] = torch.from_numpy(np.where(mask, values, 0.0)), torch.from_numpy(mask)
    return labels, masks


def _ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start+1, …, start+count−1 of every pair, one after the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(int(ends[-1]) if len(ends) else 0)
