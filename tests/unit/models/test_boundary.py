"""Bad input to a potential: one clear sentence, never forces that are not numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, collate, with_neighbors
from unipot.models import Potential
from unipot.structure import Structure

WATER = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], id="water")
COPPER = Structure(atomic_numbers=[29], positions=[[0, 0, 0]], cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=True, id="copper")


def both(dtype: torch.dtype = torch.float64) -> AtomBatch:
    return collate([WATER, COPPER], cutoff=5.0, dtype=dtype)


def changed(batch: AtomBatch, name: str, index: tuple[int, ...], value: float) -> AtomBatch:
    tensor = getattr(batch, name).clone()
    tensor[index] = value
    return replace(batch, **{name: tensor})


@pytest.mark.parametrize("properties", [("energy",), ("energy", "forces", "stress")])
@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("positions", (1, 2), float("nan"), r"structure 'water': the position of atom 1 is \[0.96.*nan\]; repair"),
        ("positions", (3, 0), float("inf"), "structure 'copper': the position of atom 0"),
        ("cell", (1, 0, 0), float("nan"), "structure 'copper': the cell is"),
        ("atomic_numbers", (2,), 119, "structure 'water': atom 2 has atomic number 119, outside 1..118"),
        ("atomic_numbers", (3,), 0, "structure 'copper': atom 0 has atomic number 0, outside 1..118"),
        ("atomic_numbers", (0,), -8, "structure 'water': atom 0 has atomic number -8"),
        ("head_index", (1,), -1, "head_index -1 is out of range for the 1 head"),
        ("cell", (1, 1), 0.0, r"structure 'copper': periodic axes \[1\] have no lattice vector"),
        ("n_atoms_per_structure", (1,), 0, "structure 'copper' has no atoms"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said(make_potential, name, index, value, message, properties) -> None:
    with pytest.raises(ValueError, match=message):
        make_potential()(changed(both(), name, index, value), properties)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1e-9, 9e-4])
def test_coincident_atoms_are_named(make_potential: Callable[..., Potential], dtype: torch.dtype, distance: float) -> None:
    positions = [[0, 0, 0], [0.96, 0, 0], [0.96, distance, 0]]
    pair = Structure(atomic_numbers=[8, 1, 1], positions=positions, id="double")
    with pytest.raises(ValueError, match=r"structure 'double': atoms 1 and 2 lie .* Å apart, which is the same place"):
        make_potential(dtype=dtype)(collate([WATER, pair], cutoff=5.0, dtype=dtype))


def test_atoms_a_little_apart_are_let_through(make_potential: Callable[..., Potential]) -> None:
    pair = Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, 0.0011]])
    assert make_potential()(collate([pair], cutoff=5.0, dtype=torch.float64)).forces.isfinite().all()


def test_an_atom_on_its_own_image_is_named(make_potential: Callable[..., Potential]) -> None:
    batch = collate([COPPER], cutoff=5.0, dtype=torch.float64)
    cell = batch.cell.clone()
    cell[0, 0] = torch.tensor([0.0, 5e-4, 0.0])
    with pytest.raises(ValueError, match=r"structure 'copper': atom 0 lies .* Å from its own periodic image"):
        make_potential()(replace(batch, cell=cell))


def test_a_batch_without_atoms_is_refused(make_potential: Callable[..., Potential]) -> None:
    batch = both()
    fields = {name: getattr(batch, name)[:0] for name in ("atomic_numbers", "positions", "structure_index", "fixed")}
    nothing = replace(batch, **fields, edge_index=batch.edge_index[:, :0], cell_shifts=batch.cell_shifts[:0])
    with pytest.raises(ValueError, match="the batch has no atoms"):
        make_potential()(nothing)


def test_numbers_of_messages_count_within_structures_that_have_no_id(make_potential: Callable[..., Potential]) -> None:
    batch = replace(changed(both(), "positions", (3, 1), float("nan")), ids=())
    with pytest.raises(ValueError, match="structure 1 of the batch: the position of atom 0"):
        make_potential()(batch)


@pytest.mark.parametrize(("model", "batch"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_another_precision_is_refused_with_the_remedy(make_potential, model: torch.dtype, batch: torch.dtype) -> None:
    with pytest.raises(ValueError, match="collate with dtype=potential.dtype, or convert the model"):
        make_potential(dtype=model)(both(batch))


def test_memory_layout_does_not_matter(make_potential: Callable[..., Potential]) -> None:
    batch, potential = both(), make_potential()
    scattered = replace(
        batch,
        positions=batch.positions.T.contiguous().T,
        cell=batch.cell.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        edge_index=batch.edge_index.T.contiguous().T,
        cell_shifts=torch.stack([batch.cell_shifts] * 2, dim=-1)[..., 0],
    )
    assert not any(t.is_contiguous() for t in (scattered.positions, scattered.cell, scattered.edge_index, scattered.cell_shifts))
    one, other = (potential(b, ("energy", "forces", "stress")) for b in (batch, scattered))
    assert all(torch.equal(one[name], other[name]) for name in ("energy", "forces", "stress"))


def test_a_cutoff_beyond_the_memory_is_refused_before_it_is_filled() -> None:
    with pytest.raises(ValueError, match=r"structure 'copper'.*pairs within the cutoff of 20000 Å.*lower the cutoff"):
        collate([COPPER], cutoff=2e4)
    with pytest.raises(ValueError, match="pairs within the cutoff"):
        with_neighbors(both(), 2e4)


def test_elements_that_a_head_does_not_know_are_refused(make_potential: Callable[..., Potential]) -> None:
    gold = Structure(atomic_numbers=[79], positions=[[0, 0, 0]])
    with pytest.raises(ValueError, match=r"head 'only' .*no reference energy for element\(s\) Au"):
        make_potential()(collate([gold], cutoff=5.0, dtype=torch.float64))


def test_positions_on_the_edge_of_float32_are_finite(make_potential: Callable[..., Potential]) -> None:
    far = replace(WATER, positions=WATER.positions + np.array([1e4, 0, 0]))
    assert make_potential(dtype=torch.float32)(collate([far], cutoff=5.0)).forces.isfinite().all()
