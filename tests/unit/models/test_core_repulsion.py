"""Repulsion of close nuclei: strong inside, smooth, and absent from every bond."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from ase.io import iread

from unipot import testing
from unipot.batch import AtomBatch, collate
from unipot.data.quality.close_pairs import closest_pairs
from unipot.data.store import Store, StoreWriter
from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone
from unipot.models.core_repulsion import covalent_radii, edge_lengths, repulsion, switch
from unipot.structure import Structure
from unipot.testing.probes import moved, triclinic_crystal

CUTOFF = 5.0
#: distances (Å) of the shortest bonds there are; the second O–H is that of a vibrating molecule
BONDS = [("H", "H", 0.74), ("N", "N", 1.098), ("C", "O", 1.128), ("O", "H", 0.96), ("O", "H", 0.75), ("F", "H", 0.917), ("C", "C", 1.2),
         ("N", "C", 1.11), ("O", "O", 1.207), ("Li", "H", 1.595), ("U", "O", 1.75), ("Cs", "O", 2.19)]  # fmt: skip


def potential(*, core: bool = True, silent: bool = False, direct: bool = False, dtype: torch.dtype = torch.float64) -> Potential:
    """Two heads; `silent` zeroes the readouts, so that energies beyond the references are the repulsion alone."""
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1, "cutoff": CUTOFF})
    bank = HeadBank()
    for name in ("a", "b"):
        reference = CompositionReference(np.full(119, -100.0), np.ones(119, dtype=bool))
        bank.add(Head(name, level_of_theory=name, n_channels=8, n_vector_channels=4, reference=reference, direct_forces=direct))
        if silent:
            torch.nn.init.zeros_(bank[name].readout.output.weight)
            if direct:
                torch.nn.init.zeros_(bank[name].force_readout.weight)
    return Potential(backbone, bank, CoreRepulsion() if core else None).to(dtype).eval()


def dimers(first: str, second: str, distances: np.ndarray, dtype: torch.dtype = torch.float64) -> AtomBatch:
    numbers = [atomic_numbers[first], atomic_numbers[second]]
    return collate([Structure(atomic_numbers=numbers, positions=[[0, 0, 0], [0, 0, d]]) for d in distances], cutoff=CUTOFF, dtype=dtype)


def dense_crystal() -> Structure:
    """Nearest atoms at about 0.5 Å."""
    crystal = triclinic_crystal((8, 1, 6, 7))
    return moved(crystal, crystal.positions * 0.3, crystal.cell * 0.3)


@pytest.mark.parametrize(("first", "second"), [("H", "H"), ("O", "H"), ("Cu", "Cu"), ("U", "O"), ("Og", "Og")])
def test_a_bond_scan_is_smooth_and_repulsive_down_to_a_tenth_of_an_angstrom(first: str, second: str) -> None:
    distances = np.linspace(0.1, CUTOFF + 0.1, 2001)
    batch = dimers(first, second, distances)
    predictions = potential(silent=True)(batch)
    energy = (predictions.energy + 200).numpy()
    force = predictions.forces.reshape(-1, 2, 3)[:, 1, 2].numpy()
    radii = covalent_radii(torch.device("cpu"))
    end = 0.65 * float(radii[atomic_numbers[first]] + radii[atomic_numbers[second]])
    inside = distances < 0.999 * end
    assert np.isfinite(energy).all() and np.isfinite(force).all()
    assert (np.diff(energy[inside]) < 0).all() and (force[inside] > 0).all() and energy[0] > 10
    assert not energy[distances > end].any() and not force[distances > end].any()
    # no jump in the energy, none in the force
    work = -np.concatenate([[0.0], np.cumsum(0.5 * (force[1:] + force[:-1]) * np.diff(distances))])
    assert np.abs(energy - energy[0] - work).max() < 2e-3 * energy[0]


def test_value_is_that_of_the_universal_screening_function() -> None:
    z, w, r = 29, 8, 0.31
    x = r * (z**0.23 + w**0.23) / 0.4685
    screening = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x) + 0.28022 * math.exp(-0.4029 * x)
    screening += 0.02817 * math.exp(-0.20162 * x)
    expected = 14.399645 * z * w / r * screening
    assert float(potential(silent=True)(dimers("Cu", "O", np.array([r]))).energy) + 200 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("first", "second", "distance"), BONDS)
def test_bonds_do_not_feel_it(first: str, second: str, distance: float) -> None:
    batch = dimers(first, second, np.array([distance]))
    assert not CoreRepulsion()(batch, edge_lengths(batch), CUTOFF).any()


@pytest.mark.parametrize("name", ["acac", "3bpa", "rmd17_aspirin", "spice_sub", "water_revpbe0d3", "mptrj_1k", "oc20_debug", "mlearn_Mo"])
def test_real_structures_that_are_trained_on_do_not_feel_it(real_data, name: str, tmp_path) -> None:
    frames = [Structure.from_ase(atoms) for atoms in islice(iread(real_data / name / "train.extxyz"), 0, 200, 8)]
    with StoreWriter(tmp_path / "real.unipot", name="real", level_of_theory="any", labels=("energy",)) as writer:
        for number, frame in enumerate(frames):
            writer.add(replace(frame, id=str(number), labels={"energy": 0.0}))
    core = CoreRepulsion().admitting(closest_pairs(Store(tmp_path / "real.unipot"), CoreRepulsion().reach))
    for dtype in (torch.float32, torch.float64):
        batch = collate(frames, cutoff=3.2, dtype=dtype)
        assert batch.n_edges > 100
        assert not core(batch, edge_lengths(batch), 3.2).any()


def test_a_pair_that_data_have_close_feels_it_below_its_distance_only() -> None:
    core = CoreRepulsion().admitting({(24, 24): 1.6104})
    closer, seen = (dimers("Cr", "Cr", np.array([distance])) for distance in (1.6, 1.61))
    assert core.closest == {"Cr-Cr": 1.61}
    assert CoreRepulsion()(seen, edge_lengths(seen), CUTOFF).all() and not core(seen, edge_lengths(seen), CUTOFF).any()
    assert core(closer, edge_lengths(closer), CUTOFF).all()


def test_other_pairs_keep_their_distance() -> None:
    batch = dimers("Cr", "O", np.array([0.9, 1.2]))
    plain, core = CoreRepulsion(), CoreRepulsion().admitting({(24, 24): 1.3})
    assert torch.equal(plain(batch, edge_lengths(batch), CUTOFF), core(batch, edge_lengths(batch), CUTOFF)) and plain.closest == {}


def test_the_shortest_distance_of_several_sets_counts_and_long_ones_change_nothing() -> None:
    core = CoreRepulsion().admitting({(24, 24): 1.7, (8, 1): 0.95}).admitting({(24, 24): 1.6, (8, 24): 1.2}).admitting({(24, 24): 1.75})
    assert core.closest == {"Cr-Cr": 1.6, "O-Cr": 1.2}


@pytest.mark.parametrize("pair", ["Cr", "Cr-O", "Xx-O", "O-O-O", "8-24", "X-H", ""])
def test_something_that_is_no_pair_of_elements_is_refused(pair: str) -> None:
    with pytest.raises(ValueError, match="not a pair of elements"):
        CoreRepulsion(closest={pair: 1.0})


def test_distances_that_are_not_given_by_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="give distances by pair of elements"):
        CoreRepulsion(closest=[("O-Cr", 1.0)])  # type: ignore[arg-type]


@pytest.mark.parametrize("distance", [0.0, -1.0, float("nan"), True, "1.2", None])
def test_a_closest_distance_that_is_not_positive_is_refused(distance: Any) -> None:
    with pytest.raises(ValueError, match="give one above 0"):
        CoreRepulsion(closest={"O-Cr": distance})


def test_with_it_normal_structures_have_the_same_predictions_to_the_last_bit() -> None:
    batch = collate([triclinic_crystal((8, 1, 6, 7))], cutoff=CUTOFF)
    plain, repelled = (potential(core=core, dtype=torch.float32)(batch, ("energy", "forces", "stress")) for core in (False, True))
    assert all(torch.equal(plain[name], repelled[name]) for name in ("energy", "forces", "stress"))


def test_switch_has_three_continuous_derivatives() -> None:
    for place in (0.5, 1.0):
        x = torch.tensor([place - 1e-9, place + 1e-9], dtype=torch.float64, requires_grad=True)
        value = switch(x)
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            assert float((value[1] - value[0]).detach().abs()) < 1e-4


def test_it_is_finite_at_the_smallest_distance_that_is_let_through() -> None:
    for dtype in (torch.float32, torch.float64):
        predictions = potential(dtype=dtype)(dimers("Og", "Og", np.array([0.0011]), dtype))
        assert predictions.energy.isfinite().all() and predictions.forces.isfinite().all() and float(predictions.energy) > 1e6


@pytest.mark.parametrize("head", [0, 1])
def test_forces_and_stress_of_a_dense_crystal_are_its_derivatives(head: int) -> None:
    model, crystal = potential(), dense_crystal()
    testing.check_force_is_gradient(model, crystal, head=head)
    testing.check_stress_is_strain_derivative(model, crystal, head=head)
    testing.check_supercell(model, crystal)
    testing.check_rotation(model, [crystal])


def test_every_head_gets_the_same_repulsion() -> None:
    both = [dense_crystal()] * 2
    batch = collate(both, cutoff=CUTOFF, head_index=[0, 1], dtype=torch.float64)
    added = potential()(batch).energy - potential(core=False)(batch).energy
    assert float(added[0]) > 10 and added[0] == pytest.approx(float(added[1]))


def test_direct_forces_repel_too() -> None:
    batch = dimers("O", "H", np.array([0.3, 1.0]))
    direct = potential(silent=True, direct=True)(batch, ("energy", "forces", "stress"))
    torch.testing.assert_close(direct.forces, potential(silent=True)(batch).forces)
    assert float(direct.forces[1, 2]) > 10 and not direct.forces[2:].any()


def test_a_loss_on_forces_of_close_atoms_has_finite_gradients() -> None:
    model = potential().train()
    model(collate([dense_crystal()], cutoff=CUTOFF, dtype=torch.float64)).forces.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients) and max(float(g.abs().max()) for g in gradients) > 0


def test_second_derivatives_exist() -> None:
    charges = torch.tensor([8.0, 29.0], dtype=torch.float64)
    distance = torch.tensor([0.4, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda r: repulsion(r, charges, charges.flip(0)) * switch(r), (distance,))


def test_atomic_energies_add_up_to_the_energy() -> None:
    model, batch = potential(), collate([dense_crystal()], cutoff=CUTOFF, dtype=torch.float64)
    torch.testing.assert_close(batch.sum_over_atoms(model.atomic_energies(batch)), model(batch).energy)


def test_a_longer_neighbour_list_changes_nothing() -> None:
    crystal = dense_crystal()
    short, long = (potential()(collate([crystal], cutoff=c, dtype=torch.float64)).energy for c in (CUTOFF, 6.0))
    torch.testing.assert_close(short, long, rtol=1e-12, atol=0)


def test_a_short_cutoff_ends_it_smoothly() -> None:
    core, cutoff = CoreRepulsion(), 0.6
    energies = []
    for distance in (0.3, 0.5999, 0.6001):
        batch = dimers("Cu", "Cu", np.array([distance]))
        energies.append(float(core(batch, edge_lengths(batch), cutoff).sum()))
    assert energies[0] > 100 and 0 < energies[1] < 1e-6 and energies[2] == 0


@pytest.mark.parametrize("reach", [0, -1, 1.5, True, float("nan")])
def test_a_reach_outside_its_range_is_refused(reach: float) -> None:
    with pytest.raises(ValueError, match="core_repulsion is"):
        CoreRepulsion(reach)


@pytest.mark.parametrize("closest", [{}, {(8, 8): 0.4, (1, 7): 0.3}])
def test_description_rebuilds_it(make_potential: Callable[..., Potential], closest: dict[tuple[int, int], float]) -> None:
    model = potential()
    model.core_repulsion = model.core_repulsion.admitting(closest)
    twin = Potential.from_description(model.describe()).eval()
    twin.load_state_dict(model.state_dict())
    batch = collate([dense_crystal()], cutoff=CUTOFF, dtype=torch.float64)
    assert torch.equal(model(batch).energy, twin(batch).energy)
    assert Potential.from_description(make_potential().describe()).core_repulsion is None
