"""The plan: exact shares, no repeats within a pass, budgets kept, and nothing but (seed, step) decides."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.permutation import permute
from unipot.data.plan import MixturePlan, pack_in_order
from unipot.data.spec import MixtureSpec


def plan_of(
    sizes, *, seed=0, weights=None, structures_per_step=8, micro_batches_per_step=1, temperature=1.0, max_atoms=200, max_edges=2000
):
    rng = np.random.default_rng(1)
    n_atoms = [rng.integers(1, 40, size) for size in sizes]
    n_edges = [atoms * rng.integers(1, 20, len(atoms)) for atoms in n_atoms]
    spec = MixtureSpec(
        structures_per_step=structures_per_step,
        micro_batches_per_step=micro_batches_per_step,
        max_atoms=max_atoms,
        max_edges=max_edges,
        temperature=temperature,
        seed=seed,
    )
    return MixturePlan(n_atoms, n_edges, spec, names=[f"d{k}" for k in range(len(sizes))], weights=weights)


mixtures = st.builds(
    plan_of,
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
    structures_per_step=st.integers(4, 24),
    micro_batches_per_step=st.sampled_from([1, 2, 4]),
    temperature=st.sampled_from([1.0, 2.0, 5.0]),
)


@given(n=st.integers(1, 3000), key=st.text(max_size=8))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(n, key):
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutations_of_different_keys_differ_and_are_spread():
    images = [permute(np.arange(1000), 1000, f"0/set/{number}") for number in range(3)]
    agreements = [int((a == b).sum()) for a, b in ((images[0], images[1]), (images[0], images[2]), (images[0], np.arange(1000)))]
    assert max(agreements) < 10
    # a random order has correlation of about 1/sqrt(n) with the original one
    assert abs(np.corrcoef(images[0], np.arange(1000))[0, 1]) < 0.12


def test_permute_needs_no_table():
    n = 10**12
    assert 0 <= int(permute(np.array([n - 1]), n, "k")[0]) < n


@given(plan=mixtures, step=st.integers(0, 10**7))
@settings(max_examples=100, deadline=None)
def test_counts_of_draws_are_exact_at_every_horizon(plan, step):
    counts = plan.draw_counts(step)
    total = step * plan.spec.structures_per_step
    assert sum(counts) == total
    bound = 1 + sum(1 / k for k in range(1, len(counts))) + 1e-6
    for count, share in zip(counts, plan.shares().values(), strict=True):
        assert abs(count - share * total) <= bound
    assert all(b >= a for a, b in zip(counts, plan.draw_counts(step + 1), strict=True))


@given(plan=mixtures, first=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_pass_repeats_nothing_and_misses_nothing(plan, first):
    n_steps = 12
    draws = [draw for step in range(first, first + n_steps) for draw in plan.pool(step)]
    seen = {d: [i for e, i in draws if e == d] for d in range(len(plan.names))}
    starts = plan.draw_counts(first)
    for dataset, structures in seen.items():
        size = plan._sizes[dataset]
        head = (-starts[dataset]) % size  # draws until the next pass begins
        for begin in range(head, len(structures) - size + 1, size):
            assert sorted(structures[begin : begin + size]) == list(range(size))


@given(plan=mixtures, step=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_micro_batches_hold_the_pool_within_both_budgets(plan, step):
    batches = plan.micro_batches(step)
    assert Counter(draw for batch in batches for draw in batch) == Counter(plan.pool(step))
    assert all(batches)
    for batch in batches:
        assert sum(plan._n_atoms[d][i] for d, i in batch) <= plan.spec.max_atoms
        assert sum(plan._n_edges[d][i] for d, i in batch) <= plan.spec.max_edges


@given(plan=mixtures, step=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_any_world_size_sees_the_same_step(plan, step):
    whole = plan.micro_batches(step)
    for world_size in (1, 2, 4):
        if plan.spec.micro_batches_per_step % world_size:
            with pytest.raises(ValueError, match="evenly"):
                plan.rank_micro_batches(step, 0, world_size)
            continue
        parts = [plan.rank_micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert all(parts)
        assert sorted(batch for part in parts for batch in part) == sorted(whole)


@given(plan=mixtures, steps=st.lists(st.integers(0, 500), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_step_depends_on_nothing_that_happened_before(plan, steps):
    fresh = pickle.loads(pickle.dumps(plan))
    for step in steps:
        plan.micro_batches(step)
    assert [fresh.micro_batches(step) for step in reversed(steps)] == [plan.micro_batches(step) for step in reversed(steps)]


def test_another_seed_gives_other_draws():
    assert plan_of([50, 50], seed=1).pool(0) != plan_of([50, 50], seed=2).pool(0)


def test_the_order_within_a_dataset_does_not_depend_on_its_neighbours():
    alone = [i for step in range(10) for _, i in plan_of([40]).pool(step)]
    mixed = [i for step in range(30) for d, i in plan_of([40, 60]).pool(step) if d == 0]
    assert mixed[:40] == alone[:40]


def test_temperature_and_weights_set_the_shares():
    assert list(plan_of([90, 10]).shares().values()) == pytest.approx([0.9, 0.1])
    assert list(plan_of([90, 10], temperature=2.0).shares().values()) == pytest.approx([0.75, 0.25])
    assert list(plan_of([90, 10], weights=[1.0, 3.0]).shares().values()) == pytest.approx([0.25, 0.75])
    assert plan_of([90, 10], weights=[1.0, 3.0]).passes(100) == pytest.approx({"d0": 200 / 90, "d1": 60.0}, abs=0.1)


def test_a_weight_missing_for_one_dataset_is_refused():
    with pytest.raises(ValueError, match="not for d1; give it for all or for none"):
        plan_of([5, 5], weights=[1.0, None])


def test_a_step_that_does_not_fit_takes_the_next_multiple_of_micro_batches():
    spec = MixtureSpec(structures_per_step=10, micro_batches_per_step=2, max_atoms=10, max_edges=100)
    plan = MixturePlan([np.full(20, 4)], [np.full(20, 8)], spec, names=["a"])
    assert sorted(len(batch) for batch in plan.micro_batches(0)) == [1, 1, 2, 2, 2, 2]


def test_micro_batches_have_similar_cost():
    plan = plan_of([500], structures_per_step=64, micro_batches_per_step=4, max_atoms=1000, max_edges=20000)
    costs = [sum(plan._n_edges[d][i] + 10 * plan._n_atoms[d][i] for d, i in batch) for batch in plan.micro_batches(3)]
    assert max(costs) < 1.1 * min(costs)


def test_oversize_structures_are_refused_with_a_list():
    spec = MixtureSpec(structures_per_step=2, max_atoms=10, max_edges=50)
    with pytest.raises(ValueError, match=r"2 structure\(s\) exceed.*max_atoms>=12 max_edges>=60") as caught:
        MixturePlan([[3, 12, 4]], [[6, 20, 60]], spec, names=["slabs"], id_of=lambda _, i: f"slab-{i}")
    assert "dataset 'slabs', structure 'slab-1': 12 atoms, 20 edges" in str(caught.value)
    assert "dataset 'slabs', structure 'slab-2': 4 atoms, 60 edges" in str(caught.value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="dataset 'd1' has no training structures"):
        plan_of([5, 0])


def test_the_fingerprint_ignores_budgets_and_notices_data():
    assert plan_of([5, 6]).fingerprint() == plan_of([5, 6], max_atoms=300, micro_batches_per_step=2).fingerprint()
    assert plan_of([5, 6]).fingerprint() != plan_of([5, 7]).fingerprint()
    assert plan_of([5, 6]).fingerprint() != plan_of([5, 6], seed=1).fingerprint()


def test_pack_in_order_fills_up_to_the_budget():
    runs = pack_in_order(np.array([4, 4, 4, 9, 1]), np.array([1, 1, 1, 1, 1]), max_atoms=10, max_edges=100)
    assert [run.tolist() for run in runs] == [[0, 1], [2], [3, 4]]
    assert [run.tolist() for run in pack_in_order(np.array([1, 1]), np.array([5, 6]), max_atoms=10, max_edges=10)] == [[0], [1]]
    assert pack_in_order(np.array([]), np.array([]), max_atoms=1, max_edges=1) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("structures_per_step", 0), ("max_atoms", -1), ("temperature", 0.5), ("micro_batches_per_step", 9), ("max_edges", 1.5)],
)
def test_impossible_mixtures_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        MixtureSpec(**{"structures_per_step": 8, "max_atoms": 10, "max_edges": 10, field: value})
