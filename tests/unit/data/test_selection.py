"""A selection reads like the ascending array of the selected positions, and is much smaller."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.mixture.selection import Selection

masks = st.builds(
    lambda n, fraction, seed: np.random.default_rng(seed).random(n) < fraction,
    st.one_of(st.integers(0, 70), st.sampled_from([127, 128, 1023, 1024, 1025, 5000])),
    st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    st.integers(0, 1000),
)


def cut(mask, size=64):
    return [mask[k : k + size] for k in range(0, len(mask), size)]


@given(mask=masks, inverted=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_selection_reads_like_an_array(mask, inverted):
    chosen = Selection.from_mask(cut(mask), len(mask))
    chosen, mask = (chosen.complement(), ~mask) if inverted else (chosen, mask)
    positions = np.flatnonzero(mask)
    assert len(chosen) == len(positions) and chosen.tolist() == positions.tolist()
    assert np.array_equal(np.asarray(chosen), positions) and np.array_equal(chosen[:], positions)
    assert np.array_equal(chosen.take(np.arange(len(positions))), positions)
    assert np.array_equal(chosen[1:-1:3], positions[1:-1:3]) and np.array_equal(chosen[::-1], positions[::-1])
    assert np.array_equal(chosen.mask(0, len(mask)), mask)
    assert [k in chosen for k in range(len(mask))][:50] == mask.tolist()[:50]
    if len(positions):
        assert chosen[0] == positions[0] and chosen[-1] == positions[-1]
        assert np.array_equal(chosen[np.array([-1, 0])], positions[[-1, 0]])


@given(mask=masks)
@settings(max_examples=40, deadline=None)
def test_the_two_sides_share_everything_between_them(mask):
    chosen = Selection.from_mask(cut(mask), len(mask))
    other = chosen.complement()
    assert sorted([*chosen, *other]) == list(range(len(mask)))
    assert len(chosen & other) == 0 and (chosen | other).tolist() == list(range(len(mask)))
    assert other.complement().tolist() == chosen.tolist()


def test_long_runs_are_read_as_single_ones_are():
    mask = np.random.default_rng(0).random(10_000) < 0.8
    chosen = Selection.from_mask([mask], len(mask))
    assert np.array_equal(chosen[100:6000], np.flatnonzero(mask)[100:6000])
    assert np.array_equal(np.concatenate(list(chosen.chunks(1000))), np.flatnonzero(mask))


def test_positions_in_any_order_select_the_same():
    assert Selection.from_positions([7, 2, 130], 200).tolist() == [2, 7, 130]
    assert Selection.from_positions(np.array([], dtype=np.int64), 5).tolist() == []


@pytest.mark.parametrize(("positions", "said"), [([1, 1], "only 1 different"), ([5], "must be in 0..4"), ([-1], "must be in 0..4")])
def test_impossible_positions_are_refused(positions, said):
    with pytest.raises(ValueError, match=said):
        Selection.from_positions(positions, 5)


def test_entries_that_are_not_there_are_refused():
    with pytest.raises(IndexError, match="3 structures are selected"):
        Selection.everything(3)[3]
    with pytest.raises(IndexError, match="mask of 2 entries was given for 3"):
        Selection.everything(3)[np.array([True, False])]


def test_a_saved_selection_is_mapped_and_pickled_by_its_path(tmp_path):
    mask = np.random.default_rng(1).random(100_000) < 0.3
    saved = Selection.from_mask([mask], len(mask)).saved(tmp_path / "deep" / "a.npy")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.npy"]
    for chosen in (saved, saved.complement()):
        data = pickle.dumps(chosen)
        assert len(data) < 1000 and np.array_equal(np.asarray(pickle.loads(data)), np.asarray(chosen))
    inverted = saved.complement().saved(tmp_path / "b.npy")
    assert np.array_equal(np.asarray(inverted), np.flatnonzero(~mask))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"a\.npy: not a saved selection"):
        Selection.load(tmp_path / "a.npy", 10)
    Selection.everything(5000).saved(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="another size than 10 structures"):
        Selection.load(tmp_path / "b.npy", 10)


def test_a_selection_takes_one_bit_per_structure():
    n = 2 * 10**7
    tracemalloc.start()
    chosen = Selection.from_mask((np.arange(k, min(k + 2**20, n)) % 10 == 0 for k in range(0, n, 2**20)), n)
    training = chosen.complement()
    assert training[10**7] == 10**7 + 10**7 // 9 + 1
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2 * n / 8
