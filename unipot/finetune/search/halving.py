"""Small-data mode: few frames choose how a model is fine-tuned on them, by cross-validation and successive halving.

Candidates are trained on part of the frames and scored on the rest, by their errors relative to those of the aligned
start; the better ones go on to further parts (successive halving: Jamieson and Talwalkar 2016, arXiv:1502.07943). The
start itself is always a candidate, with no step at all. How a trial is trained is not known here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from unipot.errors import InputError

#: fewer frames cannot be split into parts that say anything
SMALLEST_SEARCH = 4
#: training is cut short only where going on makes the held-out errors larger than the smallest by this factor
CLEARLY_WORSE = 1.1
#: candidates that are trained on every fold, where the budget allows it
FINALISTS = 2
#: a longer training is taken where held-out errors fall below so many times those of the shorter one
WORTH_LONGER = 0.95
#: a second model is worth averaging with where its held-out errors are below so many times those of the first
WORTH_AVERAGING = 1.15
#: errors are not compared below this (eV/atom, eV/Å, eV/Å³)
_FLOOR = 1e-9
#: score of a candidate whose loss was not finite
DIVERGED = 1e6

Errors = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One round: this many candidates, each on these folds for so many steps.

    Attributes:
        n_candidates: that take part, best first.
        folds: held out one after the other.
        steps: of training per candidate and fold.
        every: held-out errors are looked at after so many steps and at the end.
    """

    n_candidates: int
    folds: tuple[int, ...]
    steps: int
    every: int

    @property
    def cost(self) -> int:
        """Training steps in total."""
        return self.n_candidates * len(self.folds) * self.steps


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one candidate reached on one held-out fold.

    Attributes:
        candidate: its name.
        fold: that was held out.
        steps: trained for.
        errors: property -> mean absolute error of the averaged weights on the fold at the end.
        score: geometric mean of `errors` over those of the start on the same fold; below 1 is better than the start.
        curve: (step, score) of every look at the held-out fold; the last is (steps, score).
        seconds: it took.
    """

    candidate: str
    fold: int
    steps: int
    errors: dict[str, float]
    score: float
    curve: tuple[tuple[int, float], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Trial:
        """Inverse of `to_dict`, also after JSON."""
        return cls(**{**content, "curve": tuple((int(step), float(score)) for step, score in content["curve"])})


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the trials say.

    Attributes:
        candidate: to be trained with; None keeps the start.
        steps: to train for; None where the held-out frames of the training itself decide.
        score: held-out errors of the best candidate relative to the start, also where the start is kept.
        reason: one sentence.
    """

    candidate: str | None
    steps: int | None
    score: float
    reason: str


def make_folds(groups: np.ndarray, n_folds: int, seed: int) -> list[np.ndarray]:
    """Split frames into folds of similar size; a group is never divided.

    Args:
        groups: (n_frames,) group of each frame; relatives share one.
        n_folds: wanted; there are fewer where there are fewer groups.
        seed: another seed, another split.

    Returns:
        Ascending positions per fold; empty where nothing can be held out: fewer than `SMALLEST_SEARCH` frames, or one
        group.

    Raises:
        ValueError: fewer than two folds are wanted.

    Example:
        >>> [fold.tolist() for fold in make_folds(np.array([7, 7, 8, 8]), 2, seed=0)]
        [[2, 3], [0, 1]]
    """
    if n_folds < 2:
        raise InputError(f"small_data.folds is {n_folds}; give at least 2")
    names, sizes = np.unique(groups, return_counts=True)
    n_folds = min(n_folds, len(names))
    if n_folds < 2 or len(groups) < SMALLEST_SEARCH:
        return []
    hashed = [hashlib.blake2b(f"{seed}/{name}".encode()).digest() for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda i: (-sizes[i], hashed[i]))
    members: list[list[Any]] = [[] for _ in range(n_folds)]
    totals = [0] * n_folds
    for i in order:  # the largest groups first, each into the smallest fold
        smallest = totals.index(min(totals))
        members[smallest].append(names[i])
        totals[smallest] += int(sizes[i])
    return [np.flatnonzero(np.isin(groups, np.array(own))) for own in members]


