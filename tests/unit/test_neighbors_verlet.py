"""Lists with a skin give what fresh lists give, whatever happens to the structure, and are made seldom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.neighbors import DeviceVerletList, VerletList, neighbor_list

CUTOFF = 4.0


def on_torch(skin: float):
    """A `DeviceVerletList` on the CPU behind the interface of `VerletList`."""
    moving = DeviceVerletList(CUTOFF, skin)

    def pairs(*arrays):
        return tuple(found.numpy() for found in moving.pairs(*map(torch.as_tensor, arrays)))

    return moving, pairs


def made(kind: str, skin: float):
    if kind == "torch":
        return on_torch(skin)
    moving = VerletList(CUTOFF, skin, engine=kind)
    return moving, moving.pairs


def require_fresh(found, positions, cell, pbc) -> int:
    expected = neighbor_list(positions, cell, pbc, CUTOFF)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    return expected[0].shape[1]


@pytest.mark.parametrize("kind", ["numba", "reference", "torch"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), skin=st.sampled_from([0.0, 0.3, 1.0]), size=st.sampled_from([1e-3, 0.05, 0.4]))
def test_any_walk_of_atoms_and_cell_gives_fresh_lists(kind, seed, skin, size):
    rng = np.random.default_rng(seed)
    n, pbc = int(rng.integers(1, 12)), rng.random(3) < 0.6
    cell = rng.uniform(3.0, 7.0) * np.eye(3) + rng.uniform(-0.8, 0.8, (3, 3))
    positions = rng.uniform(-8, 8, (n, 3))
    _, pairs = made(kind, skin)
    for step in range(8):
        if step % 3 == 2:  # strain, as a barostat or a relaxation of the cell does it
            strain = np.eye(3) + 0.1 * size * rng.normal(size=(3, 3))
            cell, positions = cell @ strain, positions @ strain
        if step == 5:  # one lattice vector alone
            cell = cell.copy()
            cell[0] += size * 0.1 * rng.normal(size=3)
        positions = positions + size * rng.normal(size=positions.shape)
        require_fresh(pairs(positions, cell, pbc), positions, cell, pbc)


@pytest.mark.parametrize("kind", ["numba", "torch"])
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_strain_alone_is_accounted_for(kind, factor):
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    moving, pairs = made(kind, 0.5)
    require_fresh(pairs(atoms.positions, atoms.cell.array, atoms.pbc), atoms.positions, atoms.cell.array, atoms.pbc)
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    assert require_fresh(pairs(atoms.positions, atoms.cell.array, atoms.pbc), atoms.positions, atoms.cell.array, atoms.pbc) > 0
    assert moving.n_builds == 1  # 3 % of 4 Å is less than the skin
    atoms.set_cell(atoms.cell * 0.85, scale_atoms=True)
    require_fresh(pairs(atoms.positions, atoms.cell.array, atoms.pbc), atoms.positions, atoms.cell.array, atoms.pbc)
    assert moving.n_builds == 2


@pytest.mark.parametrize("kind", ["numba", "torch"])
def test_the_list_is_kept_until_two_atoms_have_used_up_the_skin(kind):
    moving, pairs = made(kind, 0.5)
    positions, cell, pbc = np.array([[0.0, 0, 0], [0, 0, 4.49]]), np.zeros((3, 3)), np.zeros(3, bool)
    for z, n_builds in ((4.49, 1), (4.25, 1), (4.01, 1), (3.995, 1), (3.985, 2)):
        positions = np.array([[0.0, 0, 0], [0, 0, z]])
        require_fresh(pairs(positions, cell, pbc), positions, cell, pbc)
        assert moving.n_builds == n_builds, z


@pytest.mark.parametrize("kind", ["numba", "torch"])
def test_a_structure_that_drifts_as_a_whole_keeps_its_list(kind):
    moving, pairs = made(kind, 0.5)
    atoms = molecule("CH3CH2OH")
    for step in range(5):
        shifted = atoms.positions + 3.0 * step
        require_fresh(pairs(shifted, atoms.cell.array, atoms.pbc), shifted, atoms.cell.array, atoms.pbc)
    assert moving.n_builds == 1


@pytest.mark.parametrize("kind", ["numba", "torch"])
def test_wrapping_pbc_size_and_order_of_atoms_make_a_new_list(kind):
    moving, pairs = made(kind, 0.5)
    atoms = fcc111("Cu", size=(2, 2, 2), vacuum=5.0)
    atoms.positions[:, :2] -= 3.0
    changes = [lambda: None, atoms.wrap, lambda: atoms.set_pbc([True, False, False]), lambda: atoms.set_pbc(True),
               lambda: atoms.__delitem__(3), lambda: atoms.set_positions(atoms.positions[::-1])]  # fmt: skip
    for number, change in enumerate(changes):
        change()
        require_fresh(pairs(atoms.positions, atoms.cell.array, atoms.pbc), atoms.positions, atoms.cell.array, atoms.pbc)
        assert moving.n_builds == number + 1


def test_offsets_come_in_the_dtype_of_the_model():
    atoms = bulk("Cu") * (2, 2, 2)
    moving = VerletList(CUTOFF, 0.5, shift_dtype=np.float32)
    assert moving.pairs(atoms.positions, atoms.cell.array, atoms.pbc)[1].dtype == np.float32


@pytest.mark.parametrize("kind", ["numba", "torch"])
@pytest.mark.parametrize("what", ["positions", "cell"])
def test_a_number_that_is_not_finite_is_refused_in_the_middle_of_a_run(kind, what):
    _, pairs = made(kind, 0.5)
    atoms = bulk("Cu", cubic=True)
    arrays = {"positions": atoms.positions, "cell": atoms.cell.array.copy(), "pbc": atoms.pbc}
    pairs(*arrays.values())
    arrays[what] = arrays[what].copy()
    arrays[what][1, 1] = np.nan
    with pytest.raises(ValueError, match="positions or cell contain a number that is not finite"):
        pairs(*arrays.values())


@pytest.mark.parametrize("kind", ["numba", "torch"])
@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_a_skin_that_is_no_length_is_refused(kind, skin):
    with pytest.raises(ValueError, match="skin is .*; it must be a length in Å, 0 or more"):
        made(kind, skin)
