"""Many structures at once: equal to one by one, in order, in batches that stay within the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from unipot import evaluate_structures
from unipot.calculator import UnipotCalculator
from unipot.data.mixture.budget import Budget
from unipot.structure import Structure

ALL = ("energy", "forces", "stress")


@pytest.fixture
def images() -> list[Atoms]:
    """Molecules, crystals, a slab and an atom, in no order of size."""
    slab = bulk("Cu", cubic=True) * (2, 2, 1)
    slab.pbc = [True, True, False]
    found = [molecule("H2O"), bulk("Cu", cubic=True) * (2, 2, 2), Atoms("O"), slab, molecule("CH3CH2OH"), bulk("Al"), molecule("CH4")]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return found


@pytest.mark.parametrize(("max_atoms", "max_edges"), [(1, 1), (20, 10**6), (512, 40_000)])
def test_predictions_are_those_of_the_calculator_in_the_order_given(make_potential, images, max_atoms, max_edges):
    calculator = UnipotCalculator(make_potential(heads=("a", "b")), head="b")
    found = calculator.evaluate(images, ALL, budget=Budget(max_atoms=max_atoms, max_edges=max_edges))
    assert len(found) == len(images)
    for atoms, prediction in zip(images, found, strict=True):
        atoms.calc = calculator
        assert prediction.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert np.allclose(prediction.forces, atoms.get_forces(), rtol=0, atol=1e-11)
        assert (prediction.stress is None) == (not atoms.pbc.all())
        if prediction.stress is not None:
            assert np.allclose(prediction.stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-12)
    assert np.abs(found[4].forces).max() > 1e-3


def test_batches_stay_within_the_budget_except_a_structure_that_is_larger(make_potential, images, monkeypatch):
    potential, sizes = make_potential(), []
    forward = potential.backbone.forward

    def recording(batch):
        sizes.append((batch.n_structures, batch.n_atoms, batch.n_edges))
        return forward(batch)

    monkeypatch.setattr(potential.backbone, "forward", recording)
    list(evaluate_structures(potential, images, budget=Budget(max_atoms=25, max_edges=900)))
    assert any(n > 1 for n, *_ in sizes) and sum(n for n, *_ in sizes) == len(images)
    assert all(n == 1 or (atoms <= 25 and edges <= 900) for n, atoms, edges in sizes)


def test_a_generator_is_read_as_far_as_needed(make_potential, monkeypatch):
    monkeypatch.setattr("unipot.evaluation.predictions._WINDOW", 4)
    read = []
    structures = (read.append(k) or Structure.from_ase(molecule("H2O")) for k in range(100))
    next(evaluate_structures(make_potential(), structures))
    assert len(read) == 4


def test_only_what_is_asked_for_is_computed(make_potential, images):
    (prediction,) = evaluate_structures(make_potential(), images[:1], properties=("energy",))
    assert prediction.forces is None and prediction.stress is None and prediction.energy < 0


def test_nothing_in_nothing_out(make_potential):
    assert list(evaluate_structures(make_potential(), [])) == []


def test_several_heads_need_a_name(make_potential, images):
    with pytest.raises(ValueError, match="the model has 2 heads: a, b; say which one"):
        list(evaluate_structures(make_potential(heads=("a", "b")), images))


def test_a_broken_structure_is_named_by_its_number(make_potential, images):
    images[3].positions[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"structure 'Cu16 \(number 3\)': positions contain 1 non-finite"):
        list(evaluate_structures(make_potential(), images))


def test_an_unknown_element_is_named_by_the_calculator(make_potential, images):
    with pytest.raises(ValueError, match=r"element\(s\) Au are unknown to head 'only'"):
        UnipotCalculator(make_potential()).evaluate([*images, Atoms("Au")])


def test_a_prediction_that_is_not_finite_is_refused(make_potential, images):
    potential = make_potential()
    with torch.no_grad():
        potential.heads["only"].readout.output.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"prediction for structure 'H2O \(number 0\)' is not finite"):
        list(evaluate_structures(potential, images))
