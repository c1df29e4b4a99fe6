import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.finetune.search.hold_out import choose_frames, hold_out

WATER = frozenset({1, 8})


def test_fifty_frames_hold_out_fifteen_percent():
    train, held, sentence = hold_out(np.arange(50), [WATER] * 50, 0.15, seed=0)
    assert len(held) == 8
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(50))
    assert "42 frames are trained on, 8 held out" in sentence


def test_at_least_five_are_held_out():
    assert len(hold_out(np.arange(20), [WATER] * 20, 0.1, seed=0)[1]) == 5


def test_fewer_than_twenty_frames_are_all_trained_on():
    train, held, sentence = hold_out(np.arange(19), [WATER] * 19, 0.2, seed=0)
    assert (len(train), len(held)) == (19, 0)
    assert "too few" in sentence


def test_groups_stay_together():
    groups = np.repeat(np.arange(10), 4)
    train, held, _ = hold_out(groups, [WATER] * 40, 0.15, seed=3)
    assert len(held) > 0
    assert not set(groups[train]) & set(groups[held])


def test_one_group_is_not_split():
    train, held, sentence = hold_out(np.zeros(30), [WATER] * 30, 0.15, seed=0)
    assert (len(train), len(held)) == (30, 0)
    assert "cannot be split" in sentence


def test_the_only_frame_with_an_element_is_trained_on():
    for seed in range(20):
        elements = [WATER] * 30
        elements[seed] = frozenset({1, 8, 6})
        assert seed in hold_out(np.arange(30), elements, 0.2, seed=seed)[0]


def test_split_is_a_function_of_the_seed():
    first, second, other = (hold_out(np.arange(60), [WATER] * 60, 0.15, seed=s)[1] for s in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_chosen_frames_are_distinct_and_reproducible():
    chosen = choose_frames(100, 30, seed=5)
    assert len(set(chosen.tolist())) == 30
    assert np.array_equal(chosen, choose_frames(100, 30, seed=5))
    assert np.array_equal(choose_frames(7, None, seed=0), np.arange(7))


@pytest.mark.parametrize("wanted", [0, 11])
def test_impossible_number_of_frames_is_refused(wanted):
    with pytest.raises(ValueError, match=f"n_train is {wanted}, but there are 10 usable frames"):
        choose_frames(10, wanted, seed=0)


def test_fraction_outside_the_range_is_refused():
    with pytest.raises(ValueError, match="from 0 to 0.5"):
        hold_out(np.arange(30), [WATER] * 30, 0.7, seed=0)


@given(n_available=st.integers(2, 200), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_fewer_frames_of_a_seed_are_among_more_of_it(n_available, seed, data):
    few = data.draw(st.integers(1, n_available))
    many = data.draw(st.integers(few, n_available))
    chosen = set(choose_frames(n_available, few, seed).tolist())
    assert len(chosen) == few and chosen <= set(choose_frames(n_available, many, seed).tolist())
