"""Folds, halving and the choice of steps, on errors that are made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipot.finetune.search.halving import (
    WORTH_LONGER,
    Rung,
    Trial,
    choose,
    choose_steps,
    lengthen,
    make_folds,
    plan_longer,
    plan_rungs,
    relative_error,
    runner_up,
    search,
)

CANDIDATES = ("a", "b", "c", "d", "e", "f")


def trial(candidate, fold, steps, score, curve=None):
    looks = curve or ((steps, score),)
    return Trial(candidate=candidate, fold=fold, steps=steps, errors={"forces": score}, score=score, curve=tuple(looks), seconds=0.0)


@given(st.lists(st.integers(0, 12), min_size=4, max_size=60), st.integers(2, 5), st.integers(0, 9))
def test_folds_divide_the_frames_but_no_group(groups, n_folds, seed):
    groups = np.array(groups)
    folds = make_folds(groups, n_folds, seed)
    if len(set(groups.tolist())) == 1:
        assert folds == []
        return
    assert len(folds) == min(n_folds, len(set(groups.tolist())))
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(len(groups)))
    owners = [{int(g) for g in groups[fold]} for fold in folds]
    assert all(own and not own & other for k, own in enumerate(owners) for other in owners[:k])


def test_folds_of_single_frames_differ_by_at_most_one_frame():
    sizes = sorted(len(fold) for fold in make_folds(np.arange(31), 3, seed=0))
    assert sizes == [10, 10, 11]


def test_another_seed_gives_other_folds():
    first, second = (make_folds(np.arange(30), 3, seed=seed)[0].tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("groups", [np.arange(3), np.zeros(10, dtype=int), np.arange(0)])
def test_too_few_frames_or_one_group_cannot_be_split(groups):
    assert make_folds(groups, 3, seed=0) == []


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scores_do_not_depend_on_units(energy_unit, force_unit):
    errors, start, units = {"energy": 0.3, "forces": 0.2}, {"energy": 0.5, "forces": 0.7}, {"energy": energy_unit, "forces": force_unit}
    scaled = relative_error({k: v * units[k] for k, v in errors.items()}, {k: v * units[k] for k, v in start.items()})
    assert scaled == pytest.approx(relative_error(errors, start))


def test_errors_of_other_properties_than_the_starts_are_refused():
    with pytest.raises(ValueError, match="cannot be compared with a start"):
        relative_error({"energy": 1.0}, {"energy": 1.0, "forces": 1.0})


@given(st.integers(1, 9), st.integers(1, 5), st.integers(20, 2000), st.booleans(), st.floats(2.0, 6.0))
def test_rungs_stay_within_the_budget(n_candidates, n_folds, longest, look, factor):
    budget = int(factor * longest)
    try:
        rungs = plan_rungs(n_candidates, n_folds, budget=budget, longest=longest, every_fold=look, every=10)
    except ValueError:
        assert budget < 2 * n_candidates + 1 + n_folds * longest  # what the shortest trials need
        return
    assert sum(rung.cost for rung in rungs) <= budget
    assert max(rung.steps for rung in rungs) <= longest


@pytest.mark.parametrize(
    ("n_candidates", "budget", "expected"),
    [
        (5, 5400, [(5, (0,), 600), (2, (1, 2), 600)]),
        (5, 4200, [(5, (0,), 600), (1, (1, 2), 600)]),
        (6, 2700, [(6, (0,), 100), (3, (1,), 100), (1, (0, 1, 2), 600)]),  # too little
        (2, 3600, [(2, (0,), 600), (2, (1, 2), 600)]),
        (1, 1800, [(1, (0,), 600), (1, (1, 2), 600)]),
    ],
)
def test_finalists_are_trained_on_every_fold_and_short_trials_decide_only_where_the_budget_is_small(n_candidates, budget, expected):
    rungs = plan_rungs(n_candidates, 3, budget=budget, longest=600, every_fold=True, every=50)
    assert [(rung.n_candidates, rung.folds, rung.steps) for rung in rungs] == expected


def test_the_finalist_that_is_better_over_all_folds_wins():
    """`a` leads on the first fold."""
    scores = {("a", 0): 0.30, ("b", 0): 0.32, ("c", 0): 0.5, ("a", 1): 0.5, ("a", 2): 0.5, ("b", 1): 0.3, ("b", 2): 0.3}
    rungs = plan_rungs(3, 3, budget=4200, longest=600, every_fold=True, every=600)
    trials = search("abc", rungs, lambda name, fold, rung: trial(name, fold, rung.steps, scores[name, fold]))
    assert [(t.candidate, t.fold) for t in trials[3:]] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert (choose(trials, look_at_length=True).candidate, choose(trials, look_at_length=False).candidate) == ("b", "b")


def test_with_one_held_out_part_the_better_half_trains_twice_as_long():
    rungs = plan_rungs(6, 1, budget=1200, longest=600, every_fold=False, every=50)
    assert [(rung.n_candidates, rung.folds, rung.steps) for rung in rungs] == [(6, (0,), 100), (3, (0,), 200)]


def test_a_budget_below_one_step_per_trial_is_refused():
    with pytest.raises(ValueError, match="search_budget allows 5 steps, but 6 candidates on 3 folds need at least 9"):
        plan_rungs(6, 3, budget=5, longest=600, every_fold=False, every=50)


def test_halving_keeps_the_better_half():
    scores = dict(zip(CANDIDATES, (0.9, 0.5, 0.7, 1.2, 0.4, 0.8), strict=True))
    rungs = plan_rungs(6, 3, budget=2700, longest=600, every_fold=True, every=50)
    trials = search(CANDIDATES, rungs, lambda name, fold, rung: trial(name, fold, rung.steps, scores[name]))
    assert [(t.candidate, t.fold) for t in trials[6:]] == [("e", 1), ("b", 1), ("c", 1), ("e", 0), ("e", 1), ("e", 2)]


def test_one_lucky_fold_does_not_win():
    """`a` is the best on the first fold and the worst of the better half on the others."""
    scores = {("a", 0): 0.3, ("a", 1): 0.9, ("a", 2): 0.9}
    rungs = (Rung(n_candidates=3, folds=(0,), steps=10, every=10), Rung(n_candidates=2, folds=(1, 2), steps=10, every=10))
    trials = search("abc", rungs, lambda name, fold, rung: trial(name, fold, rung.steps, scores.get((name, fold), 0.5)))
    assert choose(trials, look_at_length=False).candidate == "b"


def test_a_candidate_left_behind_early_is_not_chosen():
    """`a` lost its round, though its one score is below the mean of the winner's later ones."""
    trials = [trial("a", 0, 10, 0.6), trial("b", 0, 10, 0.5), trial("b", 1, 10, 0.9), trial("b", 2, 10, 0.9)]
    assert choose(trials, look_at_length=False).candidate == "b"


