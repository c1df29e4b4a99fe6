"""Shortest distances of pairs of elements, from stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.quality import close_pairs
from unipot.data.quality.close_pairs import closest_pairs
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.testing.probes import triclinic_crystal

BELOW = 0.65


def store_of(folder: Path, structures: list[Structure]) -> Store:
    with StoreWriter(folder / "pairs.unipot", name="pairs", level_of_theory="PBE", labels=("energy",), overwrite=True) as writer:
        for number, structure in enumerate(structures):
            writer.add(
                Structure(
                    id=str(number), atomic_numbers=structure.atomic_numbers, positions=structure.positions, cell=structure.cell,
                    pbc=structure.pbc, labels={"energy": 0.0},
                )
            )  # fmt: skip
    return Store(folder / "pairs.unipot")


def dimer(first: int, second: int, distance: float) -> Structure:
    return Structure(atomic_numbers=[first, second], positions=[[0, 0, 0], [0, distance, 0]])


def by_hand(structures: list[Structure], below: float) -> dict[tuple[int, int], float]:
    """Every pair of atoms and images, one after the other, by ASE's neighbour list."""
    from ase.neighborlist import neighbor_list

    found: dict[tuple[int, int], float] = {}
    for s in structures:
        i, j, d = neighbor_list("ijd", Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc), 4.0)
        for a, b, distance in zip(s.atomic_numbers[i], s.atomic_numbers[j], d, strict=True):
            if distance < below * (covalent_radii[a] + covalent_radii[b]):
                key = (int(min(a, b)), int(max(a, b)))
                found[key] = min(found.get(key, np.inf), float(distance))
    return found


def test_pairs_are_those_found_one_by_one_in_crystals_and_molecules(tmp_path) -> None:
    crystal = triclinic_crystal((8, 1, 6, 7))
    squeezed = [
        Structure(atomic_numbers=crystal.atomic_numbers, positions=factor * crystal.positions, cell=factor * crystal.cell, pbc=crystal.pbc)
        for factor in (0.3, 0.35, 0.4)
    ]
    structures = [*squeezed, dimer(24, 24, 1.61), dimer(24, 8, 1.0), dimer(1, 1, 0.74), dimer(42, 42, 1.9)]
    found = closest_pairs(store_of(tmp_path, structures), BELOW)
    assert found == pytest.approx(by_hand(structures, BELOW)) and len(found) >= 6


@given(distances=st.lists(st.floats(0.9, 2.6), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_the_shortest_distance_of_dimers_is_found_where_it_is_short_enough(distances: list[float], tmp_path_factory) -> None:
    store = store_of(tmp_path_factory.mktemp("dimers"), [dimer(24, 24, distance) for distance in distances])
    end = BELOW * 2 * covalent_radii[24]
    expected = {(24, 24): min(distances)} if min(distances) < end else {}
    assert closest_pairs(store, BELOW) == pytest.approx(expected)


def test_only_the_structures_asked_for_count(tmp_path) -> None:
    store = store_of(tmp_path, [dimer(24, 24, distance) for distance in (1.7, 1.5, 1.6)])
    assert closest_pairs(store, BELOW, [0, 2]) == pytest.approx({(24, 24): 1.6}) and closest_pairs(store, BELOW, []) == {}


def test_structures_without_a_close_pair_are_not_read(tmp_path, monkeypatch) -> None:
    store = store_of(tmp_path, [dimer(24, 24, 2.4)] * 5 + [dimer(8, 8, 0.7)])
    read, get = [], Store.__getitem__
    monkeypatch.setattr(Store, "__getitem__", lambda self, index: (read.append(index), get(self, index))[1])
    assert closest_pairs(store, BELOW) == pytest.approx({(8, 8): 0.7}) and read == [5]


def test_of_very_many_structures_an_even_part_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(close_pairs, "MOST_READ", 3)
    store = store_of(tmp_path, [dimer(24, 24, 1.7 - 0.01 * k) for k in range(9)])
    assert closest_pairs(store, BELOW) == pytest.approx({(24, 24): 1.62})
