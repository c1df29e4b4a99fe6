"""A structure in the place of another: nothing of the one that was there before reaches the one that is there now.

Users of other packages paid for each of these cases. A list, a batch or a compiled graph that fits by its sizes is not yet the right one.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from unipot.batch import AtomBatch, collate, with_neighbors
from unipot.calculator import UnipotCalculator
from unipot.models.core_repulsion import edge_vectors
from unipot.models.tracing import graph_inputs
from unipot.neighbors import DeviceVerletList, VerletList, device_neighbor_list, neighbor_list
from unipot.simulate.moving_batch import MovingBatch
from unipot.structure import Structure

PROPERTIES = ("energy", "forces", "stress")


def cell_of(seed: int) -> Atoms:
    """Copper, 32 atoms: same elements, same cell, same periodic axes whatever the seed."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.4, seed=seed)
    return atoms


def torch_pairs(moving: DeviceVerletList, atoms: Atoms):
    found = moving.pairs(*(torch.as_tensor(array) for array in (atoms.positions, atoms.cell.array, atoms.pbc)))
    return tuple(tensor.numpy() for tensor in found)


def numpy_pairs(moving: VerletList, atoms: Atoms):
    return moving.pairs(atoms.positions, atoms.cell.array, atoms.pbc)


LISTS = {"compiled": (VerletList, numpy_pairs), "torch": (DeviceVerletList, torch_pairs)}