def test_the_start_is_kept_where_no_candidate_is_better():
    choice = choose([trial("a", 0, 10, 1.3), trial("b", 0, 10, 1.1)], look_at_length=False)
    assert (choice.candidate, choice.steps, choice.score) == (None, None, 1.1)
    assert "no candidate lowers the held-out errors (best: b, 1.100" in choice.reason


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (((100, 0.8), (200, 0.6), (300, 0.5)), 300),  # still falling
        (((100, 0.8), (150, 0.4), (200, 0.42), (300, 0.6)), 200),  # clearly turned
        (((100, 0.8), (200, 0.4), (300, 0.6)), 300),  # one look alone does not tell
        (((100, 0.8), (200, 0.6), (300, 0.65)), 300),  # the folds cannot tell
    ],
)
def test_steps_follow_from_the_held_out_curve(curve, expected):
    assert choose_steps([trial("a", 0, 300, curve[-1][1], curve)])[0] == expected


def test_a_short_annealed_trial_can_be_the_best_length():
    trials = [trial("a", 0, 50, 0.4), trial("a", 1, 50, 0.2), *(trial("a", fold, 300, 0.8, ((100, 0.6), (300, 0.8))) for fold in (0, 1))]
    choice = choose(trials, look_at_length=True)
    assert (choice.candidate, choice.steps, choice.score) == ("a", 50, pytest.approx((0.4 * 0.2) ** 0.5))


def test_one_fold_that_turns_does_not_cut_the_training():
    curves = [((100, 0.4), (300, 0.6)), ((100, 0.8), (300, 0.5)), ((100, 0.8), (300, 0.5))]
    trials = [trial("a", fold, 300, curve[-1][1], curve) for fold, curve in enumerate(curves)]
    assert choose_steps(trials) == (300, pytest.approx((0.6 * 0.5 * 0.5) ** (1 / 3)))


