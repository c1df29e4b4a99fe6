"""`PackedBatch`: all tensors of an `AtomBatch` in one block of memory.

Between processes, into page-locked memory and onto a device a block travels at once, where a batch of some twenty
tensors costs a file descriptor, an allocation and a copy each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unipot.batch import AtomBatch

#: bytes; every tensor begins at a multiple of it, so that it can be viewed in its own dtype
_ALIGNMENT = 16


class Place(NamedTuple):
    """Where a tensor lies in a block.

    Attributes:
        field: of the batch.
        key: in the field; "" where the field is the tensor.
        dtype: of the tensor.
        stored: dtype in the block.
        shape: of the tensor.
        start: first byte.
    """

    field: str
    key: str
    dtype: torch.dtype
    stored: torch.dtype
    shape: tuple[int, ...]
    start: int

    def view(self, block: Tensor) -> Tensor:
        """The numbers in the block, as they are stored."""
        stop = self.start + self.stored.itemsize * math.prod(self.shape)
        return block[self.start : stop].view(self.stored).view(self.shape)


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """An `AtomBatch` that travels.

    Atom numbers of edges travel as int32 and lattice shifts as int8 (int32 where one needs it), a third of the bytes.

    Attributes:
        block: (n_bytes,) uint8.
        layout: where each tensor is.
        others: fields that are not tensors.

    Example:
        >>> from unipot import Structure
        >>> from unipot.batch import collate
        >>> batch = collate([Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]])], cutoff=2.0)
        >>> pack(batch).unpack().n_edges
        2
    """

    block: Tensor
    layout: tuple[Place, ...]
    others: dict[str, Any]

    def unpack(self) -> AtomBatch:
        """The batch; tensors that travelled in their own dtype are views of the block."""
        values: dict[str, Any] = {}
        for place in self.layout:
            tensor = place.view(self.block).to(place.dtype)
            if place.key:
                values.setdefault(place.field, {})[place.key] = tensor
            else:
                values[place.field] = tensor
        return AtomBatch(**values, **{name: value for name, value in self.others.items() if name not in values})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The same on another device (a new object), one copy."""
        return replace(self, block=self.block.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory (a new object); called by `DataLoader(pin_memory=True)`."""
        return replace(self, block=self.block.pin_memory())


def pack(batch: AtomBatch, *, shared: bool = False) -> PackedBatch:
    """Copy the tensors of `batch` into one block.

    Args:
        batch: on any device.
        shared: make the block in memory that other processes can map, so that it is not copied again on its way out of a worker.
    """
    layout: list[Place] = []
    others: dict[str, Any] = {}
    tensors: list[Tensor] = []
    size = 0
    for field in fields(AtomBatch):
        value = getattr(batch, field.name)
        if not isinstance(value, Tensor):
            others[field.name] = {} if isinstance(value, dict) else value
        for key, tensor in _tensors(value):
            stored = _travelling_dtype(field.name, tensor, batch.n_atoms)
            layout.append(Place(field.name, key, tensor.dtype, stored, tuple(tensor.shape), size))
            tensors.append(tensor)
            size += -(-tensor.numel() * stored.itemsize // _ALIGNMENT) * _ALIGNMENT
    block = _shared_block(size) if shared else torch.empty(size, dtype=torch.uint8, device=batch.positions.device)
    for place, tensor in zip(layout, tensors, strict=True):
        place.view(block).copy_(tensor)
    return PackedBatch(block=block, layout=tuple(layout), others=others)


def _travelling_dtype(field: str, tensor: Tensor, n_atoms: int) -> torch.dtype:
    if field == "edge_index" and n_atoms <= torch.iinfo(torch.int32).max:
        return torch.int32
    if field == "cell_shifts" and tensor.numel():
        low, high = (float(x) for x in torch.aminmax(tensor))
        return torch.int8 if -128 <= low and high <= 127 else torch.int32
    return tensor.dtype


def _shared_block(size: int) -> Tensor:
    # as torch's own collate functions do in a worker
    storage = torch.UntypedStorage._new_shared(size, device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, dict):
        yield from value.items()
