"""The second stage of alignment: a layer of the readout solved in closed form, taken only if held-out frames say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unipot.finetune.alignment.composition_shift import fit_composition_shift
from unipot.finetune.linear.evidence import Block, LinearPosterior, maximise_evidence
from unipot.finetune.linear.readout_rows import LAYERS, PROPERTIES, ReadoutRows
from unipot.models.heads import Head

SHIFT, AUTO = "shift", "auto"
#: values of the option `alignment`
ALIGNMENTS = (AUTO, SHIFT, *LAYERS)
#: folds of the check on held-out frames
FOLDS = 5
#: directions of weight space that are solved for, each number a candidate; the rest stays the parent's. All of a smaller layer.
#: On ten frames of a surface 256 fitted the noise (energies worse than with the shift), on fifty of aspirin they were the best.
DIRECTIONS = (64, 128, 256)
#: extra random vectors that make the randomised principal directions accurate
OVERSAMPLING = 32


@dataclass(frozen=True, kw_only=True)
class HeldOutErrors:
    """Mean absolute errors of frames that were not fitted; nan without labels.

    Attributes:
        candidate: `shift`, or the layer that is solved for (with the number of directions).
        energy: eV/atom, after a composition shift fitted to the other frames.
        forces: eV/Å over components.
        stress: eV/Å³ over components.
    """

    candidate: str
    energy: float
    forces: float
    stress: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; a missing error is None."""
        values = {name: getattr(self, name) for name in PROPERTIES}
        return {"candidate": self.candidate, **{name: None if np.isnan(value) else float(value) for name, value in values.items()}}


@dataclass(frozen=True, kw_only=True)
class ReadoutFit:
    """New weights of one layer.

    Attributes:
        layer: one of `LAYERS`.
        change: (n_weights,) new minus parent's weights, row by row of the layer.
        solution: in the directions that were solved for.
    """

    layer: str
    change: np.ndarray
    solution: LinearPosterior

    def to_dict(self) -> dict[str, Any]:
        """JSON-able facts; noise of energies in eV/atom, forces in eV/Å, stress in eV/Å³."""
        return {
            "layer": self.layer,
            "n_weights": len(self.change),
            "n_directions": len(self.solution.mean),
            "effective_parameters": self.solution.effective,
            "prior_precision": self.solution.prior_precision,
            "noise": self.solution.noise,
            "log_evidence": self.solution.log_evidence,
            "iterations": self.solution.iterations,
            "converged": self.solution.converged,
        }


@dataclass(frozen=True, kw_only=True)
class ReducedRows:
    """Rows in the directions of weight space that are solved for.

    Attributes:
        layer: of the readout.
        rows: for n_directions unknowns.
        basis: (n_weights, n_directions) orthonormal.
    """

    layer: str
    rows: ReadoutRows
    basis: np.ndarray


def candidates_of(rows: ReadoutRows, layer: str) -> dict[str, ReducedRows]:
    """Candidate name -> problem: the layer itself, or a large one with each number of directions, as in `value-layer-64`."""
    basis = principal_directions(rows)
    projected = rows.projected(basis)
    if basis.shape[1] == rows.n_weights:
        return {layer: ReducedRows(layer=layer, rows=projected, basis=basis)}
    sizes = sorted({min(n, basis.shape[1]) for n in DIRECTIONS})
    first = {n: projected.projected(np.eye(basis.shape[1], n)) for n in sizes}
    return {f"{layer}-{n}": ReducedRows(layer=layer, rows=own, basis=basis[:, :n]) for n, own in first.items()}


def fit_readout(problem: ReducedRows) -> ReadoutFit:
    """Solve for a layer from all frames, `problem` having the parent's residuals.

    Raises:
        ValueError: there is nothing to fit, see `maximise_evidence`.
    """
    solution = maximise_evidence(free_of_composition(problem.rows))
    return ReadoutFit(layer=problem.layer, change=problem.basis @ solution.mean, solution=solution)