def test_trials_survive_json():
    import json

    made = trial("a", 0, 300, 0.5, ((100, 0.6), (300, 0.5)))
    assert Trial.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_single_look_that_dips_chooses_nothing():
    """As where the energy error of related frames passes through zero."""
    dip = ((50, 1.2), (100, 0.9), (150, 0.2), (200, 0.8), (250, 0.75), (300, 0.74))
    steady = ((50, 1.1), (100, 0.9), (150, 0.8), (200, 0.75), (250, 0.72), (300, 0.7))
    trials = [trial("dips", 0, 300, 0.74, dip), trial("steady", 0, 300, 0.7, steady)]
    chosen = choose(trials, look_at_length=True)
    assert (chosen.candidate, chosen.steps) == ("steady", 300)


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=8))
def test_no_score_is_chosen_below_all_that_were_measured(scores):
    curve = tuple((50 * (k + 1), score) for k, score in enumerate(scores))
    steps, score = choose_steps([trial("a", 0, curve[-1][0], scores[-1], curve)])
    assert min(scores) <= score * (1 + 1e-9) and steps in dict(curve)


def lengthened(scores, factor=2.5, budget=10_000, curve=None):
    """One candidate on three folds with a score of 0.5 each; `scores` by (fold, steps) of what comes after."""
    rungs = plan_rungs(1, 3, budget=budget, longest=600, every_fold=True, every=600)
    trials = search("a", rungs, lambda name, fold, rung: trial(name, fold, rung.steps, 0.5, curve))
    longer = plan_longer(rungs, factor=factor, budget=budget)
    run = lambda name, fold, rung: trial(name, fold, rung.steps, scores[fold])  # noqa: E731
    return lengthen(trials, choose(trials, look_at_length=True), longer, run)


def test_a_longer_training_is_taken_where_it_is_better_on_all_folds_together():
    trials, choice = lengthened({0: 0.4, 1: 0.5, 2: 0.45})
    assert [(t.fold, t.steps) for t in trials[3:]] == [(0, 1500), (1, 1500), (2, 1500)]
    assert (choice.candidate, choice.steps, choice.score) == ("a", 1500, pytest.approx((0.4 * 0.5 * 0.45) ** (1 / 3)))


def test_a_longer_training_stops_after_a_fold_that_does_not_gain():
    trials, choice = lengthened({0: 0.5 * WORTH_LONGER + 1e-6})
    assert len(trials) == 4 and choice.steps == 600
    assert "1500 steps have 0.950 of its errors, which is not worth them" in choice.reason


def test_a_gain_on_the_first_fold_alone_is_not_enough():
    _, choice = lengthened({0: 0.4, 1: 0.6, 2: 0.6})
    assert (choice.steps, choice.score) == (600, pytest.approx(0.5))


def test_nothing_longer_is_tried_where_fewer_steps_were_better():
    trials, choice = lengthened({}, curve=((300, 0.3), (600, 0.5)))
    assert (len(trials), choice.steps) == (3, 300)


@pytest.mark.parametrize(("factor", "budget"), [(1.0, 10_000), (2.5, 6000)])
def test_nothing_longer_is_tried_without_being_asked_or_beyond_the_budget(factor, budget):
    assert plan_longer(plan_rungs(1, 3, budget=budget, longest=600, every_fold=True, every=50), factor=factor, budget=budget) == ()


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="small_data.longer is 0.5; it must be at least 1"):
        plan_longer(plan_rungs(1, 3, budget=6000, longest=600, every_fold=True, every=50), factor=0.5, budget=6000)


def second_of(scores, **more):
    """Runner-up of trials of 600 steps on two folds, and of `more` on the first alone."""
    trials = [trial(name, fold, 600, score) for name, score in scores.items() for fold in (0, 1)]
    trials += [trial(name, 0, 600, score) for name, score in more.items()]
    return runner_up(trials, choose(trials, look_at_length=True))


def test_the_second_best_is_averaged_with_where_it_is_nearly_as_good():
    assert second_of({"a": 0.20, "b": 0.22}) == ("b", 600)


def test_a_second_best_that_is_clearly_worse_is_not_averaged_with():
    assert second_of({"a": 0.20, "b": 0.24}) is None


def test_a_candidate_of_one_lucky_fold_is_no_second_best():
    assert second_of({"a": 0.20, "b": 0.22}, c=0.1) == ("b", 600)
    assert second_of({"a": 0.20}, c=0.1) is None


def test_without_a_training_that_helps_there_is_no_second_best():
    assert second_of({"a": 1.20, "b": 1.22}) is None


def test_a_longer_training_of_the_best_does_not_hide_the_second():
    trials = [trial(name, fold, 600, score) for name, score in (("a", 0.20), ("b", 0.21)) for fold in (0, 1)]
    longer = plan_longer((Rung(n_candidates=2, folds=(0, 1), steps=600, every=50),), factor=2.5, budget=10_000)
    choice = choose(trials, look_at_length=True)
    trials, choice = lengthen(trials, choice, longer, lambda name, fold, rung: trial(name, fold, rung.steps, 0.1))
    assert (choice.steps, runner_up(trials, choice)) == (1500, ("b", 600))
