"""`MixturePlan`: which structures optimizer step k sees, as a pure function of (seed, k)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unipot.data.mixture.budget import Budget, check_budget, deal
from unipot.data.mixture.draws import Drawn, Source, Span, draw
from unipot.data.mixture.selection import Selection
from unipot.data.spec import MixtureSpec
from unipot.errors import InputError

#: position of a dataset in the mixture, position of a structure in its store
Draw = tuple[int, int]
#: draws looked up together when steps are asked for at a regular distance, as training and its workers do
_BLOCK = 8192


class MixturePlan:
    """Draws datasets in exact proportions and structures without repeats within a pass, and packs them.

    Counts of draws are apportioned by a chain of cumulative roundings, largest share first: of the first t draws
    exactly t are given out, counts never fall, and dataset d has had p_d·t draws to within 1 + H(D−1) for D datasets
    (H the harmonic numbers; one draw for two datasets) at every horizon. All integers, so nothing drifts.

    Nothing of the size of a dataset is held: the order within a pass is a keyed permutation, sizes are looked up in
    the columns, held-out structures are skipped by a `Selection`. Steps asked for at a regular distance are drawn in
    blocks; the block is a cache and decides nothing.

    Args:
        n_atoms: per dataset (n_structures,) atoms of the structures of its store: an array, memory-mapped or not, or
            anything with a length that integer arrays and slices index.
        n_edges: per dataset (n_structures,) edges at the model's cutoff, alike.
        spec: temperature, budgets, seed.
        names: of the datasets, for messages; a dataset's order depends on (seed, name, pass) and on nothing else.
        weights: per dataset an explicit relative weight; None or all None draws by `spec.temperature`.
        selections: per dataset its training structures; None takes all.
        id_of: (dataset, position in the store) -> id, for messages.

    Raises:
        ValueError: a dataset is empty, weights are incomplete, or a structure alone exceeds a budget.

    Example:
        >>> plan = MixturePlan([[3, 3, 4]], [[6, 6, 12]], MixtureSpec(structures_per_step=3, max_atoms=10, max_edges=30), names=["water"])
        >>> sorted(plan.micro_batches(0)[0])
        [(0, 0), (0, 1), (0, 2)]
    """

    def __init__(
        self,
        n_atoms: Sequence[Any],
        n_edges: Sequence[Any],
        spec: MixtureSpec,
        *,
        names: Sequence[str],
        weights: Sequence[float | None] | None = None,
        selections: Sequence[Selection] | None = None,
        id_of: Callable[[int, int], str] | None = None,
    ) -> None:
        self.spec, self.names = spec, tuple(names)
        if not names or not len(names) == len(n_atoms) == len(n_edges):
            raise InputError(
                f"a mixture needs names, atom and edge counts of at least one dataset; got {len(names)}, {len(n_atoms)}, {len(n_edges)}"
            )
        chosen = [Selection.everything(len(counts)) for counts in n_atoms] if selections is None else list(selections)
        columns = [(_column(atoms), _column(edges)) for atoms, edges in zip(n_atoms, n_edges, strict=True)]
        self.sources = [Source(name, which, *pair) for name, which, pair in zip(self.names, chosen, columns, strict=True)]
        self._sizes = [len(which) for which in chosen]
        for name, size in zip(self.names, self._sizes, strict=True):
            if size == 0:
                raise InputError(f"dataset {name!r} has no training structures; give it some (validation_fraction?) or leave it out")
        self._shares = _shares(self._sizes, self.names, weights, spec.temperature)
        self._chain = _chain(self._shares, self.names, spec.seed)
        self.budget = Budget(max_atoms=spec.max_atoms, max_edges=spec.max_edges, max_cost=spec.max_cost)
        atoms, edges = zip(*columns, strict=True)
        check_budget(self.names, atoms, edges, self.budget, selections=chosen, id_of=id_of)
        self._block: Drawn | None = None
        self._last, self._stride = -1, 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_block": None}

    def shares(self) -> dict[str, float]:
        """Dataset name -> fraction of all draws."""
        return dict(zip(self.names, self._shares, strict=True))

    def passes(self, n_steps: int) -> dict[str, float]:
        """Dataset name -> how many times `n_steps` steps go through it."""
        counts = self.draw_counts(n_steps)
        return {name: count / size for name, count, size in zip(self.names, counts, self._sizes, strict=True)}

    def draw_counts(self, step: int) -> list[int]:
        """Draws of each dataset in the steps before `step`; they sum to step × structures_per_step."""
        counts = [0] * len(self.names)
        left = step * self.spec.structures_per_step
        for dataset, ratio, phase in self._chain:
            counts[dataset] = (ratio * left + phase) >> 64
            left -= counts[dataset]
        return counts

    def pool(self, step: int) -> list[Draw]:
        """All draws of one step, by dataset."""
        drawn = self._drawn(step)
        chosen = np.flatnonzero(drawn.steps == step)
        return list(zip(drawn.datasets[chosen].tolist(), drawn.positions[chosen].tolist(), strict=True))

    def micro_batches(self, step: int) -> list[list[Draw]]:
        """The step's draws in micro-batches of similar cost, each within all budgets.

        There are `micro_batches_per_step` of them; when they do not fit, the next multiple that does, without empty
        ones.
        """
        drawn = self._drawn(step)
        start, stop = drawn.begin[step]
        order = drawn.order[start:stop]
        draws = list(zip(drawn.datasets[order].tolist(), drawn.positions[order].tolist(), strict=True))
        bins = deal(drawn.atoms[order], drawn.edges[order], self.budget, self.spec.micro_batches_per_step)
        return [[draws[k] for k in contents] for contents in bins]

    def rank_micro_batches(self, step: int, rank: int, world_size: int) -> list[list[Draw]]:
        """The micro-batches of one rank: every `world_size`-th, beginning at `rank`.

        Raises:
            ValueError: `world_size` does not divide the micro-batches of a step.
        """
        self.check_world_size(world_size)
        return self.micro_batches(step)[rank::world_size]

    def check_world_size(self, world_size: int) -> None:
        """Refuse numbers of ranks among which a step cannot be shared evenly.

        Raises:
            ValueError: `world_size` does not divide the micro-batches of a step.
        """
        if self.spec.micro_batches_per_step % world_size:
            raise InputError(
                f"mixture: {world_size} processes cannot share micro_batches_per_step={self.spec.micro_batches_per_step} evenly; "
                f"set micro_batches_per_step to a multiple of {world_size}"
            )

    def fingerprint(self) -> str:
        """Hash of all that decides which structures a step sees; budgets and ranks do not."""
        content = [self.spec.seed, self.spec.structures_per_step, self.names, self._shares, self._sizes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _drawn(self, step: int) -> Drawn:
        """Draws of `step`, and of the steps that are likely to be asked for next."""
        if step < 0:
            raise InputError(f"step is {step}; it must not be negative")
        stride, regular = step - self._last, step - self._last == self._stride > 0
        self._last, self._stride = step, stride
        if self._block is None or step not in self._block.begin:
            count = max(1, _BLOCK // self.spec.structures_per_step) if regular else 1
            self._block = self._draw(range(step, step + count * max(stride, 1), max(stride, 1)) if regular else range(step, step + 1))
        return self._block

    def _draw(self, steps: range) -> Drawn:
        before = [self.draw_counts(step) for step in steps]
        after = [*before[1:], self.draw_counts(steps[-1] + 1)] if steps.step == 1 else [self.draw_counts(step + 1) for step in steps]
        spans = [
            Span(step, dataset, first[dataset], last[dataset])
            for dataset in range(len(self.names))
            for step, first, last in zip(steps, before, after, strict=True)
            if first[dataset] < last[dataset]
        ]
        return draw(self.sources, self.spec.seed, spans)


def _column(counts: Any) -> Any:
    """Lists as arrays; memory maps without their subclass, which makes every look-up slower; anything else as it is."""
    return np.asarray(counts) if isinstance(counts, list | tuple | np.ndarray) else counts


def _shares(sizes: list[int], names: tuple[str, ...], weights: Sequence[float | None] | None, temperature: float) -> list[float]:
    given = [w for w in weights or [] if w is not None]
    if given and len(given) != len(sizes):
        without = [name for name, w in zip(names, weights or [], strict=True) if w is None]
        raise InputError(f"mixture: weight is given for some datasets but not for {', '.join(without)}; give it for all or for none")
    raw = given or [size ** (1 / temperature) for size in sizes]
    return [w / sum(raw) for w in raw]


def _chain(shares: list[float], names: tuple[str, ...], seed: int) -> list[tuple[int, int, int]]:
    """(dataset, its share of what the ones before left × 2^64, phase × 2^64), largest share first."""
    order = sorted(range(len(shares)), key=lambda d: (-shares[d], names[d]))
    fixed = [max(1, round(share * 2**64)) for share in shares]
    chain: list[tuple[int, int, int]] = []
    for k, dataset in enumerate(order):
        rest = sum(fixed[d] for d in order[k:])
        last = k == len(order) - 1
        ratio = 2**64 if last else (fixed[dataset] << 64) // rest
        phase = 0 if last else int.from_bytes(hashlib.blake2b(f"{seed}/{names[dataset]}".encode(), digest_size=8).digest(), "little")
        chain.append((dataset, ratio, phase))
    return chain
