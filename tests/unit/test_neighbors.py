"""Neighbour lists: known coordination numbers, and agreement of all engines on awkward cells."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.neighbors import ENGINES, complete_cell, default_engine, neighbor_list

PERIODICITIES = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


@pytest.fixture(params=list(ENGINES))
def engine(request):
    if request.param != "reference" and find_spec(request.param) is None:
        pytest.skip(f"the package {request.param!r} is not installed")
    return request.param


def distances(positions, cell, edges, shifts):
    return np.linalg.norm(positions[edges[1]] + shifts @ cell - positions[edges[0]], axis=1)


def as_set(edges, shifts):
    return {(int(i), int(j), *map(int, s)) for (i, j), s in zip(edges.T, shifts, strict=True)}


@pytest.mark.parametrize(("cutoff", "expected"), [(2.7, 12), (3.8, 18), (4.6, 42)])
def test_coordination_shells_of_fcc_copper(engine, cutoff, expected):
    atoms = bulk("Cu", a=3.6)
    edges, _ = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, engine)
    assert edges.shape == (2, expected)


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_engines_agree_with_brute_force_on_a_skewed_cell(engine, pbc):
    cell = np.array([[3.0, 0.4, -0.2], [1.9, 2.8, 0.3], [-1.2, 1.5, 3.4]])
    positions = np.random.default_rng(1).normal(scale=4.0, size=(5, 3))
    pbc = np.array(pbc)
    edges, shifts = neighbor_list(positions, cell, pbc, 4.3, engine)
    i, j, s = ase_neighbor_list("ijS", _atoms(positions, complete_cell(positions, cell, pbc, 4.3), pbc), 4.3)
    assert as_set(edges, shifts) == as_set(np.stack([i, j]), s)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), pbc=st.sampled_from(PERIODICITIES), n_atoms=st.integers(1, 6), cutoff=st.floats(0.5, 5.0))
def test_default_engine_agrees_with_the_reference(seed, pbc, n_atoms, cutoff):
    generator = np.random.default_rng(seed)
    cell = 3.5 * np.eye(3) + generator.uniform(-0.8, 0.8, (3, 3))
    positions = generator.uniform(-8, 8, (n_atoms, 3))
    found = [as_set(*neighbor_list(positions, cell, np.array(pbc), cutoff, name)) for name in (default_engine(), "reference")]
    assert found[0] == found[1]


def test_edges_obey_the_convention_for_atoms_outside_the_cell(engine):
    cell, positions = 4.0 * np.eye(3), np.array([[-9.0, 0.2, 0.0], [13.5, 0.1, 8.3]])
    edges, shifts = neighbor_list(positions, cell, np.ones(3, bool), 3.9, engine)
    assert len(shifts) > 0 and distances(positions, cell, edges, shifts).max() < 3.9


def test_both_directions_are_present(engine):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    edges, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0, engine)
    assert as_set(edges, shifts) == as_set(edges[::-1], -shifts)


def test_edges_are_sorted_by_centre(engine):
    atoms = bulk("Cu", cubic=True)
    edges, _ = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0, engine)
    assert (np.diff(edges[0]) >= 0).all()


def test_order_does_not_depend_on_the_engine():
    atoms = bulk("Cu", cubic=True)
    lists = [neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0, e) for e in ENGINES if e == "reference" or find_spec(e)]
    assert all(np.array_equal(a, b) for other in lists[1:] for a, b in zip(lists[0], other, strict=True))


def test_atom_is_its_own_neighbour_through_the_cell_only(engine):
    cell = np.diag([2.0, 50.0, 50.0])
    edges, shifts = neighbor_list(np.zeros((1, 3)), cell, np.ones(3, bool), 3.0, engine)
    assert edges.tolist() == [[0, 0], [0, 0]] and sorted(shifts[:, 0].tolist()) == [-1, 1]


@pytest.mark.parametrize("pbc", [False, True])
def test_lone_atom_has_no_neighbours_and_arrays_keep_their_shape(engine, pbc):
    edges, shifts = neighbor_list(np.zeros((1, 3)), 50 * np.eye(3), np.array([pbc] * 3), 3.0, engine)
    assert edges.shape == (2, 0) and shifts.shape == (0, 3) and edges.dtype == shifts.dtype == np.int64


def test_molecule_far_from_the_origin_is_found(engine):
    positions = np.array([[1e4, 1e4, 1e4], [1e4, 1e4, 1e4 + 1.1]])
    assert neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 2.0, engine)[0].shape == (2, 2)


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_fragments_far_apart_keep_their_own_neighbours(engine, pbc):
    # engines that divide space into boxes run out of memory here when they are given the bare positions
    positions = np.array([[0.0, 0, 0], [0, 0.3, 1.0], [2e5, 0, 0], [2e5, 0.3, 1.0], [3e5, 3e5, -3e5]])
    edges, _ = neighbor_list(positions, 30 * np.eye(3), np.array(pbc), 2.0, engine)
    assert {(0, 1), (1, 0), (2, 3), (3, 2)} <= set(map(tuple, edges.T.tolist()))
    assert edges.shape[1] == 4 or any(pbc)


def test_molecule_in_an_enormous_periodic_box(engine):
    positions = np.array([[0.0, 0, 0], [0, 0, 1.0], [0, 0, 99999.5]])
    edges, shifts = neighbor_list(positions, 1e5 * np.eye(3), np.ones(3, bool), 2.0, engine)
    assert as_set(edges, shifts) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (0, 2, 0, 0, -1), (2, 0, 0, 0, 1), (1, 2, 0, 0, -1), (2, 1, 0, 0, 1)}


def test_cell_of_a_slab_has_no_meaning_along_the_free_axis(engine):
    positions = np.array([[0.0, 0, 0], [0.5, 0.5, 3.0]])
    lists = []
    for height in (0.0, 0.5, 30.0):
        cell = np.array([[3.0, 0, 0], [0, 3.0, 0], [0, 0, height]])
        lists.append(as_set(*neighbor_list(positions, cell, np.array([True, True, False]), 4.0, engine)))
    assert lists[0] == lists[1] == lists[2] and all(edge[4] == 0 for edge in lists[0])


def test_inputs_are_not_changed(engine):
    positions, cell, pbc = np.array([[0.0, 0, 0], [9.0, 0, 0]]), np.diag([3.0, 3.0, 0.0]), np.array([True, True, False])
    kept = positions.copy(), cell.copy(), pbc.copy()
    neighbor_list(positions, cell, pbc, 3.5, engine)
    assert all(np.array_equal(a, b) for a, b in zip((positions, cell, pbc), kept, strict=True))


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_cutoff_must_be_positive(cutoff):
    with pytest.raises(ValueError, match="must be a positive length"):
        neighbor_list(np.zeros((1, 3)), np.eye(3), np.ones(3, bool), cutoff)


def test_unknown_engine_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fast' is not known; use one of: auto, numba, matscipy, reference"):
        neighbor_list(np.zeros((1, 3)), np.eye(3), np.ones(3, bool), 1.0, "fast")


def _atoms(positions, cell, pbc):
    from ase import Atoms

    return Atoms(numbers=np.ones(len(positions)), positions=positions, cell=cell, pbc=pbc)
