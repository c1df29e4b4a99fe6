"""Neighbour lists of whole batches: the same edges in the same order as one by one, by every engine, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.edge_counts import count_edges, count_edges_batch
from unipot.neighbors import (
    ENGINES,
    batch_edge_counts,
    batch_neighbor_list,
    batched,
    default_engine,
    engines,
    limits,
    neighbor_list,
    prepare_engine,
)
from unipot.structure import Structure

INSTALLED = [name for name in ENGINES if name == "reference" or find_spec(name)]
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="the package 'numba' is not installed")


def random_batch(seed: int, max_structures: int = 5, max_atoms: int = 8):
    """Skew cells from flat to roomy, any periodicity, atoms far outside."""
    rng = np.random.default_rng(seed)
    n_atoms = rng.integers(1, max_atoms + 1, rng.integers(1, max_structures + 1))
    cell = rng.uniform(1.8, 9.0, (len(n_atoms), 1, 1)) * np.eye(3) + rng.uniform(-1.6, 1.6, (len(n_atoms), 3, 3))
    cell[np.abs(np.linalg.det(cell)) < 3.0] = 3.0 * np.eye(3)
    return rng.uniform(-20, 20, (n_atoms.sum(), 3)), cell, rng.random((len(n_atoms), 3)) < 0.6, n_atoms


def same(left, right) -> bool:
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cutoff=st.floats(0.5, 6.0))
def test_engines_agree_edge_by_edge_in_order(seed, cutoff):
    found = [batch_neighbor_list(*random_batch(seed), cutoff, engine) for engine in INSTALLED]
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("engine", INSTALLED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_batch_is_its_structures_one_by_one(engine, seed):
    positions, cell, pbc, n_atoms = random_batch(seed)
    starts = np.cumsum(n_atoms) - n_atoms
    own = [positions[start : start + n] for start, n in zip(starts, n_atoms, strict=True)]
    lists = [neighbor_list(own[k], cell[k], pbc[k], 4.0, engine) for k in range(len(n_atoms))]
    edges = np.concatenate([e + start for (e, _), start in zip(lists, starts, strict=True)], axis=1)
    assert same(batch_neighbor_list(positions, cell, pbc, n_atoms, 4.0, engine), (edges, np.concatenate([s for _, s in lists])))


@needs_numba
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cutoff=st.floats(0.5, 6.0))
def test_linked_cells_find_what_all_pairs_find(seed, cutoff):
    batch = random_batch(seed, max_atoms=14)
    all_pairs = batch_neighbor_list(*batch, cutoff, "numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched, "LINKED_CELLS_FROM", 1)
        assert same(batch_neighbor_list(*batch, cutoff, "numba"), all_pairs)


@needs_numba
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n_images=st.integers(1, 2))
def test_search_without_branches_finds_what_nested_ranges_find(seed, n_images):
    """Cells of 1 to 2 cutoffs take one path, a cell half as long along one axis the other; the reference knows."""
    rng = np.random.default_rng(seed)
    cell = 8.0 / n_images * np.eye(3) * rng.uniform(1, 1.3, 3) + rng.uniform(-1, 1, (3, 3))
    batch = rng.uniform(-9, 9, (12, 3)), cell[None], np.ones((1, 3), bool), np.array([12])
    assert same(batch_neighbor_list(*batch, 3.5, "numba"), batch_neighbor_list(*batch, 3.5, "reference"))


@pytest.mark.parametrize("engine", INSTALLED)
def test_order_is_by_centre_neighbour_and_offset(engine):
    edges, shifts = batch_neighbor_list(*random_batch(7), 5.0, engine)
    rows = [tuple(row) for row in np.column_stack([edges.T, shifts]).tolist()]
    assert len(rows) > 20 and rows == sorted(rows)


@pytest.mark.parametrize("engine", INSTALLED)
def test_large_crystal_has_its_coordination_numbers(engine):
    if engine == "reference":
        pytest.skip("the reference is for small structures")
    atoms = bulk("Cu", a=3.6, cubic=True) * 8  # 2,048 atoms: linked cells
    edges, _ = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0, engine)
    assert np.bincount(edges[0]).tolist() == [18] * len(atoms)


@needs_numba
def test_large_rattled_crystal_agrees_with_another_engine():
    atoms = bulk("Cu", a=3.6, cubic=True) * (9, 6, 6)
    atoms.set_cell(atoms.cell + np.random.default_rng(1).uniform(-3, 3, (3, 3)), scale_atoms=True)
    positions = atoms.positions + np.random.default_rng(0).uniform(-30, 30, (len(atoms), 3))
    arguments = positions, atoms.cell.array, np.array([True, False, True]), 5.0
    assert len(atoms) > batched.LINKED_CELLS_FROM
    assert same(neighbor_list(*arguments, "numba"), neighbor_list(*arguments, "matscipy"))


@needs_numba
def test_fragments_far_apart_take_no_memory_for_the_space_between():
    fragment = np.random.default_rng(0).uniform(0, 20, (700, 3))
    positions = np.concatenate([fragment, fragment + [1e7, -1e7, 3e6]])
    edges, _ = neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 4.0, "numba")
    alone, _ = neighbor_list(fragment, np.zeros((3, 3)), np.zeros(3, bool), 4.0, "numba")
    assert edges.shape[1] == 2 * alone.shape[1] > 0


@pytest.mark.parametrize("engine", INSTALLED)
def test_free_directions_need_no_cell(engine):
    atoms = molecule("CH3CH2OH")
    empty, broken = np.zeros((3, 3)), np.full((3, 3), np.nan)
    free = np.zeros(3, bool)
    assert same(neighbor_list(atoms.positions, empty, free, 3.0, engine), neighbor_list(atoms.positions, broken, free, 3.0, engine))


@pytest.mark.parametrize("engine", INSTALLED)
def test_structures_may_be_empty_and_batches_too(engine):
    edges, shifts = batch_neighbor_list(np.zeros((2, 3)) + [[0], [1]], np.zeros((3, 3, 3)), np.zeros((3, 3), bool), [0, 2, 0], 2.0, engine)
    assert edges.tolist() == [[0, 1], [1, 0]] and shifts.tolist() == [[0, 0, 0]] * 2
    edges, shifts = batch_neighbor_list(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3), bool), [], 2.0, engine)
    assert edges.shape == (2, 0) and shifts.shape == (0, 3) and edges.dtype == np.int64


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.float64])
def test_offsets_come_in_the_dtype_asked_for(engine, dtype):
    shifts = batch_neighbor_list(*random_batch(3), 4.0, engine, shift_dtype=dtype)[1]
    assert shifts.dtype == dtype and np.array_equal(shifts, batch_neighbor_list(*random_batch(3), 4.0, "reference")[1])


@needs_numba
def test_read_only_and_unaligned_arrays_are_read_as_they_are():
    positions, *rest = random_batch(4)
    unaligned = np.frombuffer(b"." + positions.tobytes(), np.uint8)[1:].view(np.float64).reshape(-1, 3)
    assert not unaligned.flags.writeable and not unaligned.flags.aligned
    assert same(batch_neighbor_list(unaligned, *rest, 4.0, "numba"), batch_neighbor_list(positions, *rest, 4.0, "numba"))


def test_engine_can_be_prepared_before_workers_start():
    assert prepare_engine() == default_engine() and prepare_engine("reference") == "reference"


@pytest.mark.parametrize("engine", INSTALLED)
def test_edge_counts_are_the_lengths_of_the_lists(engine):
    batch, cutoffs = random_batch(11), (5.0, 2.5, 4.0)
    owner = np.repeat(np.arange(len(batch[3])), batch[3])
    expected = [np.bincount(owner[batch_neighbor_list(*batch, c, engine)[0][0]], minlength=len(batch[3])) for c in cutoffs]
    assert batch_edge_counts(*batch, cutoffs, engine).tolist() == np.transpose(expected).tolist()


def test_edge_counts_of_structures():
    kinds = bulk("Cu"), molecule("H2O")
    structures = [Structure(atomic_numbers=a.numbers, positions=a.positions, cell=a.cell.array, pbc=a.pbc) for a in kinds]
    counts = count_edges_batch(structures, (2.6, 3.7))
    assert counts.tolist() == [[12, 18], [6, 6]] and counts.dtype == np.int32
    assert count_edges(structures[0], (2.6, 3.7)) == [12, 18] and count_edges_batch([], (2.6, 3.7)).shape == (0, 2)


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[0, 0, 0], [1, 0, 0], [np.nan, 0, 0]]}, "structure 1 of the batch: positions or cell contain a number that is not"),
        ({"positions": [[0, 0, 0], [1, 0, 0], [np.inf, 0, 0]]}, "structure 1 of the batch: positions or cell contain a number that is not"),
        ({"cell": [np.eye(3), np.full((3, 3), np.inf)]}, "structure 1 of the batch: positions or cell contain"),
        ({"cell": [np.eye(3), [[1, 0, 0], [0, 1, 0], [1, 1, 0]]]}, r"structure 1 of the batch: the lattice vectors .* span no volume"),
        ({"cell": [np.eye(3), np.zeros((3, 3))]}, "span no volume"),
        ({"positions": [[0, 0, 0], [1, 0, 0], [1e9, 0, 0]]}, "cells outside the periodic cell"),
        ({"cell": [1e-5 * np.eye(3), np.eye(3)]}, r"structure 0 of the batch: 2 atoms have about \S+ pairs within the cutoff of 3 Å"),
        ({"cutoff": 0.0}, "cutoff is 0.0; it must be a positive length"),
        ({"cutoff": np.inf}, "cutoff is inf; it must be a positive length"),
        ({"n_atoms": [2, 2]}, r"positions has shape \(3, 3\)"),
        ({"pbc": np.ones((1, 3), bool)}, r"pbc has shape \(1, 3\); n_atoms says 2 structures"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(engine, change, message):
    good = {"positions": [[0, 0, 0], [1, 0, 0], [2, 0, 0]], "cell": 5 * np.ones((2, 1, 1)) * np.eye(3), "pbc": np.ones((2, 3), bool)}
    with pytest.raises(ValueError, match=message):
        batch_neighbor_list(**{**good, "n_atoms": [2, 1], "cutoff": 3.0, **change}, engine=engine)


@needs_numba
@pytest.mark.parametrize("linked_from", [1, 10**9])
def test_list_that_outgrows_memory_is_refused_before_it_is_made(monkeypatch, linked_from):
    monkeypatch.setattr(batched, "LINKED_CELLS_FROM", linked_from)
    monkeypatch.setattr(limits, "max_edges", lambda: 1000)
    # two clumps, so that the estimate for evenly filled space is far too low and the search itself has to notice
    positions = np.concatenate([np.zeros((40, 3)), np.full((40, 3), 1e4)])
    with pytest.raises(ValueError, match="80 atoms have about 1.* pairs within the cutoff of 2 Å"):
        neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, bool), 2.0, "numba")


def test_messages_name_structures_as_told():
    with pytest.raises(ValueError, match="structure 'a-7': positions"):
        batch_neighbor_list(np.full((1, 3), np.nan), np.eye(3)[None], np.ones((1, 3), bool), [1], 2.0, names=lambda k: "structure 'a-7'")


def test_without_numba_the_next_engine_is_used_and_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "numba" else find_spec(name))
    default_engine.cache_clear()
    try:
        assert default_engine() != "numba" and batch_neighbor_list(*random_batch(2), 4.0)[0].shape[1] > 0
        with pytest.raises(ValueError, match="'numba' needs a package that is not installed: pip install numba"):
            batch_neighbor_list(*random_batch(2), 4.0, "numba")
    finally:
        default_engine.cache_clear()


def test_importing_the_package_imports_neither_numba_nor_torch():
    code = "import sys, unipot.neighbors; print([name for name in ('numba', 'torch', 'matscipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
