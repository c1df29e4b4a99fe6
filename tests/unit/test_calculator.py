"""The ASE calculator: equal to training-side prediction, and clear about heads, elements and what does not exist."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.structure import Structure
from unipot.zoo import save_artifact


@pytest.fixture
def crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Al"
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell @ (np.eye(3) + [[0.02, 0.01, 0], [0, -0.01, 0.03], [0, 0, 0.01]]), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_equal_training_side_prediction_bitwise(make_potential, crystal, dtype):
    potential = make_potential(heads=("a", "b"), dtype=dtype)
    others = [Structure.from_ase(molecule("CH3OH")), Structure.from_ase(crystal)]
    alone = collate(others[1:], cutoff=potential.cutoff, head_index=[1], dtype=dtype)
    expected = potential(alone, ("energy", "forces", "stress"))
    crystal.calc = UnipotCalculator(potential, head="b")
    assert crystal.get_potential_energy() == float(expected["energy"][0])
    assert np.array_equal(crystal.get_forces(), expected["forces"].double().numpy())
    assert np.array_equal(crystal.get_stress(voigt=False), expected["stress"][0].double().numpy())


def test_calculator_from_a_file_equals_calculator_from_the_model(make_potential, crystal, tmp_path):
    potential = make_potential()
    crystal.calc = UnipotCalculator(potential)
    expected = crystal.get_potential_energy(), crystal.get_forces()
    crystal.calc = UnipotCalculator(save_artifact(tmp_path / "m.safetensors", potential))
    assert crystal.get_potential_energy() == expected[0] and np.array_equal(crystal.get_forces(), expected[1])


def test_forces_are_the_numerical_gradient_that_ase_takes(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    assert np.abs(crystal.get_forces()).max() > 1e-2
    assert np.allclose(crystal.get_forces(), calculate_numerical_forces(crystal, eps=1e-4), atol=1e-7)


def test_stress_has_the_sign_and_order_of_ase(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    assert np.abs(crystal.get_stress()).max() > 1e-4
    assert np.allclose(crystal.get_stress(), calculate_numerical_stress(crystal, eps=1e-5), atol=1e-8)


def test_free_energy_equals_energy(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    assert crystal.get_potential_energy(force_consistent=True) == crystal.get_potential_energy()


def test_energies_of_atoms_sum_to_the_energy(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy(), abs=1e-10)


def test_stress_of_a_molecule_is_refused(make_potential):
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(make_potential())
    with pytest.raises(PropertyNotImplementedError, match=r"stress of H2O is not defined: pbc is \[False, False, False\]"):
        atoms.get_stress()


def test_slab_gives_energy_and_forces_but_no_stress(make_potential, crystal):
    crystal.pbc = [True, True, False]
    crystal.calc = UnipotCalculator(make_potential())
    crystal.get_forces()
    assert "stress" not in crystal.calc.results


def test_only_head_needs_no_name(make_potential):
    assert UnipotCalculator(make_potential()).head == "only"


@pytest.mark.parametrize("from_file", [False, True])
def test_device_auto_is_taken_as_by_the_commands(make_potential, tmp_path, from_file):
    potential = make_potential()
    model = save_artifact(tmp_path / "m.safetensors", potential) if from_file else potential
    calculator = UnipotCalculator(model, device="auto")
    assert calculator.potential.device.type == ("cuda" if from_file and torch.cuda.is_available() else "cpu")


def test_frames_of_a_potential_without_a_file_carry_the_hash_of_its_present_weights(make_potential):
    potential = make_potential()
    calculator = UnipotCalculator(potential)
    before = calculator.provenance
    assert (before["head"], before["level_of_theory"]) == ("only", "level 0") and calculator.provenance == before
    with torch.no_grad():
        potential.heads["only"].readout.output.weight.mul_(2)
    assert calculator.provenance["model_sha256"] != before["model_sha256"]


def test_missing_head_lists_the_heads(make_potential):
    with pytest.raises(ValueError, match=r"has 2 heads: 'a' \(level 0\), 'b' \(level 1\); say which one"):
        UnipotCalculator(make_potential(heads=("a", "b")))


def test_wrong_head_lists_the_heads(make_potential):
    with pytest.raises(KeyError, match="head 'pbee' is not in this model .did you mean 'pbe'.*available: pbe, scan"):
        UnipotCalculator(make_potential(heads=("pbe", "scan")), head="pbee")


def test_heads_give_different_energies(make_potential, crystal):
    potential, energies = make_potential(heads=("a", "b")), []
    for head in ("a", "b"):
        crystal.calc = UnipotCalculator(potential, head=head)
        energies.append(crystal.get_potential_energy())
    assert abs(energies[0] - energies[1]) > 100


def test_unknown_element_is_named(make_potential):
    atoms = Atoms("XeO2", positions=[[0, 0, 0], [1.9, 0, 0], [-1.9, 0, 0]], calculator=UnipotCalculator(make_potential()))
    with pytest.raises(ValueError, match=r"element\(s\) Xe are unknown to head 'only' .* knows H, C, N, O, Al, Cu"):
        atoms.get_potential_energy()


def test_nan_position_is_refused(make_potential):
    atoms = molecule("H2O")
    atoms.positions[1, 2] = np.nan
    atoms.calc = UnipotCalculator(make_potential())
    with pytest.raises(ValueError, match=r"structure 'H2O': positions contain 1 non-finite value"):
        atoms.get_forces()


def test_missing_cell_is_refused(make_potential):
    atoms = Atoms("Cu", pbc=True, calculator=UnipotCalculator(make_potential()))
    with pytest.raises(ValueError, match="structure 'Cu': pbc is .* but lattice vector"):
        atoms.get_potential_energy()


def test_non_finite_prediction_is_refused_with_the_closest_atoms(make_potential):
    potential = make_potential()
    with torch.no_grad():
        potential.heads["only"].readout.output.weight.fill_(float("inf"))
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(potential)
    with pytest.raises(ValueError, match=r"prediction for H2O is not finite; the closest atoms are 0 and [12], 0\.969 Å apart"):
        atoms.get_potential_energy()


def test_moved_atoms_are_computed_anew(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    before = crystal.get_potential_energy()
    crystal.positions[0, 0] += 0.1
    assert crystal.get_potential_energy() != before


def test_same_atoms_are_computed_once(make_potential, crystal, monkeypatch):
    potential, calls = make_potential(), []
    monkeypatch.setattr(potential.backbone, "forward", lambda batch, f=potential.backbone.forward: calls.append(1) or f(batch))
    crystal.calc = UnipotCalculator(potential)
    crystal.get_potential_energy(), crystal.get_forces(), crystal.get_stress()
    assert len(calls) == 1


def test_changed_charge_is_noticed(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    crystal.get_potential_energy()
    crystal.info["total_charge"] = 1
    assert crystal.calc.check_state(crystal) == ["info"]


def test_charge_that_the_model_does_not_read_is_warned_of_once(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    neutral = crystal.get_potential_energy()
    crystal.info.update(total_charge=1, spin_multiplicity=2)
    with pytest.warns(UserWarning, match="does not read total charge 1 and spin multiplicity 2"):
        assert crystal.get_potential_energy() == neutral
    crystal.info["total_charge"] = 2
    assert crystal.get_potential_energy() == neutral and crystal.calc.parameters["conditions"] == "none"


def test_an_info_key_that_looks_like_a_spin_and_is_not_read_is_named_once(make_potential, crystal):
    crystal.calc = UnipotCalculator(make_potential())
    crystal.info["total_spin"] = 3
    with pytest.warns(UserWarning, match=r"atoms.info\['total_spin'\] is not read; charge and spin are taken from total_charge"):
        crystal.get_potential_energy()
    crystal.info["total_spin"] = 1
    crystal.rattle(0.01)
    crystal.get_potential_energy()  # a warning would be an error here


@pytest.mark.parametrize(
    ("key", "value"), [("total_charge", 1), ("charge", -1), ("spin_multiplicity", 2), ("spin", 3), ("multiplicity", 3)]
)
def test_charge_and_spin_of_the_atoms_reach_the_prediction(make_potential, crystal, key, value):
    crystal.calc = UnipotCalculator(make_potential(charge=True, spin=True))
    assert crystal.calc.parameters["conditions"] == "total_charge, spin_multiplicity"
    neutral = crystal.get_potential_energy()
    crystal.info[key] = value
    assert abs(crystal.get_potential_energy() - neutral) > 1e-6


def test_potential_in_training_mode_is_left_as_it_is(make_potential, crystal):
    potential = make_potential().train()
    crystal.calc = UnipotCalculator(potential)
    crystal.get_forces()
    assert potential.training and all(p.requires_grad and p.grad is None for p in potential.parameters())


def test_dtype_other_than_that_of_the_potential_is_refused(make_potential):
    with pytest.raises(ValueError, match=r"dtype is torch\.float32, but the potential has torch\.float64"):
        UnipotCalculator(make_potential(), dtype=torch.float32)


def test_single_atom_has_its_reference_energy(make_potential):
    atoms = Atoms("O", calculator=UnipotCalculator(make_potential()))
    assert atoms.get_potential_energy() == -108.0 and not atoms.get_forces().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_skin_does_not_change_a_bit_along_a_run_in_which_everything_changes(make_potential, crystal, dtype):
    potential = make_potential(dtype=dtype)
    atoms = crystal * (2, 2, 1)
    with_skin, without = UnipotCalculator(potential, skin=0.5), UnipotCalculator(potential, skin=0.0)
    rng = np.random.default_rng(0)
    strain = np.eye(3) + 0.004 * rng.normal(size=(3, 3))
    changes = {7: lambda: atoms.set_atomic_numbers(np.roll(atoms.numbers, 1)), 11: lambda: atoms.set_pbc([True, True, False]),
               14: lambda: atoms.set_pbc(True), 16: atoms.wrap, 19: lambda: atoms.__delitem__(0)}  # fmt: skip
    for step in range(22):
        atoms.positions += 0.01 * rng.normal(size=atoms.positions.shape)
        if step % 4 == 3:
            atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        changes.get(step, lambda: None)()
        found = []
        for calculator in (with_skin, without):
            calculator.calculate(atoms, ["energy", "forces"])
            found.append(calculator.results)
        assert found[0].keys() == found[1].keys() and all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    builds = with_skin._moving.neighbors.n_builds
    assert 4 <= builds < 12 and without._moving.neighbors.n_builds == 22


def test_batch_of_moved_atoms_is_that_of_training(make_potential, crystal):
    calculator = UnipotCalculator(make_potential())
    calculator.batch_of(crystal)
    crystal.positions += 0.05
    crystal.positions[0, 0] += 0.02
    found = calculator.batch_of(crystal)
    structure = Structure.from_ase(crystal, id=crystal.get_chemical_formula())
    expected = collate([structure], cutoff=calculator.potential.cutoff, dtype=torch.float64)
    assert calculator._moving.neighbors.n_builds == 1
    for field in fields(expected):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_a_batch_is_no_view_of_the_atoms(make_potential, crystal):
    batch = UnipotCalculator(make_potential()).batch_of(crystal)
    before = batch.positions.clone(), batch.cell.clone()
    crystal.positions += 1.0
    crystal.cell *= 2.0
    assert torch.equal(batch.positions, before[0]) and torch.equal(batch.cell, before[1])


def test_a_potential_that_was_converted_is_followed(make_potential, crystal):
    potential = make_potential()
    crystal.calc = UnipotCalculator(potential)
    before = crystal.get_potential_energy()
    potential.float()
    crystal.positions[0, 0] += 1e-7
    assert crystal.get_potential_energy() == pytest.approx(before, abs=1e-2)
    assert crystal.calc.batch_of(crystal).positions.dtype == torch.float32


def test_negative_skin_is_refused(make_potential):
    with pytest.raises(ValueError, match="skin is -1; it must be a length in Å"):
        UnipotCalculator(make_potential(), skin=-1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda atoms: None, []),
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.nextafter(atoms.positions[0, 0], 9.0)), ["positions"]),
        (lambda atoms: atoms.set_atomic_numbers(atoms.numbers[::-1]), ["numbers"]),
        (lambda atoms: atoms.set_cell(atoms.cell * 1.01), ["cell"]),
        (lambda atoms: atoms.set_pbc([True, True, False]), ["pbc"]),
        (lambda atoms: atoms.set_initial_charges([0.0] * 4), ["initial_charges"]),
        (lambda atoms: atoms.__delitem__(0), ["positions", "numbers"]),
        (lambda atoms: atoms.info.update(spin=3), ["info"]),
    ],
)
def test_every_change_is_noticed(make_potential, crystal, change, expected):
    crystal.calc = UnipotCalculator(make_potential())
    crystal.get_potential_energy()
    change(crystal)
    assert crystal.calc.check_state(crystal) == expected
