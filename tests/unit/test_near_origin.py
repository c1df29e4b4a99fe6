"""Where a structure lies, and which image of an atom is written down, does not cost digits in float32."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.batch import AtomBatch, collate, with_neighbors
from unipot.calculator import UnipotCalculator
from unipot.data.mixture.packed_batch import pack
from unipot.data.storage.decode import decode_batch
from unipot.data.storage.record import RecordCodec
from unipot.data.store import Store, StoreWriter
from unipot.models.core_repulsion import edge_vectors
from unipot.neighbors.near_origin import near_origin
from unipot.simulate.moving_batch import MovingBatch
from unipot.structure import Structure

CUTOFF = 5.0
#: eV/Å: rounding of positions of a structure at the origin
FORCES = 5e-5


def slab() -> Atoms:
    atoms = fcc111("Cu", size=(2, 2, 2), vacuum=5.0)
    atoms.rattle(0.1, seed=1)
    return atoms


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell @ (np.eye(3) + [[0, 0.2, 0], [0, 0, 0.1], [0.1, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def displaced(atoms: Atoms, shift: float, cells: int, seed: int = 0) -> Structure:
    """`atoms` as a whole moved by `shift` Å, and each by up to `cells` lattice vectors of its own along periodic axes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-cells, cells + 1, (len(atoms), 3)) * atoms.pbc
    return replace(Structure.from_ase(atoms), positions=atoms.positions + shift * np.array([1.0, -0.7, 0.3]) + images @ atoms.cell.array)


def exact_vectors(structure: Structure) -> torch.Tensor:
    return edge_vectors(collate([structure], cutoff=CUTOFF, dtype=torch.float64))


FAR = {"molecule": (molecule("CH3CH2OH"), 0), "crystal": (crystal(), 3000), "slab": (slab(), 3000)}


