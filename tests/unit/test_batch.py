"""`AtomBatch` and `collate`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, Predictions, collate
from unipot.structure import Structure

WATER = Structure(
    atomic_numbers=[8, 1, 1],
    positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]],
    labels={"energy": -14.25, "forces": np.arange(9.0).reshape(3, 3)},
    total_charge=-1.0,
    spin_multiplicity=2,
    fixed=[True, False, False],
    id="water",
)
COPPER = Structure(
    atomic_numbers=[29], positions=[[0.1, 0, 0]], cell=2.5 * np.eye(3), pbc=True, labels={"stress": np.eye(3)}, id="copper"
)


@pytest.fixture
def batch():
    return collate([WATER, COPPER], cutoff=3.0, head_index=[1, 0], dataset_index=[4, 2])


def test_atoms_are_concatenated_in_order(batch):
    assert batch.atomic_numbers.tolist() == [8, 1, 1, 29] and batch.structure_index.tolist() == [0, 0, 0, 1]
    assert (batch.n_atoms, batch.n_structures) == (4, 2) and batch.n_atoms_per_structure.tolist() == [3, 1]


def test_what_belongs_to_a_structure_comes_along(batch):
    assert batch.head_index.tolist() == [1, 0] and batch.dataset_index.tolist() == [4, 2] and batch.ids == ("water", "copper")
    assert batch.total_charge.tolist() == [-1, 0] and batch.spin_multiplicity.tolist() == [2, 0]
    assert batch.fixed.tolist() == [True, False, False, False] and batch.pbc.tolist() == [[False] * 3, [True] * 3]


def test_edges_stay_inside_their_structure(batch):
    assert torch.equal(batch.structure_index[batch.edge_index[0]], batch.structure_index[batch.edge_index[1]])
    assert batch.n_edges == 6 + 6


def test_edge_vectors_are_shorter_than_the_cutoff(batch):
    i, j = batch.edge_index
    vectors = batch.positions[j] + torch.einsum("ea,eab->eb", batch.cell_shifts, batch.cell[batch.structure_index[i]]) - batch.positions[i]
    assert vectors.norm(dim=1).max() < batch.cutoff == 3.0


def test_missing_labels_are_zero_and_masked(batch):
    assert {name: mask.tolist() for name, mask in batch.label_mask.items()} == {
        "energy": [True, False],
        "forces": [True, False],
        "stress": [False, True],
    }
    assert not batch.labels["forces"][3].any() and not batch.labels["stress"][0].any()


def test_label_that_no_structure_has_is_absent():
    assert set(collate([COPPER], cutoff=3.0).labels) == {"stress"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    batch = collate([WATER], cutoff=3.0, dtype=dtype)
    floats = (batch.positions, batch.cell, batch.cell_shifts, batch.total_charge, batch.labels["forces"])
    assert {t.dtype for t in floats} == {dtype}
    integers = (batch.atomic_numbers, batch.edge_index, batch.structure_index, batch.head_index, batch.n_atoms_per_structure)
    assert {t.dtype for t in integers} == {torch.int64}


def test_energy_label_keeps_all_its_digits_in_a_float32_batch():
    energy = -123456.789012345
    assert collate([WATER.with_labels(energy=energy)], cutoff=3.0).labels["energy"].item() == energy


def test_one_atom_keeps_its_dimensions():
    batch = collate([Structure(atomic_numbers=[1], positions=[[0, 0, 0]], labels={"energy": 1.0, "forces": [[0, 0, 0]]})], cutoff=3.0)
    assert batch.positions.shape == (1, 3) and batch.edge_index.shape == (2, 0) and batch.cell_shifts.shape == (0, 3)
    assert batch.labels["energy"].shape == (1,) and batch.labels["forces"].shape == (1, 3)


def test_sum_over_atoms(batch):
    assert batch.sum_over_atoms(torch.tensor([1.0, 2, 3, 4])).tolist() == [6, 4]
    assert batch.sum_over_atoms(torch.ones(4, 2)).tolist() == [[3, 3], [1, 1]]


def test_moving_to_a_device_makes_a_new_equal_batch(batch):
    moved = batch.to("cpu")
    assert moved is not batch and moved.ids == batch.ids and moved.cutoff == batch.cutoff
    assert torch.equal(moved.labels["forces"], batch.labels["forces"]) and moved.labels is not batch.labels


def test_every_tensor_moves_to_the_device(batch):
    moved = batch.to("meta")
    tensors = [v for f in dataclasses.fields(AtomBatch) for v in _tensors(getattr(moved, f.name))]
    assert len(tensors) == 13 + 6 and all(t.device.type == "meta" for t in tensors)


def test_batch_does_not_share_memory_with_its_structures():
    batch = collate([WATER], cutoff=3.0, dtype=torch.float64)
    batch.positions.zero_(), batch.labels["forces"].zero_(), batch.fixed.zero_(), batch.atomic_numbers.zero_()
    assert WATER.positions.any() and WATER.labels["forces"].any() and WATER.fixed.any() and WATER.atomic_numbers.all()


def test_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one structure"):
        collate([], cutoff=3.0)


@pytest.mark.parametrize("name", ["head_index", "dataset_index"])
def test_index_of_wrong_length_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} has 2 entries for 1 structures"):
        collate([WATER], cutoff=3.0, **{name: [0, 1]})


def test_prediction_that_was_not_asked_for_is_a_clear_error():
    predictions = Predictions(energy=torch.zeros(1))
    assert predictions["energy"].shape == (1,)
    with pytest.raises(KeyError, match="property 'stress' was not predicted"):
        predictions["stress"]


def _tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value.values()) if isinstance(value, dict) else []
