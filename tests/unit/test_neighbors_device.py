"""The neighbour list in torch, and batches that get their neighbours late."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.batch import collate, with_neighbors
from unipot.neighbors import batch_neighbor_list, device, device_neighbor_list, limits
from unipot.structure import Structure


def random_batch(seed: int):
    rng = np.random.default_rng(seed)
    n_atoms = rng.integers(1, 9, rng.integers(1, 6))
    cell = rng.uniform(2.0, 9.0, (len(n_atoms), 1, 1)) * np.eye(3) + rng.uniform(-1.5, 1.5, (len(n_atoms), 3, 3))
    cell[np.abs(np.linalg.det(cell)) < 3.0] = 3.0 * np.eye(3)
    return rng.uniform(-20, 20, (n_atoms.sum(), 3)), cell, rng.random((len(n_atoms), 3)) < 0.6, n_atoms


def on_device(positions, cell, pbc, n_atoms, cutoff, where="cpu"):
    tensors = (torch.as_tensor(array).to(where) for array in (positions, cell, pbc, n_atoms))
    edges, shifts = device_neighbor_list(*tensors, cutoff)
    return edges.cpu().numpy(), shifts.cpu().numpy()


def structures_of_many_kinds() -> list[Structure]:
    rng = np.random.default_rng(5)
    kinds = [bulk("Cu"), molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.6, cubic=True), molecule("H")]
    slab = bulk("Cu", cubic=True) * (2, 2, 1)
    slab.pbc = (True, True, False)
    for atoms in (*kinds, slab):
        atoms.positions += rng.normal(scale=0.1, size=(len(atoms), 3))
    return [
        Structure(atomic_numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc, id=f"s{k}")
        for k, atoms in enumerate([*kinds, slab])
    ]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cutoff=st.floats(0.5, 6.0), rows=st.sampled_from([40, 1 << 22]))
def test_list_in_torch_is_the_reference_in_pieces_of_any_size(seed, cutoff, rows):
    batch = random_batch(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "ROWS_AT_ONCE", rows)
        found = on_device(*batch, cutoff)
    assert all(np.array_equal(a, b) for a, b in zip(found, batch_neighbor_list(*batch, cutoff, "reference"), strict=True))


def test_fragments_far_apart_are_found_in_torch():
    positions = np.array([[0.0, 0, 0], [0, 0, 1.0], [1e7, 1e7, 0], [1e7, 1e7, 1.0]])
    edges, _ = on_device(positions, np.zeros((1, 3, 3)), np.zeros((1, 3), bool), [4], 2.0)
    assert edges.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_list_on_a_gpu_is_the_reference():
    batch = random_batch(3)
    found = on_device(*batch, 5.0, "cuda")
    assert all(np.array_equal(a, b) for a, b in zip(found, batch_neighbor_list(*batch, 5.0, "reference"), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0, 0, 0], [1, 0, 0], [np.nan, 0, 0]]}, "structure 1 of the batch: positions or cell contain a number that is not"),
        ({"cell": np.stack([np.eye(3), [[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]])}, "structure 1 of the batch: .* span no volume"),
        ({"cell": np.stack([1e-5 * np.eye(3), np.eye(3)])}, "structure 0 of the batch: 2 atoms have about .* within the cutoff of 3 Å"),
        ({"cutoff": -1.0}, "cutoff is -1.0; it must be a positive length"),
    ],
)
def test_bad_input_is_refused_in_torch_too(change, message):
    good = {"positions": [[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], "cell": 5 * np.ones((2, 1, 1)) * np.eye(3), "pbc": np.ones((2, 3), bool)}
    with pytest.raises(ValueError, match=message):
        on_device(**{**good, "n_atoms": [2, 1], "cutoff": 3.0, **change})


def test_flatness_is_judged_as_by_the_compiled_engine():
    for tilt in (0.5 * limits.FLAT, 2 * limits.FLAT):
        cell = np.array([[[40.0, 0, 0], [0, 40.0, 0], [0, 40.0, 40.0 * tilt]]])
        outcomes = []
        for find in (on_device, batch_neighbor_list):
            try:
                outcomes.append(find(np.zeros((1, 3)), cell, np.ones((1, 3), bool), np.array([1]), 1e-5)[0].shape)
            except ValueError as error:
                outcomes.append(str(error).partition(":")[0])
        assert (outcomes[0] == (2, 0)) == (outcomes[1] == (2, 0)) == (tilt > limits.FLAT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("find", [with_neighbors, "torch"])
def test_neighbours_added_later_are_those_of_collate(dtype, find):
    structures = structures_of_many_kinds()
    expected, without = collate(structures, cutoff=5.0, dtype=dtype), collate(structures, cutoff=1e-3, dtype=dtype)
    assert without.n_edges == 0 < expected.n_edges
    if find == "torch":
        edges, shifts = device_neighbor_list(without.positions, without.cell, without.pbc, without.n_atoms_per_structure, 5.0)
        assert torch.equal(edges, expected.edge_index) and torch.equal(shifts.to(dtype), expected.cell_shifts)
        return
    found = find(without, 5.0)
    for name in (field.name for field in fields(expected)):
        left, right = getattr(found, name), getattr(expected, name)
        equal = torch.equal(left, right) if isinstance(left, torch.Tensor) else name in ("labels", "label_mask") or left == right
        assert equal, name
    assert found.cell_shifts.dtype == dtype and without.n_edges == 0


def test_messages_name_the_structure():
    batch = collate(structures_of_many_kinds(), cutoff=3.0)
    batch.positions[1] = torch.nan
    with pytest.raises(ValueError, match="structure 's1': positions or cell contain"):
        with_neighbors(batch, 5.0)