@pytest.mark.parametrize("shift", [20.0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("kind", FAR)
def test_vectors_of_edges_have_the_digits_of_float32_wherever_the_structure_lies(kind, shift):
    atoms, cells = FAR[kind]
    structure = displaced(atoms, shift, cells)
    found = edge_vectors(collate([structure], cutoff=CUTOFF, dtype=torch.float32))
    assert found.dtype == torch.float32
    assert float((found.double() - exact_vectors(structure)).abs().max()) < 4e-6


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0.0, 15.0, 17.0, 40.0, 1e4]), cells=st.sampled_from([0, 1, 5, 300]))
def test_any_structures_of_a_batch_keep_their_edges_and_vectors(seed, shift, cells):
    rng = np.random.default_rng(seed)
    structures = []
    for k in range(3):
        n, pbc = int(rng.integers(1, 8)), rng.random(3) < 0.6
        cell = rng.uniform(4.0, 7.0) * np.eye(3) + rng.uniform(-0.8, 0.8, (3, 3))
        atoms = Atoms("Cu" * n, positions=rng.uniform(-3, 3, (n, 3)), cell=cell, pbc=pbc)
        structures.append(displaced(atoms, shift * rng.random(), cells * (k % 2), seed + k))
    exact, found = (collate(structures, cutoff=CUTOFF, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert torch.equal(exact.edge_index, found.edge_index)
    deviation = (edge_vectors(exact) - edge_vectors(found).double()).abs()
    assert deviation.numel() == 0 or float(deviation.max()) < 1e-5


@pytest.mark.parametrize("make", [lambda: molecule("CH3CH2OH"), crystal, slab, lambda: bulk("Cu", cubic=True) * (6, 6, 6)])
def test_structures_near_the_origin_stay_as_they_are_to_the_last_bit(make):
    structure = Structure.from_ase(make())
    batch = collate([structure], cutoff=CUTOFF, dtype=torch.float32)
    assert np.array_equal(batch.positions.numpy(), structure.positions.astype(np.float32))


def test_float64_batches_hold_the_positions_themselves():
    structure = displaced(crystal(), 1e5, 100)
    assert np.array_equal(collate([structure], cutoff=CUTOFF, dtype=torch.float64).positions.numpy(), structure.positions)


def test_only_structures_that_are_far_away_are_moved():
    structures = [Structure.from_ase(molecule("H2O")), displaced(molecule("H2O"), 500.0, 0), Structure.from_ase(crystal())]
    batch = collate(structures, cutoff=CUTOFF, dtype=torch.float32)
    parts = np.split(batch.positions.numpy(), [3, 6])
    assert np.array_equal(parts[0], structures[0].positions.astype(np.float32)) and np.abs(parts[1]).max() < 1
    assert np.array_equal(parts[2], structures[2].positions.astype(np.float32))


@pytest.mark.parametrize("kind", FAR)
def test_forces_of_the_calculator_do_not_depend_on_where_the_structure_lies(make_potential, kind):
    """4 meV/Å at 1,000 Å and 0.2 eV/Å at 100,000 Å were seen before."""
    atoms, cells = FAR[kind]
    calculator = UnipotCalculator(make_potential(dtype=torch.float32))
    expected = calculator.get_forces(atoms)
    assert np.abs(expected).max() > 0.01
    for shift in (100.0, 1e3, 1e5):
        far = atoms.copy()
        far.positions = displaced(atoms, shift, cells).positions
        assert np.abs(calculator.get_forces(far) - expected).max() < FORCES
        (batched,) = calculator.evaluate([far])
        assert np.abs(batched.forces - expected).max() < FORCES


def equal(one: AtomBatch, other: AtomBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(AtomBatch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_a_moving_batch_is_that_of_collate_while_atoms_leave_their_cells():
    moving, atoms = MovingBatch(cutoff=CUTOFF, skin=0.5, dtype=torch.float32), crystal()
    velocity = np.random.default_rng(0).normal(size=(4, 3))
    for _ in range(40):
        atoms.positions += 1.5 * velocity  # to 60 Å and 15 cells
        structure = Structure.from_ase(atoms, id="fluid")
        found = moving.known(atoms) or moving.new(atoms, structure)
        assert equal(found, collate([structure], cutoff=CUTOFF, dtype=torch.float32))
        atoms.rattle(1e-3)
        structure = Structure.from_ase(atoms, id="fluid")
        assert equal(moving.known(atoms), collate([structure], cutoff=CUTOFF, dtype=torch.float32))


def test_training_batches_and_packed_ones_are_those_of_collate(tmp_path):
    structures = [replace(displaced(atoms, 1e4, cells), id=kind) for kind, (atoms, cells) in FAR.items()]
    with StoreWriter(tmp_path / "far.unipot", name="far", level_of_theory="none", labels=()) as writer:
        for structure in structures:
            writer.add(structure)
    store = Store(tmp_path / "far.unipot")
    draws = [(0, k) for k in range(3)]
    found = decode_batch([store], draws, cutoff=CUTOFF)
    assert equal(found, collate(structures, cutoff=CUTOFF)) and equal(pack(found).unpack(), found)
    later = with_neighbors(decode_batch([store], draws, cutoff=None), CUTOFF)
    assert later.n_edges == found.n_edges
    assert torch.allclose(edge_vectors(later), edge_vectors(found), atol=1e-6)


@pytest.mark.parametrize("kind", FAR)
def test_records_in_float32_keep_the_digits_of_a_structure_far_away(kind):
    atoms, cells = FAR[kind]
    structure, codec = displaced(atoms, 1e5, cells), RecordCodec((), "float32")
    back = codec.unpack(codec.pack(structure))
    assert np.array_equal(back.positions, back.positions.astype(np.float32))
    again = Structure(atomic_numbers=back.atomic_numbers, positions=back.positions, cell=back.cell, pbc=back.pbc)
    assert float((exact_vectors(again).norm(dim=1).sort()[0] - exact_vectors(structure).norm(dim=1).sort()[0]).abs().max()) < 1e-5


def test_numbers_that_no_integer_counts_are_left_to_those_who_refuse_them():
    positions = np.array([[0.0, 0, 0], [1e300, 0, 0]])
    moved = near_origin(positions, np.eye(3)[None], np.ones((1, 3), bool), np.array([2]))
    assert np.array_equal(moved.positions, positions) and moved.wraps is None
