"""A packed batch holds every bit of the batch, in one block."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, collate
from unipot.data.mixture.packed_batch import pack
from unipot.structure import Structure


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    water = {"energy": -14.2, "forces": rng.normal(size=(3, 3))}
    copper = {"stress": 0.1 * np.eye(3)}
    structures = [
        Structure(atomic_numbers=[8, 1, 1], positions=rng.normal(size=(3, 3)), labels=water, id="a"),
        Structure(atomic_numbers=[29], positions=np.zeros((1, 3)), cell=2.6 * np.eye(3), pbc=True, labels=copper, id="b"),
        Structure(atomic_numbers=[2], positions=np.zeros((1, 3)), id="c"),
    ]  # fmt: skip
    return collate(structures, cutoff=3.0, head_index=[1, 0, 1])


def assert_bitwise(a: AtomBatch, b: AtomBatch) -> None:
    for field in fields(AtomBatch):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, dict):
            assert list(mine) == list(other) and all(torch.equal(mine[k], other[k]) and mine[k].dtype == other[k].dtype for k in mine)
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other) and mine.dtype == other.dtype
        else:
            assert mine == other


def test_unpacking_gives_the_batch_back_bitwise(batch):
    assert_bitwise(pack(batch).unpack(), batch)


def test_a_batch_without_labels_and_edges_survives():
    bare = collate([Structure(atomic_numbers=[2], positions=np.zeros((1, 3)))], cutoff=3.0)
    assert_bitwise(pack(bare).unpack(), bare)


def test_unpacked_tensors_are_views_of_the_block(batch):
    packed = pack(batch)
    unpacked = packed.unpack()
    block = packed.block.untyped_storage().data_ptr()
    assert unpacked.positions.untyped_storage().data_ptr() == unpacked.labels["energy"].untyped_storage().data_ptr() == block


def test_a_packed_batch_does_not_share_memory_with_the_batch(batch):
    packed = pack(batch)
    before = packed.unpack().positions.clone()
    batch.positions.add_(1.0)
    assert torch.equal(packed.unpack().positions, before)


def test_moving_moves_the_whole_block(batch):
    assert_bitwise(pack(batch).to("cpu").unpack(), batch)
