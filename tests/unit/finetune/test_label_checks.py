"""Units, signs and levels of theory of labels, judged by a model that nearly agrees with them."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk

from unipot.batch import collate
from unipot.data.labels import voigt_places
from unipot.finetune.alignment import label_checks
from unipot.finetune.alignment.label_checks import CERTAIN, heads_alike, label_scales, level_warnings, refuse_wrong_units
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL, matrix_to_voigt, voigt_to_matrix

UNITS = {"energy": "eV", "forces": "eV/A", "stress": "eV/A^3"}


@pytest.fixture(scope="module")
def potential():
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1})
    reference = CompositionReference(np.zeros(119), np.isin(np.arange(119), [28, 29]))
    bank = HeadBank()
    bank.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=reference, scale=2.0))
    return Potential(backbone, bank).to(torch.float64).eval()


@pytest.fixture(scope="module")
def predicted(potential):
    """Twelve crystals with the model's own predictions."""
    rng, found = np.random.default_rng(0), []
    for k in range(12):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.symbols[: k % 3] = "Ni"
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        structure = Structure.from_ase(atoms, id=f"cu-{k}")
        predictions = potential(collate([structure], cutoff=potential.cutoff, dtype=torch.float64), properties=tuple(UNITS))
        values = {name: predictions[name].detach().numpy() for name in UNITS}
        found.append(structure.with_labels(energy=values["energy"][0], forces=values["forces"], stress=values["stress"][0]))
    return found


def scales_of(potential, structures, units=UNITS, noise=0.1, heads=("pbe",), **factors):
    """Suspicions on labels that are predictions times a factor, with `noise`, on another energy zero per element."""
    rng, frames = np.random.default_rng(1), []
    for s in structures:
        labels = {name: factor * s.labels[name] * (1 + noise * rng.normal(size=s.labels[name].shape)) for name, factor in factors.items()}
        if "energy" in labels:
            labels["energy"] = factors["energy"] * s.labels["energy"] - 3.0 * s.n_atoms - 20.0 * (s.atomic_numbers == 28).sum()
        frames.append(s.with_labels(**labels))
    batch = collate(frames, cutoff=potential.cutoff, dtype=torch.float64)
    return {scale.property: scale for scale in label_scales(potential, heads, [batch], units)}


@pytest.mark.parametrize(
    ("factor", "units"),
    [
        (1 / KCAL_PER_MOL, ("kcal/mol/A",)),
        (1 / KJ_PER_MOL, ("kJ/mol/A",)),
        (BOHR / HARTREE, ("hartree/bohr",)),
        (1 / HARTREE, ("hartree/A", "rydberg/bohr")),
        (1e3, ("meV/A",)),
        (-1 / KCAL_PER_MOL, ("kcal/mol/A",)),
        (-1.0, ()),
    ],
)
def test_unit_and_sign_of_forces_are_named(potential, predicted, factor, units):
    scale = scales_of(potential, predicted, forces=factor)["forces"]
    assert (scale.units, scale.factor < 0) == (units, factor < 0)
    assert abs(scale.correlation) >= CERTAIN
    with pytest.raises(ValueError, match="check_labels=false"):
        refuse_wrong_units([scale])


def test_unit_is_judged_by_the_one_that_is_stated(potential, predicted):
    stated = {**UNITS, "forces": "hartree/bohr"}
    assert scales_of(potential, predicted, stated, forces=HARTREE / BOHR)["forces"].units == ("eV/A",)
    assert scales_of(potential, predicted, stated, forces=1.0) == {}


def test_energies_are_judged_beyond_their_zero_and_stress_by_its_sign(potential, predicted):
    found = scales_of(potential, predicted, energy=1 / HARTREE, stress=-1.0)
    assert found["energy"].units == ("hartree",)
    assert "tension <-> compression" in found["stress"].sentence()


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.8])
def test_a_parent_that_is_too_soft_or_too_stiff_is_no_unit(potential, predicted, factor):
    assert scales_of(potential, predicted, forces=factor) == {}


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
@pytest.mark.parametrize("factor", [7.0, 0.12, -3.0])
def test_a_factor_that_fits_no_unit_is_refused_where_labels_follow_the_model_closely(potential, predicted, name, factor):
    scale = scales_of(potential, predicted, **{name: factor})[name]
    assert scale.factor == pytest.approx(factor, rel=0.05) and scale.units == ()
    with pytest.raises(ValueError, match=rf"the {name} labels are {scale.factor:.3g} times .*, a factor that fits no unit beside eV"):
        refuse_wrong_units([scale])