def held_out_errors(problems: Mapping[str, ReducedRows], folds: np.ndarray, elements: tuple[int, ...]) -> list[HeldOutErrors]:
    """Every candidate, each frame predicted by a fit to the frames of the other folds; `shift` is the first.

    Args:
        problems: candidate -> rows.
        folds: (n_frames,) fold of each frame, at least two of them.
        elements: of the composition shift.
    """
    first = next(iter(problems.values())).rows
    layers = [_cross_validated(name, problem.rows, folds, elements) for name, problem in problems.items()]
    return [_cross_validated(SHIFT, first, folds, elements), *layers]


def best_candidate(errors: Sequence[HeldOutErrors]) -> str:
    """The least geometric mean of errors among those where no property is worse than with the shift, which is the first."""
    shift = errors[0]
    no_worse = [entry for entry in errors[1:] if all(new <= old for new, old in _pairs(entry, shift))]
    best = min(no_worse, key=lambda entry: log_ratio(entry, shift), default=shift)
    return best.candidate if log_ratio(best, shift) < 0 else shift.candidate


def log_ratio(errors: HeldOutErrors, shift: HeldOutErrors) -> float:
    """Mean over the labelled properties of ln(error / error with the shift); negative is better."""
    pairs = _pairs(errors, shift)
    return float(np.mean([np.log(max(new, 1e-300) / max(old, 1e-300)) for new, old in pairs])) if pairs else 0.0


def assign_folds(rows: ReadoutRows, groups: Sequence[Any] | None) -> np.ndarray:
    """(n_frames,) fold of each frame: groups stay together, frames that cannot be told apart as well, neighbours in time too.

    One fold means that nothing can be held out.
    """
    own = _identical(rows)
    if groups is not None and len(set(map(str, groups))) >= FOLDS:
        own = _united(own, [str(group) for group in groups])
    order = {number: rank for rank, number in enumerate(dict.fromkeys(own.tolist()))}
    rank = np.array([order[number] for number in own.tolist()])
    n_folds = min(FOLDS, len(order))
    return rank * n_folds // len(order)


def write_change(head: Head, fit: ReadoutFit) -> None:
    """Add the change to the weights of `head`, in place, rounded to its dtype."""
    layer = head.readout.output if fit.layer == "last-layer" else head.readout.value
    change = torch.from_numpy(fit.change).reshape(layer.weight.shape).to(layer.weight.device)
    with torch.no_grad():
        layer.weight.copy_((layer.weight.double() + change).to(layer.weight.dtype))


def principal_directions(rows: ReadoutRows) -> np.ndarray:
    """(n_weights, n_directions) orthonormal, at most the last of `DIRECTIONS`: those along which the rows vary most.

    Each property is weighed by its spread; no label enters otherwise. Randomised range finder with one power iteration (Halko,
    Martinsson, Tropp, SIAM Rev. 53, 217, 2011) and a fixed seed. All directions, as they are, of a layer with fewer weights.
    """
    if rows.n_weights <= DIRECTIONS[-1]:
        return np.eye(rows.n_weights)
    spreads = [(b.design, float(np.std(b.target)) or 1.0) for b in rows.blocks.values() if len(b.target)]
    stacked = np.concatenate([design / spread for design, spread in spreads])
    width = min(DIRECTIONS[-1] + OVERSAMPLING, *stacked.shape)
    sketch = np.random.default_rng(0).normal(size=(rows.n_weights, width))
    for _ in range(2):
        sketch = np.linalg.qr(stacked.T @ (stacked @ sketch))[0]
    inner = stacked @ sketch
    vectors = np.linalg.eigh(inner.T @ inner)[1][:, ::-1]
    return sketch @ vectors[:, : DIRECTIONS[-1]]


