"""Composition references: what the data determine is exact, what they leave open stays sane, and precision survives casts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.models import CompositionReference, fit_composition


def counts_of(*compositions: dict[int, int]) -> np.ndarray:
    counts = np.zeros((len(compositions), 119))
    for row, composition in zip(counts, compositions, strict=True):
        for z, n in composition.items():
            row[z] = n
    return counts


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_elements=st.integers(1, 6))
def test_determined_compositions_are_recovered_exactly(seed: int, n_elements: int) -> None:
    rng = np.random.default_rng(seed)
    elements = rng.choice(np.arange(1, 119), n_elements, replace=False)
    counts = np.zeros((40, 119))
    counts[:, elements] = rng.integers(0, 9, (40, n_elements)) + np.eye(40, n_elements)
    counts[:, elements[0]] += 1
    values = -rng.uniform(10, 60_000, n_elements)
    fit = fit_composition(counts, counts[:, elements] @ values)
    assert fit.rank == n_elements
    np.testing.assert_allclose(fit.values[sorted(elements)], values[np.argsort(elements)], rtol=1e-8)


def test_one_composition_gives_one_common_value() -> None:
    fit = fit_composition(counts_of({1: 2, 8: 1}, {1: 2, 8: 1}), np.array([-9.0, -9.0]))
    assert fit.rank == 1 and fit.n_elements == 2
    np.testing.assert_allclose(fit.values[[1, 8]], -3.0)
    assert "H" in fit.undetermined and "O" in fit.undetermined


def test_undetermined_direction_does_not_disturb_the_determined_one() -> None:
    # C and H always come 1:1, O varies: e_O is determined, e_C and e_H only through their sum
    counts = counts_of({6: 1, 1: 1, 8: 0}, {6: 1, 1: 1, 8: 1}, {6: 2, 1: 2, 8: 1})
    energies = counts @ np.bincount([1, 6, 8], weights=[-13.0, -1030.0, -2040.0], minlength=119)
    fit = fit_composition(counts, energies)
    assert fit.rank == 2
    assert fit.values[8] == pytest.approx(-2040.0)
    assert fit.values[1] + fit.values[6] == pytest.approx(-1043.0)
    assert fit.rmse_per_atom < 1e-9


def test_unseen_element_raises_with_its_symbol() -> None:
    reference, _ = CompositionReference.fit(counts_of({1: 2}), np.array([-27.0]))
    with pytest.raises(ValueError, match="element.s. Fe; known are: H"):
        reference(torch.tensor([1, 26]))


def test_references_stay_float64_when_the_model_is_cast() -> None:
    reference, _ = CompositionReference.fit(counts_of({79: 1}), np.array([-518_000.123456789]))
    reference.to(torch.float32).half()
    assert reference.values.dtype == torch.float64
    assert reference(torch.tensor([79])).item() == -518_000.123456789


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        fit_composition(np.zeros((0, 119)), np.zeros(0))


def test_non_finite_energy_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 1 energies are not finite"):
        fit_composition(counts_of({1: 1}), np.array([np.nan]))