def test_energies_of_a_head_whose_forces_are_as_much_too_small_are_a_sentence(potential, predicted):
    """As metals are predicted by a head that has seen molecules."""
    rng = np.random.default_rng(0)
    noisy = [s.labels["forces"] * (1 + 0.5 * rng.normal(size=(4, 3))) for s in predicted]
    frames = [s.with_labels(energy=s.labels["energy"], forces=forces) for s, forces in zip(predicted, noisy, strict=True)]
    scale = scales_of(potential, frames, energy=12.0, forces=12.0)["energy"]
    assert abs(scale.correlation) > 0.99 and refuse_wrong_units([scale])


def test_energies_by_no_unit_are_refused_beside_forces_that_are_as_stated(potential, predicted):
    scale = scales_of(potential, predicted, energy=12.0, forces=1.0)["energy"]
    with pytest.raises(ValueError, match="fits no unit"):
        refuse_wrong_units([scale])


def test_energies_of_another_unit_are_refused_beside_forces_that_are_as_stated(potential, predicted):
    scale = scales_of(potential, predicted, energy=1 / KCAL_PER_MOL, forces=1.0)["energy"]
    with pytest.raises(ValueError, match="kcal/mol"):
        refuse_wrong_units([scale])


def test_such_a_factor_is_a_sentence_where_labels_follow_the_model_less_closely(potential, predicted):
    scale = scales_of(potential, predicted, noise=0.5, forces=7.0)["forces"]
    assert CERTAIN < scale.correlation < 0.95
    (sentence,) = refuse_wrong_units([scale])
    assert "a factor that fits no unit beside eV/A" in sentence


def test_such_a_factor_needs_more_numbers_than_a_few_frames_under_pressure_have(potential, predicted):
    scale = scales_of(potential, predicted[:9], noise=0.0, stress=7.0)["stress"]
    assert scale.correlation > 0.99 and refuse_wrong_units([scale])


def test_energies_per_atom_are_refused_as_such(potential, predicted):
    """Of cells of several sizes, so that no one factor explains them."""
    frames = [s if k % 2 else doubled(potential, s) for k, s in enumerate(predicted)]
    right = [s.with_labels(energy=s.labels["energy"] - 3.0 * s.n_atoms - 20.0 * (s.atomic_numbers == 28).sum()) for s in frames]
    wrong = [s.with_labels(energy=s.labels["energy"] / s.n_atoms) for s in right]
    scales = [label_scales(potential, ["pbe"], [collate(f, cutoff=potential.cutoff, dtype=torch.float64)], UNITS) for f in (right, wrong)]
    assert scales[0] == [] and scales[1][0].per_atom
    with pytest.raises(ValueError, match="as energies per atom do .* multiply them by the number of atoms"):
        refuse_wrong_units(scales[1])


def doubled(potential, structure: Structure) -> Structure:
    """Two cells of a crystal, with the model's energy."""
    atoms = structure.with_labels().to_ase().repeat((2, 1, 1))
    found = Structure.from_ase(atoms, id=f"{structure.id}-2")
    return found.with_labels(energy=2 * structure.labels["energy"])


@pytest.mark.parametrize("order", ["vasp", "lammps"])
def test_shears_in_another_order_than_stated_are_refused_with_the_order(potential, predicted, order):
    strained = [shear(potential, s, k) for k, s in enumerate(predicted)]
    read = [s.with_labels(stress=voigt_to_matrix(matrix_to_voigt(s.labels["stress"])[np.argsort(voigt_places(order))])) for s in strained]
    (scale,) = label_scales(potential, ["pbe"], [collate(read, cutoff=potential.cutoff, dtype=torch.float64)], UNITS)
    assert scale.order == order
    with pytest.raises(ValueError, match=f"state order: '{order}' for the stress"):
        refuse_wrong_units([scale])