def relative_error(errors: Errors, start: Errors) -> float:
    """Geometric mean over properties of the error over that of the start; units cancel, every property counts alike.

    Raises:
        ValueError: nothing is labelled, or an error is not finite.

    Example:
        >>> relative_error({"energy": 0.5, "forces": 2.0}, {"energy": 1.0, "forces": 4.0})
        0.5
    """
    if not start or set(errors) != set(start):
        raise InputError(f"errors of {sorted(errors)} cannot be compared with a start that has {sorted(start)}")
    ratios = [math.log(max(errors[name], _FLOOR) / max(value, _FLOOR)) for name, value in start.items()]
    score = math.exp(sum(ratios) / len(ratios))
    if not math.isfinite(score):
        raise InputError(f"held-out errors are not finite: {dict(errors)}")
    return score


def plan_rungs(n_candidates: int, n_folds: int, *, budget: int, longest: int, every_fold: bool, every: int) -> tuple[Rung, ...]:
    """All candidates on the first fold for as long as the final training, and the two best on every other fold, if asked for.

    The folds of the finalists choose, say how many steps are good, and how wrong models of that length are on frames
    that they have not seen. Where the budget is too small for that, or nothing is asked of every fold, short trials
    come first (`_short_rungs`): they favour high rates, which look better early than they are in the end (Y. Wu et al.,
    "Understanding short-horizon bias in stochastic meta-optimization", 2018, arXiv:1803.02021).

    Args:
        n_candidates: beside the start.
        n_folds: 1 for a single held-out part.
        budget: training steps of all trials together.
        longest: steps of the final training, at most.
        every_fold: whether finalists are trained for `longest` steps on every fold.
        every: steps between looks at the held-out fold there.

    Raises:
        ValueError: the budget does not allow one step per trial.
    """
    for n_finalists in (min(FINALISTS, n_candidates), 1) if every_fold else ():
        first = Rung(n_candidates=n_candidates, folds=(0,), steps=longest, every=every)
        rungs = (first, Rung(n_candidates=n_finalists, folds=tuple(range(1, n_folds)), steps=longest, every=every))
        if sum(rung.cost for rung in rungs) <= budget:
            return rungs
    return _short_rungs(n_candidates, n_folds, budget=budget, longest=longest, every_fold=every_fold, every=every)


