"""The fingerprint does not see how a geometry is written down, and sees every other geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unipot.data.quality.duplicate_search import LIMITS
from unipot.data.quality.fingerprint import SIZE, element_weights
from unipot.data.quality.geometry_match import distances_of, same_geometry
from unipot.data.quality.measurements import measure
from unipot.structure import Structure

#: float32 sums in another order
ROUNDING = 2e-5
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def made(seed: int, periodic: bool, n_atoms: int = 4) -> Structure:
    """Random atoms, none closer than 0.7 Å where that can be had."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 4 + rng.normal(size=(3, 3)) * 0.3
    sites = np.stack(np.meshgrid([0.1, 0.6], [0.1, 0.6], [0.1, 0.6]), -1).reshape(-1, 3)[rng.permutation(8)[:n_atoms]]
    positions = (sites + rng.uniform(-0.12, 0.12, sites.shape)) @ cell
    box = {"cell": cell, "pbc": [True] * 3} if periodic else {}
    return Structure(atomic_numbers=rng.choice([1, 6, 8, 26], n_atoms), positions=positions, **box)


def fingerprint(structure: Structure) -> np.ndarray:
    return measure([structure])["fingerprint"][0]


def rotation(seed: int) -> np.ndarray:
    """Orthogonal, a reflection half of the time."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


@quick
@given(seeds, st.booleans())
def test_rotation_reflection_translation_and_order_do_not_matter(seed, periodic):
    structure, rng = made(seed, periodic), np.random.default_rng(seed)
    turn, order = rotation(seed), rng.permutation(structure.n_atoms)
    moved = structure.positions @ turn + rng.normal(size=3) * 5
    other = replace(
        structure, positions=moved[order], atomic_numbers=structure.atomic_numbers[order], cell=structure.cell @ turn, fixed=None
    )
    np.testing.assert_allclose(fingerprint(other), fingerprint(structure), atol=ROUNDING)
    assert same_geometry(*distances_of([structure, other]))


@quick
@given(seeds)
def test_choice_of_lattice_vectors_and_image_do_not_matter(seed):
    structure, rng = made(seed, periodic=True), np.random.default_rng(seed)
    shear = np.eye(3) + np.triu(rng.integers(-1, 2, (3, 3)), 1)  # determinant 1
    images = rng.integers(-2, 3, (structure.n_atoms, 3)) @ structure.cell
    other = replace(structure, cell=shear @ structure.cell, positions=structure.positions + images)
    np.testing.assert_allclose(fingerprint(other), fingerprint(structure), atol=ROUNDING)


@quick
@given(seeds, st.tuples(*[st.integers(1, 2)] * 3))
def test_a_supercell_has_the_fingerprint_of_its_cell(seed, times):
    structure = made(seed, periodic=True, n_atoms=3)
    shifts = np.stack(np.meshgrid(*[np.arange(n) for n in times], indexing="ij"), -1).reshape(-1, 3) @ structure.cell
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    numbers = np.tile(structure.atomic_numbers, len(shifts))
    other = Structure(atomic_numbers=numbers, positions=positions, cell=structure.cell * np.array(times)[:, None], pbc=[True] * 3)
    np.testing.assert_allclose(fingerprint(other), fingerprint(structure), atol=ROUNDING)
    assert same_geometry(*distances_of([structure, other]))


@quick
@given(seeds, st.booleans())
def test_a_tiny_displacement_stays_within_the_limits_and_a_visible_one_does_not(seed, periodic):
    structure, rng = made(seed, periodic), np.random.default_rng(seed)
    directions = rng.normal(size=(structure.n_atoms, 3))
    directions -= directions.mean(axis=0)  # a common shift is no displacement
    directions /= np.linalg.norm(directions, axis=1).max()
    tiny, visible = (replace(structure, positions=structure.positions + size * directions) for size in (1e-4, 0.05))
    assert (np.abs(fingerprint(tiny) - fingerprint(structure)) <= LIMITS).all()
    one, two, three = distances_of([structure, tiny, visible])
    assert same_geometry(one, two)
    # atoms that turn about their centre keep their distances
    assume(np.abs(_distances(visible) - _distances(structure)).max() > 0.02)
    assert not same_geometry(one, three)
    assert (np.abs(fingerprint(visible) - fingerprint(structure)) > LIMITS).any()


def _distances(structure: Structure) -> np.ndarray:
    return np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)


@pytest.mark.parametrize("distance", [2.0, 5.999, 6.0])
def test_it_is_continuous_at_and_inside_the_cutoff(distance):
    pair = [Structure(atomic_numbers=[6, 8], positions=[[0, 0, 0], [d, 0, 0]]) for d in (distance, distance + 1e-5)]
    numbers = measure(pair)["fingerprint"]
    assert np.abs(numbers[1] - numbers[0]).max() < 1e-4


def test_elements_and_geometries_are_told_apart():
    line, bent = [[0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]], [[0, 0, 0], [1.2, 0, 0], [1.2, 1.2, 0]]
    structures = [Structure(atomic_numbers=z, positions=p) for z in ([8, 6, 8], [6, 8, 8], [8, 8, 8]) for p in (line, bent)]
    numbers = measure(structures)["fingerprint"]
    gaps = (np.abs(numbers[:, None] - numbers[None]) / LIMITS).max(axis=-1) + 99 * np.eye(len(numbers))
    assert gaps.min() > 50


def test_lone_atoms_have_a_fingerprint_of_their_element():
    atoms = [Structure(atomic_numbers=[z], positions=[[0, 0, 0]]) for z in (1, 1, 8)]
    numbers = measure(atoms)["fingerprint"]
    assert numbers.shape == (3, SIZE) and np.isfinite(numbers).all()
    assert (numbers[0] == numbers[1]).all() and abs(numbers[0, 0] - numbers[2, 0]) > LIMITS[0]


def test_element_weights_never_change():
    table = element_weights(2)
    assert table.shape == (2, 119) and ((table >= 0.5) & (table < 1.5)).all()
    assert len(np.unique(table[:, 1:])) == 2 * 118
    np.testing.assert_allclose(table[:, 1], GOLDEN, rtol=0, atol=1e-15)


#: of hydrogen, as first computed; stores hold fingerprints, so another table would make old and new ones disagree
GOLDEN = [1.4074191742243154, 0.5240253578145806]