def test_shears_in_the_order_that_is_stated_are_left_alone(potential, predicted):
    strained = [shear(potential, s, k) for k, s in enumerate(predicted)]
    assert label_scales(potential, ["pbe"], [collate(strained, cutoff=potential.cutoff, dtype=torch.float64)], UNITS) == []


def shear(potential, structure: Structure, seed: int) -> Structure:
    """The crystal under a strain of up to a tenth, with the model's stress."""
    strain = 0.05 * np.random.default_rng(seed).normal(size=(3, 3))
    atoms = structure.with_labels().to_ase()
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain + strain.T), scale_atoms=True)
    found = Structure.from_ase(atoms, id=structure.id)
    stress = potential(collate([found], cutoff=potential.cutoff, dtype=torch.float64), properties=("stress",)).stress
    return found.with_labels(stress=stress[0].detach().numpy())


def test_a_head_that_hardly_follows_the_labels_does_not_vouch_for_them(potential, predicted):
    """It has the right size by chance, where the best head follows them closely with another factor."""
    labels = np.concatenate([s.labels["forces"].ravel() for s in predicted])
    noise = np.random.default_rng(0).normal(size=labels.size) * np.linalg.norm(labels) / np.sqrt(labels.size)
    assert label_checks._as_stated(labels, 0.6 * labels + 0.7 * noise)
    assert not label_checks._as_stated(labels, 0.6 * labels + 0.7 * noise, beside=(labels, labels / 7))


@pytest.fixture(scope="module")
def soft(potential):
    """The same model with a head beside it that predicts a twenty-third of everything: one that hardly knows the elements."""
    other = copy.deepcopy(potential)
    head = other.heads["pbe"].copy("soft", "RPBE")
    head.scale = KCAL_PER_MOL * head.scale
    other.heads.add(head)
    return other


def test_a_head_that_hardly_knows_the_elements_is_outvoted_by_one_that_does(soft, predicted):
    alone, both = (scales_of(soft, predicted, heads=heads, energy=1.0, forces=1.0) for heads in (("soft",), ("soft", "pbe")))
    assert set(alone) == {"energy", "forces"} and both == {}


def test_a_wrong_unit_is_named_however_many_heads_are_asked(soft, predicted):
    found = scales_of(soft, predicted, heads=("pbe", "soft"), forces=1 / KCAL_PER_MOL)
    assert found["forces"].units == ("kcal/mol/A",)


def test_the_heads_asked_are_those_that_point_as_the_labels_do():
    cosines = {"a": 0.4, "b": 0.90, "c": -0.95, "d": 0.86, "e": 0.84, "f": np.nan, "g": 0.87, "h": 0.88}
    scores = [SimpleNamespace(head=head, force_cosine=value) for head, value in cosines.items()]
    assert heads_alike(scores) == ["c", "b", "h", "g"]
    assert heads_alike([SimpleNamespace(head=head, force_cosine=np.nan) for head in "ab"]) == ["a"]


def test_labels_that_do_not_follow_the_model_are_left_alone(potential, predicted):
    rng = np.random.default_rng(2)
    frames = [s.with_labels(forces=23.06 * rng.normal(size=s.positions.shape)) for s in predicted]
    assert label_scales(potential, ["pbe"], [collate(frames, cutoff=potential.cutoff, dtype=torch.float64)], UNITS) == []


def test_a_doubtful_scale_is_a_sentence_and_no_refusal(potential, predicted):
    scale = scales_of(potential, predicted, noise=1.0, forces=1 / KCAL_PER_MOL)["forces"]
    assert abs(scale.correlation) < CERTAIN
    (sentence,) = refuse_wrong_units([scale])
    assert "kcal/mol/A" in sentence


def test_better_head_of_another_level_casts_doubt_on_the_stated_one():
    heads = {"pbe": 0.30, "lda": 0.05}
    scores = [SimpleNamespace(head=name, level_of_theory=name.upper(), force_mae=error) for name, error in heads.items()]
    report = SimpleNamespace(level_of_theory="PBE", fit=None, parent="lda")
    (sentence,) = level_warnings(report, scores)
    assert "stated to be 'PBE', but head 'lda' (LDA) describes their forces with 0.05 eV/A where head 'pbe'" in sentence
    assert level_warnings(SimpleNamespace(level_of_theory="PBE", fit=None, parent="pbe"), scores) == ()