def _short_rungs(n_candidates: int, n_folds: int, *, budget: int, longest: int, every_fold: bool, every: int) -> tuple[Rung, ...]:
    """All candidates on the first fold, the better half on the second, and the winner on every fold for `longest` steps if asked for.

    With one held-out part the better half goes on with twice the steps on it. The steps of the short trials follow from
    the budget, and are never more than `longest`.
    """
    half = (n_candidates + 1) // 2
    later = (half, (1,), 1) if n_folds > 1 else (half, (0,), 2)
    parts = [(n_candidates, (0,), 1), later] if n_candidates > 1 or not every_fold else []
    units = sum(n * len(folds) * factor for n, folds, factor in parts)
    last = n_folds * longest if every_fold else 0
    left = budget - last
    steps = min(left // units, longest) if units else 0
    if (parts and steps < 1) or left < 0:
        raise InputError(
            f"small_data.search_budget allows {budget} steps, but {n_candidates} candidates on {n_folds} folds need at least "
            f"{units + last}; raise it, give fewer candidates or folds, or set small_data=off"
        )
    rungs = [Rung(n_candidates=n, folds=folds, steps=min(factor * steps, longest), every=longest) for n, folds, factor in parts]
    if every_fold:
        rungs.append(Rung(n_candidates=1, folds=tuple(range(n_folds)), steps=longest, every=every))
    return tuple(rungs)


def search(candidates: Sequence[str], rungs: Sequence[Rung], run_trial: Callable[[str, int, Rung], Trial]) -> list[Trial]:
    """Run the rungs; each takes the best candidates of those before it.

    Args:
        candidates: names; the order decides between equals.
        rungs: see `plan_rungs`.
        run_trial: trains a candidate with a fold held out for the steps of the rung.

    Returns:
        Every trial, in the order they were run.
    """
    trials: list[Trial] = []
    alive = list(candidates)
    for rung in rungs:
        alive = sorted(alive, key=lambda name: score_of(name, trials))[: rung.n_candidates]
        trials += [run_trial(name, fold, rung) for name in alive for fold in rung.folds]
    return trials


def score_of(candidate: str, trials: Sequence[Trial]) -> float:
    """Geometric mean of the scores of a candidate, over folds the longest trial on each; 1 without trials."""
    longest: dict[int, Trial] = {}
    for trial in trials:
        if trial.candidate == candidate and (trial.fold not in longest or trial.steps > longest[trial.fold].steps):
            longest[trial.fold] = trial
    logarithms = [math.log(trial.score) for trial in longest.values()]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0


def choose(trials: Sequence[Trial], *, look_at_length: bool) -> Choice:
    """The candidate that came furthest with the smallest error, and for how many steps; the start where none is better.

    Only candidates with the most held-out folds and the longest trials are compared: those that stayed to the end.

    Raises:
        ValueError: there are no trials.
    """
    if not trials:
        raise InputError("no trial was run, so nothing can be chosen")
    if not look_at_length:
        winner, steps, length = _best_of_last_round(trials), None, ""
        score = score_of(winner, trials)
    else:
        own = {name: [trial for trial in trials if trial.candidate == name] for name in _finalists(trials)}
        found = {name: choose_steps(theirs) for name, theirs in own.items()}
        winner = min(found, key=lambda name: found[name][1])
        steps, score = found[winner]
        length = f" after {steps} steps: {_why_no_more_steps(steps, own[winner])}"
    if score >= 1:
        reason = f"no candidate lowers the held-out errors (best: {winner}, {score:.3f} of the start's)"
        return Choice(candidate=None, steps=None, score=score, reason=reason)
    return Choice(candidate=winner, steps=steps, score=score, reason=f"held-out errors are {score:.3f} of the start's{length}")


def choose_steps(trials: Sequence[Trial]) -> tuple[int, float]:
    """How many steps, and the score reached with them: geometric means over the folds of the longest trials of one candidate.

    Shorter trials, whose rate fell to zero earlier, count by their scores over those that the longest reached on the
    same folds. The most steps win whose score is within `CLEARLY_WORSE` of the smallest. On every fold a look counts
    with the median of itself and its two neighbours (J. W. Tukey, Exploratory Data Analysis, 1977, ch. 7), the first
    and the last as they are: the energy error of a few related frames is nearly one number, which on its way through
    zero would be the smallest of all.
    """
    most = max(trial.steps for trial in trials)
    longest = {trial.fold: trial for trial in trials if trial.steps == most}
    curves = [_medians_of_three(trial.curve) for trial in longest.values()]
    scores = {step: _geometric_mean([curve[step] for curve in curves]) for step in curves[0]}
    for steps in {trial.steps for trial in trials} - {most}:
        ratios = [trial.score / longest[trial.fold].score for trial in trials if trial.steps == steps and trial.fold in longest]
        if ratios:
            scores[steps] = min(scores.get(steps, math.inf), scores[most] * _geometric_mean(ratios))
    best = min(scores.values())
    chosen = max(step for step, score in scores.items() if score <= CLEARLY_WORSE * best)
    return chosen, scores[chosen]


def _medians_of_three(curve: Sequence[tuple[int, float]]) -> dict[int, float]:
    scores = [score for _, score in curve]
    inner = [median(scores[k - 1 : k + 2]) for k in range(1, len(scores) - 1)]
    return dict(zip((step for step, _ in curve), [*scores[:1], *inner, *scores[1:][-1:]], strict=True))


def plan_longer(rungs: Sequence[Rung], *, factor: float, budget: int) -> tuple[Rung, ...]:
    """The winner of `rungs` for `factor` times the steps on the first fold, and if that is better on the others; none beyond the budget.

    Args:
        rungs: the search before it.
        factor: of the steps of its longest trials; 1 for none.
        budget: training steps of all trials together.

    Raises:
        ValueError: the factor is below one.
    """
    if not factor >= 1:
        raise InputError(f"small_data.longer is {factor}; it must be at least 1, which tries no longer training")
    longest = max(rungs, key=lambda rung: rung.steps)
    steps = round(factor * longest.steps)
    folds = sorted({fold for rung in rungs if rung.steps == longest.steps for fold in rung.folds})
    parts = (tuple(folds[:1]), tuple(folds[1:]))
    longer = tuple(Rung(n_candidates=1, folds=part, steps=steps, every=longest.every) for part in parts if part)
    affordable = sum(rung.cost for rung in (*rungs, *longer)) <= budget
    return longer if affordable and steps > longest.steps else ()


def lengthen(
    trials: Sequence[Trial], choice: Choice, longer: Sequence[Rung], run_trial: Callable[[str, int, Rung], Trial]
) -> tuple[list[Trial], Choice]:
    """Train the chosen candidate for longer where it was best after all its steps, and go on while that is clearly better.

    Args:
        trials: of the search.
        choice: what they say.
        longer: see `plan_longer`.
        run_trial: as for `search`.

    Returns:
        All trials, and the choice: with more steps where held-out errors fall below `WORTH_LONGER` times those of the
        shorter training.
    """
    before = {trial.fold: trial for trial in sorted(trials, key=lambda trial: trial.steps) if trial.candidate == choice.candidate}
    if not before or not longer or choice.steps not in (None, max(trial.steps for trial in before.values())):
        return list(trials), choice
    own: list[Trial] = []
    for rung in longer:
        own += [run_trial(str(choice.candidate), fold, rung) for fold in rung.folds]
        ratio = _geometric_mean([trial.score / before[trial.fold].score for trial in own])
        if ratio > WORTH_LONGER:
            shorter = f"{choice.reason}; {rung.steps} steps have {ratio:.3f} of its errors, which is not worth them"
            return [*trials, *own], replace(choice, reason=shorter)
    steps, score = own[-1].steps, _geometric_mean([trial.score for trial in own])
    reason = f"held-out errors are {score:.3f} of the start's after {steps} steps, {ratio:.3f} of those of a shorter training"
    return [*trials, *own], replace(choice, steps=steps, score=score, reason=reason)


def runner_up(trials: Sequence[Trial], choice: Choice) -> tuple[str, int] | None:
    """The second best candidate and the steps it was trained for, where a mean of both models is worth having; else None.

    It was held out against the same folds as the chosen one, and its errors after equal steps are not above
    `WORTH_AVERAGING` times those of it.
    """
    others = [trial for trial in trials if trial.candidate != choice.candidate]
    if choice.candidate is None or not others:
        return None
    steps = max(trial.steps for trial in others)
    own = [trial for trial in trials if trial.candidate == choice.candidate and trial.steps == steps]
    folds = {trial.fold for trial in own}
    alike = [name for name in _finalists(others) if {t.fold for t in others if t.candidate == name and t.steps == steps} == folds]
    if not own or not alike:
        return None
    second = min(alike, key=lambda name: score_of(name, others))
    return (second, steps) if score_of(second, others) <= WORTH_AVERAGING * score_of(choice.candidate, own) else None


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _best_of_last_round(trials: Sequence[Trial]) -> str:
    n_trials = {trial.candidate: sum(t.candidate == trial.candidate for t in trials) for trial in trials}
    finalists = [name for name, n in n_trials.items() if n == max(n_trials.values())]
    return min(finalists, key=lambda name: score_of(name, trials))


def _finalists(trials: Sequence[Trial]) -> list[str]:
    """Those that were trained longest on the most folds."""
    longest = max(trial.steps for trial in trials)
    folds: dict[str, set[int]] = {}
    for trial in trials:
        if trial.steps == longest:
            folds.setdefault(trial.candidate, set()).add(trial.fold)
    return [name for name, own in folds.items() if len(own) == max(map(len, folds.values()))]


def _why_no_more_steps(steps: int, trials: Sequence[Trial]) -> str:
    longest = max(trial.steps for trial in trials)
    return "more do not clearly raise them" if steps == longest else f"more, up to {longest}, clearly raise them"
