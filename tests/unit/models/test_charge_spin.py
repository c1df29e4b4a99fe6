"""Total charge and spin multiplicity as inputs of the native backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from unipot import testing
from unipot.batch import collate
from unipot.models import Potential, build_backbone
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster, repeated, thin_slab, triclinic_crystal
from unipot.zoo import load_potential, save_artifact

SIZES = {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2}
BOTH = {"charge": True, "spin": True}
ELEMENTS = (8, 1, 6, 7)
#: total charge, spin multiplicity
STATES = [(1, None), (-1, 2), (0, 3), (-0.5, 1)]


def native(**hyperparameters: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone("native", {**SIZES, **hyperparameters}).double().eval()


def charged(structure: Structure, charge: float = 0.0, spin: int | None = None) -> Structure:
    return replace(structure, total_charge=charge, spin_multiplicity=spin)


def probes(charge: float, spin: int | None) -> list[Structure]:
    return [charged(make(ELEMENTS), charge, spin) for make in (chiral_cluster, triclinic_crystal, thin_slab)]


def batch_of(*structures: Structure, dtype: torch.dtype = torch.float64) -> object:
    return collate(structures, cutoff=5.0, dtype=dtype)


def energies(potential: Potential, *structures: Structure) -> np.ndarray:
    return potential(batch_of(*structures), ("energy",)).energy.detach().numpy()


@pytest.fixture
def potential(make_potential: Callable[..., Potential]) -> Potential:
    return make_potential(n_layers=2, **BOTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neutral_structures_of_unstated_spin_have_the_features_of_a_model_without(dtype: torch.dtype) -> None:
    batch = batch_of(*probes(0, None), dtype=dtype)
    plain, with_states = (native(**options).to(dtype)(batch) for options in ({}, BOTH))
    assert plain.scalars.abs().max() > 1e-3
    assert torch.equal(plain.scalars, with_states.scalars) and torch.equal(plain.vectors, with_states.vectors)


def test_random_numbers_of_what_is_built_after_are_the_same_with_and_without() -> None:
    drawn = []
    for options in ({}, BOTH):
        native(**options)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("option", ["charge", "spin"])
def test_only_what_is_switched_on_is_read(option: str) -> None:
    backbone = native(**{option: True})
    assert backbone.conditions == ({"charge": "total_charge", "spin": "spin_multiplicity"}[option],)
    testing.check_conditions(backbone)


@pytest.mark.parametrize(("charge", "spin"), STATES)
def test_charged_and_open_shell_structures_keep_the_symmetries(charge: float, spin: int | None) -> None:
    backbone = native(**BOTH)
    for check in (testing.check_rotation, testing.check_reflection, testing.check_permutation, testing.check_batch_equals_single):
        check(backbone, probes(charge, spin))


def test_a_batch_of_different_states_equals_each_alone(potential: Potential) -> None:
    structures = [charged(chiral_cluster(ELEMENTS), charge, spin) for charge, spin in STATES]
    together = potential(batch_of(*structures))
    alone = [potential(batch_of(s)) for s in structures]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]), rtol=1e-12, atol=0)
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in alone]), rtol=0, atol=1e-12)
    assert len({round(float(e), 6) for e in together.energy.detach()}) == len(STATES)


@pytest.mark.parametrize(("charge", "spin"), STATES)
def test_n_charged_cells_are_n_times_one(potential: Potential, charge: float, spin: int | None) -> None:
    testing.check_supercell(potential, charged(triclinic_crystal(ELEMENTS), charge, spin))


def test_one_charge_in_a_growing_crystal_costs_a_finite_energy(potential: Potential) -> None:
    crystal, costs = triclinic_crystal(ELEMENTS), []
    for n in (1, 8, 16):
        large = repeated(crystal, (n, 1, 1))
        neutral, ion = energies(potential, large, charged(large, 1))
        costs.append(ion - neutral)
    assert abs(costs[1]) > 1e-4
    assert abs(costs[2] - costs[1]) < 0.1 * abs(costs[1]), costs


def test_shares_of_a_charge_add_up_to_it() -> None:
    state = native(**BOTH).charge_spin
    torch.nn.init.normal_(state.charge_share)
    batch = batch_of(charged(chiral_cluster(ELEMENTS), -3))
    shares = state._dealt_out(batch, torch.full((batch.n_atoms,), -3.0, dtype=torch.float64), state.charge_share[1, batch.atomic_numbers])
    assert float(shares.sum().detach()) == pytest.approx(-3.0) and shares.std() > 1e-3


def test_energy_is_a_smooth_function_of_the_geometry_of_an_ion(potential: Potential) -> None:
    ion, step = charged(chiral_cluster(ELEMENTS), -1, 2), 1e-4
    forces = potential(batch_of(ion)).forces.detach().numpy()
    moved = []
    for sign in (1, -1):
        positions = ion.positions.copy()
        positions[2, 1] += sign * step
        moved.append(replace(ion, positions=positions))
    up, down = energies(potential, *moved)
    assert forces[2, 1] == pytest.approx(-(up - down) / (2 * step), abs=1e-6) and abs(forces[2, 1]) > 1e-4


def test_one_atom_ions_differ_from_the_atom_and_feel_no_force(potential: Potential) -> None:
    atoms = [Structure(atomic_numbers=[z], positions=[[0, 0, 0]], total_charge=q) for z in (1, 8) for q in (-1, 0, 1)]
    predictions = potential(batch_of(*atoms))
    assert np.unique(predictions.energy.detach().numpy().round(6)).size == 6 and not predictions.forces.any()
    neutral = [float(predictions.energy[k]) for k in (1, 4)]
    assert neutral == [-101.0, -108.0]  # the references


def test_a_stated_singlet_starts_as_one_that_is_not_stated_and_can_part_from_it(potential: Potential) -> None:
    cluster = chiral_cluster(ELEMENTS)
    unstated, singlet = energies(potential, cluster, charged(cluster, spin=1))
    assert unstated == singlet
    table = potential.backbone.charge_spin.spin_stated
    potential(batch_of(charged(cluster, spin=1)), ("energy",)).energy.sum().backward()
    assert table.grad.abs().max() > 1e-6


def test_ionisation_energies_can_be_learned(potential: Potential) -> None:
    """Of lone atoms too: nothing but the state tells them apart."""
    water = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms = [Structure(atomic_numbers=[z], positions=[[0, 0, 0]], total_charge=q) for z, q in ((1, 1), (8, 1), (8, -1))]
    batch = batch_of(charged(water), charged(water, 1, 2), *atoms)
    references = torch.tensor([-310.0, -310.0, -101.0, -108.0, -108.0], dtype=torch.float64)
    wanted = references + torch.tensor([-10.0, 2.6, 13.6, 13.6, -1.5], dtype=torch.float64)
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (potential(batch, ("energy",)).energy - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01


@pytest.mark.parametrize(("charge", "spin"), [(2, None), (-1.2, None), (0, 2), (0, 5)])
def test_states_that_were_not_trained_are_refused(charge: float, spin: int | None) -> None:
    backbone = native(**BOTH, trained_charges=[-1, 1], trained_spins=[0, 1])
    cluster = chiral_cluster(ELEMENTS)
    batch = batch_of(charged(cluster, 1), replace(charged(cluster, charge, spin), id="ion"))
    with pytest.raises(ValueError, match=r"structure 'ion': total .* charges from -1 to 1 and spin multiplicities not stated, 1 only"):
        backbone(batch)


def test_an_unstated_spin_is_refused_where_training_always_stated_it() -> None:
    with pytest.raises(ValueError, match="spin multiplicity not stated; this model was trained on spin multiplicities 1, 3 only"):
        native(spin=True, trained_spins=[1, 3])(batch_of(chiral_cluster(ELEMENTS)))


def test_training_and_models_without_limits_take_any_state() -> None:
    batch = batch_of(charged(chiral_cluster(ELEMENTS), 7, 9))
    assert native(**BOTH, trained_charges=[0, 0], trained_spins=[0]).train()(batch).scalars.isfinite().all()
    assert native(**BOTH)(batch).scalars.isfinite().all()


def test_admitted_states_are_taken_and_kept_in_the_hyperparameters() -> None:
    backbone = native(**BOTH, trained_charges=[0, 0], trained_spins=[0])
    backbone.admit_states([-1.0, 0.0], [2])
    assert backbone(batch_of(charged(chiral_cluster(ELEMENTS), -1, 2))).scalars.isfinite().all()
    known = json.loads(json.dumps(backbone.hyperparameters))
    assert known["trained_charges"] == [-1.0, 0.0] and known["trained_spins"] == [0, 2]


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"trained_charges": [0, 1]}, r"trained_charges is \[0, 1\], but charge is false"),
        ({"charge": True, "trained_spins": [1]}, r"trained_spins is \[1\], but spin is false"),
        ({"charge": True, "trained_charges": [1, 0]}, "give the lowest and the highest"),
        ({"spin": True, "trained_spins": [-1]}, "0 for not stated"),
    ],
)
def test_contradicting_hyperparameters_are_refused(hyperparameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native(**hyperparameters)


@pytest.mark.parametrize("spins", [[0, 2], [1, 2]])
def test_artifacts_keep_states_and_are_checked_in_one_of_them(make_potential, tmp_path, spins: list[int]) -> None:
    potential = make_potential(**BOTH, trained_charges=[1, 2], trained_spins=spins)
    loaded = load_potential(save_artifact(tmp_path / "m.safetensors", potential))
    ion = charged(chiral_cluster(ELEMENTS), 1, 2)
    assert energies(loaded, ion) == energies(potential, ion)
    with pytest.raises(ValueError, match="charges from 1 to 2"):
        energies(loaded, chiral_cluster(ELEMENTS))


def test_all_contracts_hold_for_a_model_with_limits(make_potential) -> None:
    potential = make_potential(**BOTH, trained_charges=[1, 2], trained_spins=[2])
    testing.check_potential(potential, skip=["double backward"])
    assert potential.backbone.trained_states.charges == (1.0, 2.0)


def test_charge_tables_are_not_the_embedding_again():
    torch.manual_seed(0)
    backbone = build_backbone("native", {"charge": True, "spin": True, "trained_charges": [0, 1], "trained_spins": [0, 1, 2]})
    tables = dict(backbone.named_parameters())
    embedding = next(value for name, value in tables.items() if name.startswith("embedding") and value.ndim == 2)
    for name in ("charge_value", "spin_value"):
        table = next(value for key, value in tables.items() if key.endswith(name)).reshape(-1, *embedding.shape)
        for rows in table:
            assert abs(torch.corrcoef(torch.stack([rows.flatten(), embedding.flatten()]))[0, 1]) < 0.1
