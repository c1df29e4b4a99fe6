"""Posterior of the last layer: what it says of energies, forces and differences, and where it is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

import unipot
from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.finetune.alignment.composition_shift import open_compositions
from unipot.models.last_layer import (
    drop_posteriors,
    drop_posteriors_of_learners,
    energy_difference_uncertainty,
    fingerprint_of,
    is_stale,
    predict_uncertainty,
    structure_features,
)
from unipot.models.posterior import LastLayerPosterior
from unipot.structure import Structure
from unipot.zoo.artifact import load_potential, save_artifact


@pytest.fixture
def potential(make_potential):
    """Two heads, the second with a posterior."""
    made = make_potential(heads=("plain", "sure"))
    add_posterior(made, "sure")
    return made


def add_posterior(potential, name, calibration=(2.0, 3.0), version=3):
    head = potential.heads[name]
    torch.manual_seed(1)
    posterior = LastLayerPosterior(head.n_hidden, version)
    factor = torch.tril(torch.randn(head.n_hidden, head.n_hidden, dtype=torch.float64)) * 0.1
    posterior.set(head.readout.output.weight.detach()[0].double(), factor, calibration, fingerprint_of(potential, head))
    head.posterior = posterior


def batch_of(potential, names=("H2O", "CO"), head=1):
    structures = [Structure.from_ase(molecule(name)) for name in names]
    return collate(structures, cutoff=potential.cutoff, head_index=[head] * len(structures), dtype=potential.dtype)


def spread_of_samples(potential, batch, n=3000):
    """Standard deviations of energies and forces when the last layer is drawn from the posterior: no formula of ours."""
    head = potential.heads["sure"]
    weight, factor = head.readout.output.weight, head.posterior.factor
    kept, columns = weight.detach().clone(), []
    with torch.no_grad():
        for k in range(weight.numel()):
            weight.copy_(torch.eye(weight.numel(), dtype=weight.dtype)[k : k + 1])
            columns.append(potential(batch).forces.reshape(-1))
        weight.copy_(kept)
    draws = torch.randn(n, weight.numel(), dtype=torch.float64) @ factor.T
    return (draws @ torch.stack(columns)).std(dim=0).reshape(-1, 3)


def test_force_uncertainty_is_the_spread_over_sampled_last_layers(potential):
    batch = batch_of(potential)
    found = predict_uncertainty(potential, batch).forces / 3.0
    sampled = spread_of_samples(potential, batch)
    assert found.max() > 1e-4
    torch.testing.assert_close(found, sampled, rtol=0.06, atol=1e-12)


def test_energy_uncertainty_is_that_of_the_dense_formula(potential):
    batch, head = batch_of(potential), potential.heads["sure"]
    features = batch.sum_over_atoms(head.readout.hidden(potential.backbone(batch).scalars)) * head.scale
    covariance = head.posterior.factor @ head.posterior.factor.T
    expected = 2.0 * torch.einsum("sk,kl,sl->s", features, covariance, features).sqrt()
    torch.testing.assert_close(predict_uncertainty(potential, batch).energy, expected.detach(), rtol=1e-10, atol=0)


def test_uncertainty_of_a_batch_is_that_of_its_structures(potential):
    both = predict_uncertainty(potential, batch_of(potential))
    single = [predict_uncertainty(potential, batch_of(potential, (name,))) for name in ("H2O", "CO")]
    torch.testing.assert_close(both.energy, torch.cat([one.energy for one in single]), rtol=1e-9, atol=0)
    torch.testing.assert_close(both.forces, torch.cat([one.forces for one in single]), rtol=1e-9, atol=1e-14)


def test_energy_uncertainty_does_not_turn_with_the_frame_and_that_of_a_force_vector_neither(potential):
    atoms = molecule("CH3OH")
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3))
    results = []
    for image in (atoms, turned):
        batch = collate([Structure.from_ase(image)], cutoff=potential.cutoff, head_index=[1], dtype=torch.float64)
        results.append(predict_uncertainty(potential, batch))
    torch.testing.assert_close(results[0].energy, results[1].energy, rtol=1e-9, atol=0)
    squares = [found.forces.square().sum(dim=1) for found in results]
    torch.testing.assert_close(*squares, rtol=1e-8, atol=1e-14)


def test_difference_of_a_structure_with_itself_is_certain(potential):
    water = Structure.from_ase(molecule("H2O"))
    assert energy_difference_uncertainty(potential, [water, water], [1, -1]) == 0.0
    assert energy_difference_uncertainty(potential, [water], [1]) > 0


def test_error_bar_of_one_energy_is_its_energy_uncertainty_and_scales_with_the_coefficient(potential):
    water = Structure.from_ase(molecule("H2O"))
    alone = float(predict_uncertainty(potential, batch_of(potential, ("H2O",)), forces=False).energy[0])
    assert energy_difference_uncertainty(potential, [water], [-2.5], head="sure") == pytest.approx(2.5 * alone, rel=1e-12)


def test_shared_errors_cancel_in_a_difference_of_neighbours(potential):
    water, moved = molecule("H2O"), molecule("H2O")
    moved.positions[0, 2] += 0.01
    structures = [Structure.from_ase(water), Structure.from_ase(moved)]
    both = [energy_difference_uncertainty(potential, [s], [1]) for s in structures]
    assert energy_difference_uncertainty(potential, structures, [1, -1]) < 0.2 * min(both)


def open_zero(potential, scale=50.0):
    """Gives head `sure` the knowledge that its frames had H2O and H2 only."""
    counts = np.zeros((2, 119))
    counts[0, [1, 8]], counts[1, 1] = (2, 1), 2
    posterior = potential.heads["sure"].posterior
    posterior.open_compositions = torch.from_numpy(open_compositions(counts, scale))
    return posterior


def test_energies_of_compositions_that_the_frames_leave_open_are_as_uncertain_as_the_zero(potential):
    names = ("H2O", "H2O2", "CO")
    before = predict_uncertainty(potential, batch_of(potential, names))
    open_zero(potential)
    after = predict_uncertainty(potential, batch_of(potential, names))
    assert after.energy[:2].tolist() == pytest.approx(before.energy[:2].tolist(), rel=1e-9)  # mixtures of H2O and H2 are determined
    assert after.energy[2] > 50.0
    assert torch.equal(after.forces, before.forces)


def test_the_open_zero_cancels_where_atoms_balance(potential):
    def difference(coefficients):
        names = ("CO", "H2O", "CO2", "H2")
        return energy_difference_uncertainty(potential, [Structure.from_ase(molecule(n)) for n in names], coefficients, head="sure")

    before = difference((1, 1, -1, -1))  # CO + H2O -> CO2 + H2
    open_zero(potential)
    assert difference((1, 1, -1, -1)) == pytest.approx(before, rel=1e-9)
    assert difference((0, 0, 1, 0)) > 50.0


def zero_of_water(potential):
    """Gives head `sure` the knowledge that it was fitted to frames of water; returns one atom's average features of H and O."""
    posterior, n_hidden = potential.heads["sure"].posterior, potential.heads["sure"].n_hidden
    average = torch.randn(2, n_hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    posterior.set_zero((1, 8), average, torch.diag(torch.tensor([0.1, 0.2], dtype=torch.float64)))
    return average


def test_energy_uncertainty_is_that_of_what_differs_from_average_atoms_and_of_the_zero(potential):
    average, batch = zero_of_water(potential), batch_of(potential, ("H2O", "H2O2"))
    head = potential.heads["sure"]
    features = structure_features(head, potential.backbone(batch).scalars, batch).detach()
    counts = torch.tensor([[2.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    own = (features - counts @ average) @ head.posterior.factor
    zero = counts * torch.tensor([0.1, 0.2])
    expected = 2.0 * torch.sqrt(own.square().sum(1) + zero.square().sum(1))  # 2: the calibration
    torch.testing.assert_close(predict_uncertainty(potential, batch, forces=False).energy, expected, rtol=1e-6, atol=0)


def test_what_is_known_of_the_zero_cancels_between_structures_of_the_same_atoms(potential):
    moved = molecule("H2O")
    moved.positions[0, 2] += 0.1
    pair = [Structure.from_ase(molecule("H2O")), Structure.from_ase(moved)]
    before = energy_difference_uncertainty(potential, pair, [1, -1], "sure")
    zero_of_water(potential)
    assert energy_difference_uncertainty(potential, pair, [1, -1], "sure") == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("version", [1, 2])
def test_differences_by_the_error_bars_of_earlier_versions_are_warned_about(potential, version):
    add_posterior(potential, "sure", version=version)
    with pytest.warns(UserWarning, match="'sure' were made by an earlier unipot, whose error bars of energy differences are far too small"):
        energy_difference_uncertainty(potential, [Structure.from_ase(molecule("H2O"))], [1])


@pytest.mark.parametrize(
    "coefficients, head, message",
    [([1], "sure", "2 structures and 1 coefficients"), ([1, np.nan], "sure", "finite"), ([1, -1], "plain", "no last-layer posterior")],
)
def test_bad_differences_are_refused(potential, coefficients, head, message):
    water = Structure.from_ase(molecule("H2O"))
    with pytest.raises(ValueError, match=message):
        energy_difference_uncertainty(potential, [water, water], coefficients, head)


def test_which_head_must_be_said_when_several_have_one(potential):
    add_posterior(potential, "plain")
    with pytest.raises(ValueError, match="2 heads of this model"):
        energy_difference_uncertainty(potential, [Structure.from_ase(molecule("H2O"))], [1])


def test_calculator_gives_uncertainties_when_asked(potential):
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(potential, head="sure", uncertainty=True)
    plain = molecule("H2O")
    plain.calc = UnipotCalculator(potential, head="sure")
    assert atoms.get_potential_energy() == plain.get_potential_energy()
    assert np.array_equal(atoms.get_forces(), plain.get_forces())
    found = predict_uncertainty(potential, batch_of(potential, ("H2O",)))
    assert atoms.calc.results["energy_uncertainty"] == float(found.energy[0])
    assert np.array_equal(atoms.calc.results["forces_uncertainty"], found.forces.numpy())
    assert "energy_uncertainty" not in plain.calc.results
    assert atoms.calc.energy_difference_uncertainty([atoms, atoms], [1, -1]) == 0.0


def test_calculator_refuses_uncertainties_of_a_head_without_them(potential):
    with pytest.raises(ValueError, match="'plain' has no last-layer posterior"):
        UnipotCalculator(potential, head="plain", uncertainty=True)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("name", ["model.safetensors", "model"])
def test_posterior_survives_the_artifact_bitwise(potential, tmp_path, name, version):
    add_posterior(potential, "sure", version=version)
    if version >= 2:
        open_zero(potential)
    if version == 3:
        zero_of_water(potential)
    assert potential.describe()["heads"]["sure"]["posterior"] == version
    loaded = load_potential(save_artifact(tmp_path / name, potential))
    assert loaded.heads["plain"].posterior is None
    for key, tensor in potential.heads["sure"].posterior.state_dict().items():
        assert torch.equal(tensor, loaded.heads["sure"].posterior.state_dict()[key])
    batch = batch_of(potential)
    assert loaded.heads["sure"].posterior.version == version
    assert torch.equal(predict_uncertainty(loaded, batch).energy, predict_uncertainty(potential, batch).energy)
    assert torch.equal(predict_uncertainty(loaded, batch).forces, predict_uncertainty(potential, batch).forces)
    assert unipot.energy_difference_uncertainty is energy_difference_uncertainty


def test_posterior_is_not_stale_in_another_dtype_and_stays_float64(make_potential, tmp_path):
    single = make_potential(heads=("sure",), dtype=torch.float32)
    add_posterior(single, "sure")
    path = save_artifact(tmp_path / "model.safetensors", single)
    loaded = load_potential(path, dtype=torch.float64)
    assert not is_stale(loaded, loaded.heads["sure"])
    assert loaded.heads["sure"].posterior.factor.dtype == torch.float64
    assert single.half().heads["sure"].posterior.factor.dtype == torch.float64


@pytest.mark.parametrize(
    "part", ["backbone.embedding.weight", "heads.heads.sure.readout.gate.weight", "heads.heads.sure.readout.output.weight"]
)
def test_posterior_of_other_weights_is_stale_and_not_saved(potential, tmp_path, part):
    assert not is_stale(potential, potential.heads["sure"])
    with torch.no_grad():
        dict(potential.named_parameters())[part].mul_(1.01)
    assert is_stale(potential, potential.heads["sure"])
    with pytest.raises(ValueError, match="'sure' has uncertainties that belong to other weights"):
        save_artifact(tmp_path / "model.safetensors", potential)
    assert drop_posteriors(potential) == ["sure"]
    save_artifact(tmp_path / "model.safetensors", potential)


def test_a_new_head_does_not_make_the_others_stale(potential):
    potential.heads.add(potential.heads["sure"].copy("other"))
    assert potential.heads["other"].posterior is None
    assert drop_posteriors(potential) == []


def test_training_drops_what_it_makes_stale(make_potential):
    for learner, gone in (("heads.heads.plain", ["plain"]), ("backbone.embedding", ["plain", "sure"])):
        made = make_potential(heads=("plain", "sure"))
        for name in made.head_names:
            add_posterior(made, name)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(name.startswith(learner))
        assert drop_posteriors_of_learners(made) == gone


def test_posterior_of_a_newer_version_is_refused(make_potential):
    from unipot.models import Head

    with pytest.raises(ValueError, match="posterior of version 4, this unipot reads up to version 3"):
        Head("new", level_of_theory="PBE", n_channels=8, posterior=4)


def test_a_batch_of_two_heads_is_refused(potential):
    add_posterior(potential, "plain")
    structures = [Structure.from_ase(molecule("H2O"))] * 2
    batch = collate(structures, cutoff=potential.cutoff, head_index=[0, 1], dtype=potential.dtype)
    with pytest.raises(ValueError, match="one head at a time"):
        predict_uncertainty(potential, batch)


def test_error_bars_of_an_untrained_charge_are_refused(make_potential):
    states = {"charge": True, "spin": False, "trained_charges": [0.0, 1.0]}
    potential = make_potential(heads=("sure",), **states)
    add_posterior(potential, "sure")
    ions = [replace(Structure.from_ase(molecule("H2O")), total_charge=charge) for charge in (1.0, -2.0)]
    assert energy_difference_uncertainty(potential, ions[:1], [1]) > 0
    with pytest.raises(ValueError, match="trained on charges from 0 to 1"):
        energy_difference_uncertainty(potential, ions, [1, -1])
    with pytest.raises(ValueError, match="trained on charges from 0 to 1"):
        predict_uncertainty(potential, collate(ions[1:], cutoff=potential.cutoff, dtype=potential.dtype))


def test_calculator_says_that_error_bars_do_not_know_a_charge_that_the_model_does_not_read(potential):
    atoms = molecule("H2O")
    atoms.info["total_charge"] = 1
    atoms.calc = UnipotCalculator(potential, head="sure", uncertainty=True)
    with pytest.warns(UserWarning, match="does not read total charge 1.*error bars do not contain"):
        atoms.get_potential_energy()


def test_damaged_numbers_are_not_taken():
    posterior = LastLayerPosterior(3)
    with pytest.raises(ValueError, match="factor of a posterior must be finite"):
        posterior.set(torch.zeros(3), torch.full((3, 3), float("nan")), (1, 1), bytes(32))
    with pytest.raises(ValueError, match="must be positive"):
        posterior.set(torch.zeros(3), torch.eye(3), (1, 0), bytes(32))
