"""`PackedBatch`: all tensors of an `AtomBatch` in one block of memory.

Between processes, into page-locked memory and onto a device a block travels at once, where a batch of some twenty
tensors costs a file descriptor, an allocation and a copy each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from unipot.batch import AtomBatch

#: bytes; every tensor begins at a multiple of it, so that it can be viewed in its own dtype
_ALIGNMENT = 16


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """An `AtomBatch` that travels.

    Attributes:
        block: (n_bytes,) uint8.
        layout: per tensor: field of the batch, key in it ("" where the field is the tensor), dtype, shape, first byte.
        others: fields that are not tensors.

    Example:
        >>> from unipot import Structure
        >>> from unipot.batch import collate
        >>> batch = collate([Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]])], cutoff=2.0)
        >>> pack(batch).unpack().n_edges
        2
    """

    block: Tensor
    layout: tuple[tuple[str, str, torch.dtype, tuple[int, ...], int], ...]
    others: dict[str, Any]

    def unpack(self) -> AtomBatch:
        """The batch; its tensors are views of the block."""
        values: dict[str, Any] = {}
        for field, key, dtype, shape, start in self.layout:
            stop = start + dtype.itemsize * _count(shape)
            tensor = self.block[start:stop].view(dtype).view(shape)
            if key:
                values.setdefault(field, {})[key] = tensor
            else:
                values[field] = tensor
        return AtomBatch(**values, **{name: value for name, value in self.others.items() if name not in values})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The same on another device (a new object), one copy."""
        return replace(self, block=self.block.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory (a new object); called by `DataLoader(pin_memory=True)`."""
        return replace(self, block=self.block.pin_memory())


def pack(batch: AtomBatch) -> PackedBatch:
    """Copy the tensors of `batch` into one block."""
    layout, others, size = [], {}, 0
    tensors: list[Tensor] = []
    for field in fields(AtomBatch):
        value = getattr(batch, field.name)
        if not isinstance(value, Tensor):
            others[field.name] = {} if isinstance(value, dict) else value
        for key, tensor in _tensors(value):
            layout.append((field.name, key, tensor.dtype, tuple(tensor.shape), size))
            tensors.append(tensor)
            size += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    block = torch.empty(size, dtype=torch.uint8, device=batch.positions.device)
    for (_, _, dtype, shape, start), tensor in zip(layout, tensors, strict=True):
        block[start : start + dtype.itemsize * _count(shape)].view(dtype).view(shape).copy_(tensor)
    return PackedBatch(block=block, layout=tuple(layout), others=others)


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, dict):
        yield from value.items()


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n
