"""Every measured column equals what a loop over structures gives."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii

from unipot.data.edge_counts import STORED_CUTOFFS, count_edges
from unipot.data.quality import measurements as module
from unipot.data.quality.measurements import measure
from unipot.data.storage.columns import MEASURED
from unipot.neighbors import neighbor_list
from unipot.structure import Structure


@pytest.fixture
def mixed(make_structure) -> list[Structure]:
    """Molecules, crystals, a lone atom, a slab, and structures without forces."""
    structures = [make_structure(k, n_atoms=2 + k % 5, periodic=k % 2 == 0) for k in range(8)]
    structures.append(Structure(atomic_numbers=[2], positions=[[1, 2, 3]]))
    structures.append(make_structure(20, n_atoms=4, cell=np.diag([4.0, 4.0, 20.0]), pbc=[True, True, False]))
    structures.append(make_structure(21, n_atoms=3).with_labels(energy=np.array(-1.0)))
    return structures


def test_columns_are_those_of_a_store(mixed):
    found = measure(mixed)
    assert set(found) == set(MEASURED)
    for name, column in MEASURED.items():
        assert found[name].dtype == np.dtype(column.dtype) and found[name].shape == (len(mixed), *column.shape)


def test_edge_counts_and_closest_distances(mixed):
    found = measure(mixed)
    for k, structure in enumerate(mixed):
        assert found["edge_counts"][k].tolist() == count_edges(structure, STORED_CUTOFFS)
        edges, shifts = neighbor_list(structure.positions, structure.cell, structure.pbc, 6.0)
        vectors = structure.positions[edges[1]] - structure.positions[edges[0]] + shifts @ structure.cell
        radii = covalent_radii[structure.atomic_numbers]
        expected = (np.linalg.norm(vectors, axis=1) / (radii[edges[0]] + radii[edges[1]])).min(initial=np.inf)
        assert found["closest"][k] == pytest.approx(expected, rel=1e-6)


def test_forces_torque_and_stress(mixed):
    found = measure(mixed)
    for k, structure in enumerate(mixed):
        row = {name: found[name][k] for name in found}
        forces = structure.labels.get("forces")
        if forces is None:
            assert np.isnan([row["max_force"], row["force_squares"], row["net_force"], row["net_torque"]]).all()
        else:
            arms = structure.positions - structure.positions.mean(axis=0)
            torque = np.linalg.norm(np.cross(arms, forces).sum(axis=0)) if not structure.pbc.any() else np.nan
            expected = [np.linalg.norm(forces, axis=1).max(), (forces**2).sum(), np.linalg.norm(forces.sum(axis=0)), torque]
            got = [row["max_force"], row["force_squares"], row["net_force"], row["net_torque"]]
            np.testing.assert_allclose(got, expected, rtol=1e-6)
        stress = structure.labels.get("stress")
        expected = [np.nan, np.nan] if stress is None else [np.abs(stress).max(), -np.trace(stress) / 3]
        np.testing.assert_allclose([row["max_stress"], row["pressure"]], expected, rtol=1e-6)
        volume = structure.volume / structure.n_atoms if structure.pbc.all() else np.nan
        np.testing.assert_allclose(row["volume_per_atom"], volume, rtol=1e-6)


def test_a_batch_gives_what_its_parts_give(mixed, monkeypatch):
    whole = measure(mixed)
    monkeypatch.setattr(module, "_ATOMS_AT_A_TIME", 7)
    parts = measure(mixed)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6)


def test_no_structures_give_empty_columns():
    found = measure([])
    assert found["fingerprint"].shape == (0, 16) and found["closest"].shape == (0,)
