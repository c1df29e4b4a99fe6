"""The plan: exact shares, no repeats within a pass, budgets kept, and nothing but (seed, step) decides."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.mixture.budget import Budget, pack_in_order
from unipot.data.mixture.permutation import permute, permute_each, round_keys
from unipot.data.mixture.plan import MixturePlan
from unipot.data.mixture.selection import Selection
from unipot.data.spec import MixtureSpec

#: what `test_draws_are_those_of_the_first_version` recorded
FIRST_FINGERPRINT = "f03365847cb5e104"
FIRST_MICRO_BATCHES = [
    [[(2, 59), (0, 383), (0, 88)], [(2, 26), (0, 64), (1, 1)]],
    [[(2, 15), (0, 75), (0, 510)], [(0, 76), (1, 0), (2, 6)]],
    [[(1, 2), (0, 144)], [(2, 36), (2, 55), (0, 299), (0, 97)]],
]


def plan_of(
    sizes,
    *,
    seed=0,
    weights=None,
    structures_per_step=8,
    micro_batches_per_step=1,
    temperature=1.0,
    max_atoms=200,
    max_edges=2000,
    max_cost=None,
):
    rng = np.random.default_rng(1)
    n_atoms = [rng.integers(1, 40, size) for size in sizes]
    n_edges = [atoms * rng.integers(1, 20, len(atoms)) for atoms in n_atoms]
    spec = MixtureSpec(
        structures_per_step=structures_per_step,
        micro_batches_per_step=micro_batches_per_step,
        max_atoms=max_atoms,
        max_edges=max_edges,
        max_cost=max_cost,
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
    max_cost=st.sampled_from([None, 1500.0]),
)


def sums(plan, batch):
    """Atoms and edges of a micro-batch."""
    columns = [(plan.sources[d].n_atoms, plan.sources[d].n_edges) for d in range(len(plan.names))]
    return sum(int(columns[d][0][i]) for d, i in batch), sum(int(columns[d][1][i]) for d, i in batch)


@given(n=st.one_of(st.integers(1, 3000), st.sampled_from([2**k + d for k in range(1, 13) for d in (-1, 0, 1)])), key=st.text(max_size=8))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(n, key):
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutations_together_are_those_alone():
    sizes = np.array([1, 2, 3, 5, 1000, 5 * 10**8, 10**12] * 4)
    positions = np.random.default_rng(0).integers(0, sizes)
    keys = [round_keys(f"k{k}") for k in range(len(sizes))]
    together = permute_each(positions, sizes, np.stack(keys, axis=1))
    assert together.tolist() == [
        int(permute(np.array([p]), int(n), f"k{k}")[0]) for k, (p, n) in enumerate(zip(positions, sizes, strict=True))
    ]


@pytest.mark.parametrize("n", [5 * 10**8, 2**28 + 1, 2**30 - 1])
def test_large_permutations_repeat_nothing_in_a_sample(n):
    positions = np.unique(np.random.default_rng(0).integers(0, n, 200_000))
    images = permute(positions, n, "0/set/0")
    assert images.min() >= 0 and images.max() < n and len(np.unique(images)) == len(positions)
    # uniform over 0..n-1: mean within five standard errors
    assert abs(images.mean() / n - 0.5) < 5 / np.sqrt(12 * len(positions))


def test_draws_are_those_of_the_first_version():
    """Recorded with version 0.1: a run that is resumed sees what it would have seen."""
    plan = plan_of([1000, 3, 60], seed=3, structures_per_step=6, micro_batches_per_step=2, temperature=5.0)
    assert plan.fingerprint() == FIRST_FINGERPRINT
    assert [plan.micro_batches(step) for step in (0, 1, 10**6)] == FIRST_MICRO_BATCHES


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
def test_micro_batches_hold_the_pool_within_all_budgets(plan, step):
    batches = plan.micro_batches(step)
    assert Counter(draw for batch in batches for draw in batch) == Counter(plan.pool(step))
    assert all(batches)
    for batch in batches:
        atoms, edges = sums(plan, batch)
        assert atoms <= plan.spec.max_atoms and edges <= plan.spec.max_edges
        assert plan.spec.max_cost is None or edges + 10 * atoms <= plan.spec.max_cost


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


@given(plan=mixtures, step=st.integers(0, 10**6), stride=st.integers(1, 9), jump=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_blocks_of_steps_decide_nothing(plan, step, stride, jump):
    visited = [*range(step, step + 20 * stride, stride), jump, *range(step, step + 4)]
    one_by_one = {}
    for k in set(visited):
        fresh = pickle.loads(pickle.dumps(plan))
        one_by_one[k] = (fresh.micro_batches(k), fresh.pool(k))
    for k in visited:
        assert (plan.micro_batches(k), plan.pool(k)) == one_by_one[k]


@given(plan=mixtures, n_workers=st.integers(1, 5), world_size=st.sampled_from([1, 2, 4]))
@settings(max_examples=30, deadline=None)
def test_workers_and_ranks_together_see_the_plan(plan, n_workers, world_size):
    if plan.spec.micro_batches_per_step % world_size:
        return
    copies = {(rank, w): pickle.loads(pickle.dumps(plan)) for rank in range(world_size) for w in range(n_workers)}
    for step in range(15):
        parts = [copies[rank, step % n_workers].rank_micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert sorted(batch for part in parts for batch in part) == sorted(plan.micro_batches(step))


@given(n=st.integers(2, 200), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_pass_covers_the_selected_structures_and_no_other(n, seed):
    mask = np.random.default_rng(seed).random(n) < 0.7
    mask[0] = True
    spec = MixtureSpec(structures_per_step=5, max_atoms=100, max_edges=100, seed=seed)
    plan = MixturePlan([np.ones(n)], [np.ones(n)], spec, names=["a"], selections=[Selection.from_mask([mask], n)])
    drawn = [i for step in range(-(-n // 5)) for _, i in plan.pool(step)]
    assert sorted(drawn[: mask.sum()]) == np.flatnonzero(mask).tolist()


def test_held_out_structures_may_exceed_the_budget():
    spec = MixtureSpec(structures_per_step=2, max_atoms=10, max_edges=50)
    columns = [np.array([3, 12, 4])], [np.array([6, 20, 6])]
    training = Selection.from_positions([0, 2], 3)
    assert sorted(MixturePlan(*columns, spec, names=["a"], selections=[training]).pool(0)) == [(0, 0), (0, 2)]
    with pytest.raises(ValueError, match="exceed"):
        MixturePlan(*columns, spec, names=["a"], selections=[training.complement()])


def test_a_plan_of_a_hundred_million_structures_takes_little_memory():
    n = 10**8
    spec = MixtureSpec(structures_per_step=64, micro_batches_per_step=4, max_atoms=4000, max_edges=200_000)
    training = Selection.from_mask((np.arange(k, min(k + 2**20, n)) % 10 > 0 for k in range(0, n, 2**20)), n)
    tracemalloc.start()
    held_out = training.complement()
    # arrays of 10^8 equal entries that lie in one number
    n_atoms, n_edges = (np.broadcast_to(np.int32(number), (n,)) for number in (30, 1200))
    plan = MixturePlan([n_atoms, n_atoms], [n_edges, n_edges], spec, names=["a", "b"], selections=[training, held_out])
    for step in range(300):
        plan.micro_batches(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


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
    costs = [edges + 10 * atoms for atoms, edges in (sums(plan, batch) for batch in plan.micro_batches(3))]
    assert max(costs) < 1.1 * min(costs)


def test_oversize_structures_are_refused_with_a_list():
    spec = MixtureSpec(structures_per_step=2, max_atoms=10, max_edges=50)
    with pytest.raises(ValueError, match=r"2 structure\(s\) exceed.*max_atoms>=12 max_edges>=60") as caught:
        MixturePlan([[3, 12, 4]], [[6, 20, 60]], spec, names=["slabs"], id_of=lambda _, i: f"slab-{i}")
    assert "dataset 'slabs', structure 'slab-1': 12 atoms, 20 edges" in str(caught.value)
    assert "dataset 'slabs', structure 'slab-2': 4 atoms, 60 edges" in str(caught.value)


def test_a_structure_over_the_cost_is_refused():
    spec = MixtureSpec(structures_per_step=2, max_atoms=100, max_edges=500, max_cost=100)
    with pytest.raises(ValueError, match=r"max_cost=100\); raise it to .* max_cost>=140") as caught:
        MixturePlan([[3, 12]], [[6, 20]], spec, names=["a"])
    assert "number 1: 12 atoms, 20 edges" in str(caught.value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="dataset 'd1' has no training structures"):
        plan_of([5, 0])


def test_the_fingerprint_ignores_budgets_and_notices_data():
    assert plan_of([5, 6]).fingerprint() == plan_of([5, 6], max_atoms=300, micro_batches_per_step=2).fingerprint()
    assert plan_of([5, 6]).fingerprint() != plan_of([5, 7]).fingerprint()
    assert plan_of([5, 6]).fingerprint() != plan_of([5, 6], seed=1).fingerprint()


def test_pack_in_order_fills_up_to_the_budget():
    def bounds(atoms, edges, **limits):
        return pack_in_order(np.array(atoms), np.array(edges), Budget(**limits)).tolist()

    assert bounds([4, 4, 4, 9, 1], [1, 1, 1, 1, 1], max_atoms=10, max_edges=100) == [0, 2, 3, 5]
    assert bounds([1, 1], [5, 6], max_atoms=10, max_edges=10) == [0, 1, 2]
    assert bounds([1, 1, 1], [5, 5, 5], max_atoms=10, max_edges=100, max_cost=30) == [0, 2, 3]
    assert bounds([1, 20, 1], [1, 1, 1], max_atoms=10, max_edges=10) == [0, 1, 2, 3]  # over the budget: alone
    assert bounds([], [], max_atoms=1, max_edges=1) == [0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=60), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_packing_in_chunks_is_packing_at_once(sizes, chunk):
    atoms, edges = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    budget = Budget(max_atoms=20, max_edges=60, max_cost=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unipot.data.mixture.budget.CHUNK", chunk)
        in_chunks = pack_in_order(atoms, edges, budget, np.arange(len(atoms)))
    expected, start = [0], 0
    for k in range(1, len(atoms)):
        run = slice(start, k + 1)
        if atoms[run].sum() > 20 or edges[run].sum() > 60 or (edges + 10 * atoms)[run].sum() > 200:
            expected.append(k)
            start = k
    assert in_chunks.tolist() == (expected + [len(atoms)] if len(atoms) else [0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("structures_per_step", 0),
        ("max_atoms", -1),
        ("temperature", 0.5),
        ("micro_batches_per_step", 9),
        ("max_edges", 1.5),
        ("max_cost", 0),
    ],
)
def test_impossible_mixtures_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        MixtureSpec(**{"structures_per_step": 8, "max_atoms": 10, "max_edges": 10, field: value})
