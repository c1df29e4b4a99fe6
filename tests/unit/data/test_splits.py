"""Splits keep relatives together and never move a structure to the other side."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data.splits import split_by_group


@pytest.fixture
def grouped(make_store, make_structure):
    """A store of `n` structures, three to a group."""

    def make(n: int, name: str):
        return make_store(name, [make_structure(k, n_atoms=2, group=f"g{k // 3}") for k in range(n)])

    return make


def test_parts_are_disjoint_complete_and_near_the_fraction(grouped):
    store = grouped(300, "a")
    train, validation = split_by_group(store, 0.2)
    assert sorted([*train, *validation]) == list(range(300))
    assert 30 <= len(validation) <= 90


def test_relatives_stay_together(grouped):
    train, validation = split_by_group(grouped(300, "a"), 0.2)
    assert not {i // 3 for i in train} & {i // 3 for i in validation}


def test_growth_moves_nothing(grouped):
    small, large = split_by_group(grouped(120, "a"), 0.2), split_by_group(grouped(300, "b"), 0.2)
    assert large[0][large[0] < 120].tolist() == small[0].tolist()
    assert large[1][large[1] < 120].tolist() == small[1].tolist()


def test_another_seed_is_another_split(grouped):
    store = grouped(120, "a")
    assert split_by_group(store, 0.2, 0)[1].tolist() != split_by_group(store, 0.2, 1)[1].tolist()


def test_structures_without_group_stand_alone(make_store):
    train, validation = split_by_group(make_store(n=50), 0.2)
    assert len(train) + len(validation) == 50 and len(validation) >= 3


def test_a_small_set_keeps_one_group_for_validation(make_store):
    store = make_store(n=4)
    assert all(len(split_by_group(store, 0.001, seed)[1]) == 1 for seed in range(20))


def test_fraction_zero_holds_out_nothing(make_store):
    train, validation = split_by_group(make_store(n=4), 0.0)
    assert train.tolist() == [0, 1, 2, 3] and validation.dtype == np.int64 and len(validation) == 0


def test_one_group_cannot_be_split(make_store, make_structure):
    store = make_store(structures=[make_structure(k, group="one") for k in range(5)])
    with pytest.raises(ValueError, match=r"in 1 group\(s\) cannot be split.*validation_path"):
        split_by_group(store, 0.2)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        split_by_group(store, 1.0)