def equal(one: AtomBatch, other: AtomBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(AtomBatch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_that_is_refilled_with_an_equal_number_of_atoms_is_made_anew(kind):
    make, pairs = LISTS[kind]
    moving = make(4.0, 0.5)
    for number, seed in enumerate((0, 1, 0), start=1):
        atoms = cell_of(seed)
        expected = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
        assert all(np.array_equal(a, b) for a, b in zip(pairs(moving, atoms), expected, strict=True))
        assert moving.n_builds == number


@pytest.mark.parametrize("kind", LISTS)
def test_a_refill_whose_atoms_only_changed_places_is_made_anew(kind):
    """Every position is one that was there before, so that no site has moved; the atoms have."""
    make, pairs = LISTS[kind]
    moving, atoms = make(4.0, 0.5), cell_of(0)
    pairs(moving, atoms)
    atoms.positions = atoms.positions[np.random.default_rng(0).permutation(len(atoms))]
    expected = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    assert all(np.array_equal(a, b) for a, b in zip(pairs(moving, atoms), expected, strict=True)) and moving.n_builds == 2


@pytest.mark.parametrize("kind", LISTS)
def test_counts_that_shrink_and_grow_inside_the_skin_leave_no_stale_edges(kind):
    make, pairs = LISTS[kind]
    moving, cell = make(4.0, 1.0), np.zeros((3, 3))
    counts = []
    for distance in (3.9, 4.1, 4.3, 3.95, 4.3):
        chain = Atoms("Cu3", positions=[[0, 0, 0], [0, 0, distance], [0, 0, 2 * distance]])
        chain.positions -= chain.positions.mean(axis=0)
        found = pairs(moving, chain)
        expected = neighbor_list(chain.positions, cell, chain.pbc, 4.0)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        counts.append(found[0].shape[1])
    assert counts == [4, 0, 0, 4, 0] and moving.n_builds == 1  # the list was kept throughout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_moving_batch_that_is_refilled_is_the_batch_of_the_new_structure(dtype):
    moving = MovingBatch(cutoff=4.0, skin=0.5, dtype=dtype)
    for seed in (0, 1, 2, 0):
        atoms = cell_of(seed)
        structure = Structure.from_ase(atoms, id="refill")
        found = moving.known(atoms) or moving.new(atoms, structure)
        assert equal(found, collate([structure], cutoff=4.0, dtype=dtype))
    assert moving.neighbors.n_builds == 4


def test_a_moving_batch_whose_edges_become_fewer_is_the_batch_of_the_new_geometry():
    moving, atoms = MovingBatch(cutoff=2.5, skin=1.0), molecule("CH3CH2OH")
    counts = []
    for factor in (1.0, 1.06, 1.12, 1.0):
        stretched = atoms.copy()
        stretched.positions *= factor
        structure = Structure.from_ase(stretched, id="refill")
        found = moving.known(stretched) or moving.new(stretched, structure)
        assert equal(found, collate([structure], cutoff=2.5, dtype=torch.float64))
        counts.append(found.n_edges)
    assert counts[0] > counts[1] > counts[2] < counts[3] and moving.neighbors.n_builds == 1


def test_a_calculator_that_takes_turns_between_equal_sizes_gives_each_its_own_numbers(make_potential):
    shared, structures = UnipotCalculator(make_potential()), [cell_of(seed) for seed in (0, 1)]
    structures[1].info["total_charge"] = 0  # said, and the same
    expected = [UnipotCalculator(make_potential()).get_potential_energy(atoms) for atoms in structures]
    assert abs(expected[0] - expected[1]) > 1e-3
    assert [shared.get_potential_energy(structures[k]) for k in (0, 1, 1, 0, 1)] == [expected[k] for k in (0, 1, 1, 0, 1)]


def waters(n: int) -> list[Structure]:
    """`n` water molecules, 2.6 Å apart in z."""
    atoms = molecule("H2O")
    return [Structure.from_ase(Atoms(atoms.numbers, atoms.positions + [0, 0, 2.6 * k])) for k in range(n)]


def together(structures: list[Structure]) -> Structure:
    numbers, positions = (np.concatenate([getattr(s, name) for s in structures]) for name in ("atomic_numbers", "positions"))
    return Structure(atomic_numbers=numbers, positions=positions)


def test_equal_atoms_in_another_number_of_structures_are_predicted_anew(make_potential):
    """Two molecules side by side and one dimer hold the same atomic numbers in the same order; a compiled graph has this test, too."""
    model = make_potential()
    batches = [collate(parts, cutoff=5.0, dtype=torch.float64) for parts in (waters(2), [together(waters(2))], waters(2))]
    found = [model(batch, PROPERTIES) for batch in batches]
    assert [len(one.energy) for one in found] == [2, 1, 2]
    assert torch.equal(found[0].energy, found[2].energy) and torch.equal(found[0].forces, found[2].forces)
    assert abs(float(found[1].energy.detach() - found[0].energy.detach().sum())) > 1e-4  # control: the molecules feel each other
    expected = make_potential()(batches[1], PROPERTIES)
    assert torch.allclose(found[1].energy, expected.energy) and torch.allclose(found[1].forces, expected.forces, atol=1e-10)


@pytest.mark.parametrize("find", ["cpu", "torch"])
def test_no_edge_leads_from_one_structure_of_a_batch_into_another(find):
    """All at the same place: whatever mixes them up would find neighbours."""
    batch = collate(waters(1) * 5 + [Structure.from_ase(bulk("Cu", cubic=True))], cutoff=5.0, dtype=torch.float64)
    if find == "torch":
        edges = device_neighbor_list(batch.positions, batch.cell, batch.pbc, batch.n_atoms_per_structure, 5.0)[0]
    else:
        edges = with_neighbors(batch, 5.0).edge_index
    assert torch.equal(edges, batch.edge_index)
    assert torch.equal(batch.structure_index[edges[0]], batch.structure_index[edges[1]])
    assert torch.bincount(batch.structure_index[edges[0]])[:5].tolist() == [6] * 5


def test_a_dummy_cell_on_a_molecule_adds_no_images(make_potential):
    """Some tools give molecules a cell of 1 Å and no periodic axis."""
    plain, dummy = molecule("H2O"), molecule("H2O")
    dummy.set_cell([1.0, 1.0, 1.0])
    found = [UnipotCalculator(make_potential()).get_potential_energy(atoms) for atoms in (plain, dummy)]
    assert found[0] == found[1]


def test_atoms_of_a_slab_on_either_side_of_the_free_boundary_do_not_meet(make_potential):
    """Periodic in x and y: the cell vector along z means nothing, wherever the atoms lie in it."""
    energies = []
    for height in (8.0, 3.0, 40.0):  # of the cell; 3 Å would bring images next to each other if z were periodic
        atoms = bulk("Cu", cubic=True)
        atoms.positions[:, 2] += 0.5 * height
        atoms.set_cell([*atoms.cell.lengths()[:2], height])
        atoms.pbc = [True, True, False]
        energies.append(UnipotCalculator(make_potential()).get_potential_energy(atoms))
    assert energies == pytest.approx([energies[0]] * 3, abs=1e-10)


def test_folding_by_a_lattice_vector_within_a_run_changes_no_number(make_potential):
    potential, atoms = make_potential(), cell_of(3)
    kept = UnipotCalculator(potential, skin=0.5)
    before = kept.get_potential_energy(atoms)
    atoms.positions[5] += atoms.cell[0] - 2 * atoms.cell[2]  # too far for any skin, and the same structure
    assert kept.get_potential_energy(atoms) == pytest.approx(before, abs=1e-9) and kept._moving.neighbors.n_builds == 2


def test_strided_and_expanded_inputs_reach_a_compiled_graph_as_plain_ones(make_potential):
    """Machine code of a package reads memory by sizes alone."""
    potential = make_potential()
    batch = collate(waters(3), cutoff=5.0, dtype=torch.float64)
    strided = {name: torch.stack([getattr(batch, name)] * 2, dim=-1)[..., 0] for name in ("atomic_numbers", "structure_index", "positions")}
    edges = batch.edge_index.T.contiguous().T
    expanded = {name: getattr(batch, name)[:1].expand(3) for name in ("head_index", "total_charge", "spin_multiplicity")}
    scattered = replace(batch, **strided, **expanded, edge_index=edges)
    assert not any(getattr(scattered, name).is_contiguous() for name in (*strided, "edge_index")) and scattered.head_index.stride() == (0,)
    form = potential.backbone.traced_form(batch)
    plain, other = (graph_inputs(potential.backbone, form, b, edge_vectors(b)) for b in (batch, scattered))
    assert all(tensor.is_contiguous() for tensor in other)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
