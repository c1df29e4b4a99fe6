"""`MixturePlan`: which structures optimizer step k sees, as a pure function of (seed, k)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from unipot.data.permutation import permute
from unipot.data.spec import MixtureSpec

#: position of a dataset in the mixture, position of a structure among that dataset's training structures
Draw = tuple[int, int]
#: predicted cost of one atom in units of one edge; only the order and balance of micro-batches depend on it
_ATOM_COST = 10.0
_LISTED = 10


class MixturePlan:
    """Draws datasets in exact proportions and structures without repeats within a pass, and packs them.

    Counts of draws are apportioned by a chain of cumulative roundings, largest share first: of the first t draws
    exactly t are given out, counts never fall, and dataset d has had p_d·t draws to within 1 + H(D−1) for D datasets
    (H the harmonic numbers; one draw for two datasets) at every horizon. All integers, so nothing drifts.

    Args:
        n_atoms: per dataset (n_structures,) atoms of its training structures.
        n_edges: per dataset (n_structures,) edges at the model's cutoff.
        spec: temperature, budgets, seed.
        names: of the datasets, for messages; a dataset's order depends on (seed, name, pass) and on nothing else.
        weights: per dataset an explicit relative weight; None or all None draws by `spec.temperature`.
        id_of: (dataset, structure) -> id, for messages.

    Raises:
        ValueError: a dataset is empty, weights are incomplete, or a structure alone exceeds a budget.

    Example:
        >>> plan = MixturePlan([[3, 3, 4]], [[6, 6, 12]], MixtureSpec(structures_per_step=3, max_atoms=10, max_edges=30), names=["water"])
        >>> sorted(plan.micro_batches(0)[0])
        [(0, 0), (0, 1), (0, 2)]
    """

    def __init__(
        self,
        n_atoms: Sequence[np.ndarray],
        n_edges: Sequence[np.ndarray],
        spec: MixtureSpec,
        *,
        names: Sequence[str],
        weights: Sequence[float | None] | None = None,
        id_of: Callable[[int, int], str] | None = None,
    ) -> None:
        self.spec, self.names = spec, tuple(names)
        self._n_atoms = [np.asarray(counts) for counts in n_atoms]
        self._n_edges = [np.asarray(counts) for counts in n_edges]
        self._sizes = [len(counts) for counts in self._n_atoms]
        if not names or not len(names) == len(n_atoms) == len(n_edges):
            raise ValueError(
                f"a mixture needs names, atom and edge counts of at least one dataset; got {len(names)}, {len(n_atoms)}, {len(n_edges)}"
            )
        for name, size in zip(self.names, self._sizes, strict=True):
            if size == 0:
                raise ValueError(f"dataset {name!r} has no training structures; give it some (validation_fraction?) or leave it out")
        self._shares = _shares(self._sizes, self.names, weights, spec.temperature)
        self._chain = _chain(self._shares, self.names, spec.seed)
        check_budget(self.names, self._n_atoms, self._n_edges, max_atoms=spec.max_atoms, max_edges=spec.max_edges, id_of=id_of)

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
        draws: list[Draw] = []
        for dataset, (first, last) in enumerate(zip(self.draw_counts(step), self.draw_counts(step + 1), strict=True)):
            size = self._sizes[dataset]
            while first < last:
                number, position = divmod(first, size)
                count = min(last - first, size - position)
                key = f"{self.spec.seed}/{self.names[dataset]}/{number}"
                draws += [(dataset, int(i)) for i in permute(np.arange(position, position + count), size, key)]
                first += count
        return draws

    def micro_batches(self, step: int) -> list[list[Draw]]:
        """The step's draws in micro-batches of similar cost, each within both budgets.

        There are `micro_batches_per_step` of them; when they do not fit, the next multiple that does, without empty ones.
        """
        if step < 0:
            raise ValueError(f"step is {step}; it must not be negative")
        draws = self.pool(step)
        sizes = [(int(self._n_atoms[d][i]), int(self._n_edges[d][i])) for d, i in draws]
        order = sorted(range(len(draws)), key=lambda k: (-_cost(*sizes[k]), draws[k], k))
        n_bins = self.spec.micro_batches_per_step
        while (bins := _deal(order, sizes, n_bins, self.spec.max_atoms, self.spec.max_edges)) is None:
            n_bins += self.spec.micro_batches_per_step
        return [[draws[k] for k in contents] for contents in bins if contents]

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
            raise ValueError(
                f"mixture: {world_size} processes cannot share micro_batches_per_step={self.spec.micro_batches_per_step} evenly; "
                f"set micro_batches_per_step to a multiple of {world_size}"
            )

    def fingerprint(self) -> str:
        """Hash of all that decides which structures a step sees; budgets and ranks do not."""
        content = [self.spec.seed, self.spec.structures_per_step, self.names, self._shares, self._sizes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def check_budget(
    names: Sequence[str],
    n_atoms: Sequence[np.ndarray],
    n_edges: Sequence[np.ndarray],
    *,
    max_atoms: int,
    max_edges: int,
    id_of: Callable[[int, int], str] | None = None,
) -> None:
    """Refuse structures that exceed a budget on their own, with a list of them.

    Raises:
        ValueError: there are some.
    """
    rows: list[str] = []
    for dataset, (name, atoms, edges) in enumerate(zip(names, n_atoms, n_edges, strict=True)):
        for i in np.flatnonzero((np.asarray(atoms) > max_atoms) | (np.asarray(edges) > max_edges)):
            label = repr(id_of(dataset, int(i))) if id_of else f"number {i}"
            rows.append(f"dataset {name!r}, structure {label}: {int(atoms[i])} atoms, {int(edges[i])} edges")
    if rows:
        more = f"\n  and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
        largest = (max(int(np.max(a)) for a in n_atoms if len(a)), max(int(np.max(e)) for e in n_edges if len(e)))
        raise ValueError(
            f"{len(rows)} structure(s) exceed the budget of one micro-batch (max_atoms={max_atoms}, max_edges={max_edges}); raise it to "
            f"max_atoms>={largest[0]} max_edges>={largest[1]}, or leave them out:\n  " + "\n  ".join(rows[:_LISTED]) + more
        )


def pack_in_order(n_atoms: np.ndarray, n_edges: np.ndarray, *, max_atoms: int, max_edges: int) -> list[np.ndarray]:
    """Positions 0..n−1 in runs that each fit both budgets, in order; a structure over a budget stands alone."""
    runs: list[np.ndarray] = []
    start, atoms, edges = 0, 0, 0
    for i, (a, e) in enumerate(zip(n_atoms.tolist(), n_edges.tolist(), strict=True)):
        if i > start and (atoms + a > max_atoms or edges + e > max_edges):
            runs.append(np.arange(start, i))
            start, atoms, edges = i, 0, 0
        atoms, edges = atoms + a, edges + e
    return [*runs, np.arange(start, len(n_atoms))] if len(n_atoms) else []


def _shares(sizes: list[int], names: tuple[str, ...], weights: Sequence[float | None] | None, temperature: float) -> list[float]:
    given = [w for w in weights or [] if w is not None]
    if given and len(given) != len(sizes):
        without = [name for name, w in zip(names, weights or [], strict=True) if w is None]
        raise ValueError(f"mixture: weight is given for some datasets but not for {', '.join(without)}; give it for all or for none")
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


def _cost(n_atoms: int, n_edges: int) -> float:
    return n_edges + _ATOM_COST * n_atoms


def _deal(order: list[int], sizes: list[tuple[int, int]], n_bins: int, max_atoms: int, max_edges: int) -> list[list[int]] | None:
    """Longest first, each to the cheapest bin that still holds it; None when one fits nowhere."""
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    atoms, edges, costs = [0] * n_bins, [0] * n_bins, [0.0] * n_bins
    for k in order:
        n_atoms, n_edges = sizes[k]
        fitting = [b for b in range(n_bins) if atoms[b] + n_atoms <= max_atoms and edges[b] + n_edges <= max_edges]
        if not fitting:
            return None
        chosen = min(fitting, key=lambda b: (costs[b], b))
        bins[chosen].append(k)
        atoms[chosen] += n_atoms
        edges[chosen] += n_edges
        costs[chosen] += _cost(n_atoms, n_edges)
    return bins
