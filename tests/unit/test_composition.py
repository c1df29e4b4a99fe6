"""Composition regression: streaming gives what all rows at once give, and what the data leave open stays sane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot import composition
from unipot.composition import RANK_TOLERANCE, CompositionFit, CompositionRegression, combination_in_words, fit_composition
from unipot.finetune.alignment.composition_shift import fit_composition_shift

seeds = st.integers(0, 10_000)


def counts_of(*compositions: dict[int, int]) -> np.ndarray:
    counts = np.zeros((len(compositions), 119), dtype=np.int32)
    for row, atoms in zip(counts, compositions, strict=True):
        for z, n in atoms.items():
            row[z] = n
    return counts


def random_frames(seed: int, scale: float = 1e5) -> tuple[np.ndarray, np.ndarray]:
    """1 to 60 frames of 1 to 9 elements; every other seed has two elements in a fixed ratio."""
    rng = np.random.default_rng(seed)
    n_elements, n = int(rng.integers(1, 10)), int(rng.integers(1, 61))
    elements = rng.choice(np.arange(1, 119), n_elements, replace=False)
    counts = np.zeros((n, 119), dtype=np.int32)
    counts[:, elements] = rng.integers(0, 5, (n, n_elements))
    if seed % 2 and n_elements > 2:
        counts[:, elements[1]] = 2 * counts[:, elements[2]]
    counts[counts.sum(axis=1) == 0, elements[0]] = 1
    return counts, counts @ -rng.uniform(scale / 100, scale, 119) + rng.normal(size=n)


def streamed(counts: np.ndarray, energies: np.ndarray, seed: int) -> CompositionRegression:
    """The frames in random order, in random chunks, some of them through another regression that is merged."""
    rng = np.random.default_rng(seed)
    regression, other = CompositionRegression(), CompositionRegression()
    for k, part in enumerate(np.array_split(rng.permutation(len(energies)), rng.integers(1, len(energies) + 1))):
        (regression if k % 3 else other).add(counts[part], energies[part])
    regression.merge(other)
    return regression


def all_rows_at_once(counts: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, int, float, float]:
    """Values, rank, condition and residual by a singular value decomposition of every row."""
    elements = np.flatnonzero(counts.any(axis=0))
    n_atoms = counts.sum(axis=1)
    fractions, target = counts[:, elements] / n_atoms[:, None], energies / n_atoms
    column = np.linalg.norm(fractions, axis=0)
    u, singular, vt = np.linalg.svd(np.pad(fractions / column, ((0, len(elements)), (0, 0))), full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    solution = (vt[:rank].T @ ((u[: len(target), :rank].T @ target) / singular[:rank])) / column
    null = np.linalg.qr((vt[rank:] / column).T)[0]
    if null.shape[1]:
        system = np.hstack([null, -np.ones((len(elements), 1))])
        solution = solution + null @ np.linalg.lstsq(system, -solution, rcond=None)[0][:-1]
    values = np.zeros(119)
    values[elements] = solution
    return values, rank, singular[0] / singular[rank - 1], np.sqrt(np.mean((target - fractions @ solution) ** 2))


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_streaming_gives_what_all_rows_at_once_give(seed: int) -> None:
    counts, energies = random_frames(seed)
    values, rank, condition, residual = all_rows_at_once(counts, energies)
    fit = streamed(counts, energies, seed).solve()
    assert (fit.rank, fit.n_frames) == (rank, len(energies))
    assert fit.condition == pytest.approx(condition, rel=1e-9)
    # rounding grows with the condition, in either way of computing
    assert np.abs(fit.values - values).max() <= 1e-13 * condition * np.abs(values).max()
    assert fit.rmse_per_atom == pytest.approx(residual, rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_order_and_chunks_do_not_matter(seed: int) -> None:
    counts, energies = random_frames(seed)
    one, other = streamed(counts, energies, seed).solve(), streamed(counts, energies, seed + 1).solve()
    assert np.abs(one.values - other.values).max() <= 1e-13 * one.condition * np.abs(one.values).max()
    assert (one.rank, one.elements, one.undetermined) == (other.rank, other.elements, other.undetermined)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_known_elements_are_subtracted_before_the_fit(seed: int) -> None:
    counts, energies = random_frames(seed)
    elements = np.flatnonzero(counts.any(axis=0))
    known = {int(z): -100.0 * z for z in elements[::2]}
    mixed = streamed(counts, energies, seed).solve(known)
    rest = counts.copy()
    rest[:, list(known)] = 0
    inside = counts.sum(axis=1)
    fractions = rest[:, list(mixed.elements)] / inside[:, None]
    target = (energies - counts[:, list(known)] @ np.array(list(known.values()))) / inside
    residual = target - fractions @ mixed.values[list(mixed.elements)]
    assert [mixed.values[z] for z in known] == list(known.values()) and mixed.given == tuple(known)
    np.testing.assert_allclose(fractions.T @ residual, 0, atol=1e-7 * np.abs(target).max())  # normal equations of the rest
    assert mixed.rmse_per_atom == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-8, abs=1e-8)


def test_all_elements_known_leaves_only_the_residual() -> None:
    counts = counts_of({1: 2}, {8: 2})
    regression = CompositionRegression()
    regression.add(counts, np.array([-26.0, -862.0]))
    fit = regression.solve({1: -13.0, 8: -432.0})
    assert (fit.rank, fit.elements, fit.condition) == (0, (), 1.0)
    assert fit.rmse_per_atom == pytest.approx(np.sqrt(1 / 2))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n_elements=st.integers(1, 6))
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


def test_equal_compositions_are_collected_without_a_trace() -> None:
    counts = np.repeat(random_frames(4)[0][:5], 40, axis=0)
    energies = counts @ -np.arange(119.0) ** 2 + np.random.default_rng(0).normal(size=len(counts))
    values, rank, _, residual = all_rows_at_once(counts, energies)
    fit = fit_composition(counts, energies)  # five rows of forty
    assert fit.rank == rank < 6 and fit.rmse_per_atom == pytest.approx(residual, rel=1e-10) and residual > 0.05
    np.testing.assert_allclose(fit.values, values, atol=1e-9 * np.abs(values).max())


def test_colliding_keys_do_not_mix_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, energies = random_frames(8)
    wanted = fit_composition(counts, energies)
    monkeypatch.setattr(composition, "_KEYS", np.ones(119, dtype=np.uint64))
    found = fit_composition(counts, energies)
    assert np.array_equal(found.values, wanted.values) and found.rmse_per_atom == wanted.rmse_per_atom


def test_all_electron_totals_keep_their_meV() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((20_000, 119), dtype=np.int32)
    counts[:, [1, 8, 79]] = rng.integers(1, 9, (20_000, 3))
    truth = np.array([-13.605, -2043.2, -518_000.123])
    fit = fit_composition(counts, counts[:, [1, 8, 79]] @ truth)
    np.testing.assert_allclose(fit.values[[1, 8, 79]], truth, rtol=0, atol=1e-6)
    assert fit.rmse_per_atom < 1e-7


def test_memory_does_not_grow_with_the_frames() -> None:
    regression = CompositionRegression()
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = np.zeros((1000, 119), dtype=np.int32)
        counts[:, 1:6] = rng.integers(1, 9, (1000, 5))
        regression.add(counts, rng.normal(size=1000))
    assert regression._triangle.shape == (6, 6) and regression.n_frames == 20_000
    assert np.array_equal(regression._triangle, np.triu(regression._triangle))


def test_one_composition_gives_one_common_value() -> None:
    fit = fit_composition(counts_of({1: 2, 8: 1, 6: 1}, {1: 2, 8: 1, 6: 1}), np.array([-12.0, -12.0]))
    assert fit.rank == 1 and fit.n_elements == 3
    np.testing.assert_allclose(fit.values[[1, 6, 8]], -3.0)
    assert fit.undetermined == "every difference between H, C, O (the compositions fix one number only)"


def test_undetermined_direction_does_not_disturb_the_determined_one() -> None:
    # C and H always come 1:1, O varies: e_O is determined, e_C and e_H only through their sum
    counts = counts_of({6: 1, 1: 1, 8: 0}, {6: 1, 1: 1, 8: 1}, {6: 2, 1: 2, 8: 1})
    energies = counts @ np.bincount([1, 6, 8], weights=[-13.0, -1030.0, -2040.0], minlength=119)
    fit = fit_composition(counts, energies)
    assert fit.rank == 2 and fit.undetermined == "H - C"
    assert fit.values[8] == pytest.approx(-2040.0)
    assert fit.values[1] + fit.values[6] == pytest.approx(-1043.0)
    assert fit.rmse_per_atom < 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_fine_tuning_shift_without_ridge_is_the_same_fit(seed: int) -> None:
    counts, energies = random_frames(seed, scale=10.0)
    fit: CompositionFit = fit_composition(counts, energies)
    shift = fit_composition_shift(counts[:, list(fit.elements)], energies, fit.elements, ridge=0.0)
    if shift.rank == fit.rank and fit.condition < 1e3:  # the two call a direction undetermined at different thresholds
        np.testing.assert_allclose(shift.shift, fit.values[list(fit.elements)], rtol=0, atol=1e-7)
        assert shift.rmse_after == pytest.approx(fit.rmse_per_atom, rel=1e-6, abs=1e-8)


def test_combination_in_words_begins_with_the_largest() -> None:
    assert combination_in_words(np.array([0.25, -0.5, 0.0, 0.5]), (8, 22, 40, 82)) == "Ti - Pb - 0.50 O"


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        fit_composition(np.zeros((0, 119)), np.zeros(0))


@pytest.mark.parametrize(
    ("counts", "energy", "message"),
    [
        (counts_of({1: 1}), np.nan, "1 of 1 energies are not finite"),
        (counts_of({}), -1.0, "1 of 1 frames have no atoms"),
        (np.zeros((1, 5)), -1.0, r"counts have shape \(1, 5\), expected \(1, 119\)"),
    ],
)
def test_impossible_frames_are_refused(counts: np.ndarray, energy: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_composition(counts, np.array([energy]))