def free_of_composition(rows: ReadoutRows) -> dict[str, Block]:
    """Blocks whose energy rows are rotated out of the space of compositions.

    What any shift per element can describe is left to the shift: the same as solving for both at once with a flat prior on the
    shifts. With one composition this takes the mean away, with as many compositions as frames nothing of the energies is left.
    """
    energy = rows.blocks["energy"]
    if not len(energy.target):
        return rows.blocks
    left, singular, _ = np.linalg.svd(rows.fractions, full_matrices=True)
    rank = int(np.sum(singular > 1e-9 * singular[0]))
    complement = left[:, rank:].T
    return {**rows.blocks, "energy": Block(design=complement @ energy.design, target=complement @ energy.target)}


def _pairs(errors: HeldOutErrors, shift: HeldOutErrors) -> list[tuple[float, float]]:
    return [(getattr(errors, name), getattr(shift, name)) for name in PROPERTIES if not np.isnan(getattr(shift, name))]


def _cross_validated(candidate: str, rows: ReadoutRows, folds: np.ndarray, elements: tuple[int, ...]) -> HeldOutErrors:
    residuals: dict[str, list[np.ndarray]] = {name: [] for name in PROPERTIES}
    start = None
    for fold in np.unique(folds):
        inside, outside = rows.of_frames(folds != fold), rows.of_frames(folds == fold)
        mean = np.zeros(rows.n_weights)
        blocks = free_of_composition(inside)
        if candidate != SHIFT and any(len(block.target) for block in blocks.values()):
            same = start if start is not None and set(start.noise) == {n for n, b in blocks.items() if len(b.target)} else None
            start = maximise_evidence(blocks, same)
            mean = start.mean
        for name in ("forces", "stress"):
            residuals[name].append(outside.blocks[name].target - outside.blocks[name].design @ mean)
        residuals["energy"].append(_held_out_energies(inside, outside, mean, elements))
    joined = {name: np.concatenate(parts) for name, parts in residuals.items()}
    return HeldOutErrors(candidate=candidate, **{n: float(np.mean(np.abs(r))) if len(r) else float("nan") for n, r in joined.items()})


def _held_out_energies(inside: ReadoutRows, outside: ReadoutRows, mean: np.ndarray, elements: tuple[int, ...]) -> np.ndarray:
    """eV/atom residuals of `outside`, with the shift of `inside`."""
    left = outside.blocks["energy"].target - outside.blocks["energy"].design @ mean
    if not len(left) or not len(inside.blocks["energy"].target):
        return np.zeros(0)  # no shift can be fitted without energies
    rest = inside.blocks["energy"].target - inside.blocks["energy"].design @ mean
    sizes = inside.n_atoms.astype(float)
    shift = fit_composition_shift(inside.fractions * sizes[:, None], rest * sizes, elements).shift
    return left - outside.fractions @ shift


def _identical(rows: ReadoutRows) -> np.ndarray:
    """(n_frames,) number of the first frame with the same rows and residuals."""
    seen: dict[bytes, int] = {}
    numbers = np.zeros(rows.n_frames, dtype=np.int64)
    for frame in range(rows.n_frames):
        parts = [b"" for _ in PROPERTIES]
        for k, name in enumerate(PROPERTIES):
            block, keep = rows.blocks[name], rows.frames[name] == frame
            if name == "forces" and len(block.target) < rows.n_components and len(rows.blocks["energy"].target):
                continue  # frames gave different components; their energies tell
            scale = max(float(np.abs(block.target).max(initial=0.0)), 1e-300)
            parts[k] = np.round(np.sort(block.target[keep]) / scale, 6).tobytes()
        numbers[frame] = seen.setdefault(b"|".join(parts), frame)
    return numbers


def _united(numbers: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Labels such that frames equal in either argument share one."""
    merged = np.arange(len(numbers))
    changed = True
    while changed:
        before = merged.copy()
        for keys in (numbers.tolist(), list(groups)):
            least: dict[Any, int] = {}
            for frame, key in enumerate(keys):
                least[key] = min(least.get(key, int(merged[frame])), int(merged[frame]))
            merged = np.array([least[key] for key in keys])
        changed = not np.array_equal(before, merged)
    return merged
