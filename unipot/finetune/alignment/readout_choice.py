"""Shift alone, or a layer of the readout as well: asked of the frames, a fold at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.finetune.alignment.readout_fit import (
    ALIGNMENTS,
    AUTO,
    SHIFT,
    HeldOutErrors,
    ReadoutFit,
    assign_folds,
    best_candidate,
    candidates_of,
    fit_readout,
    held_out_errors,
    log_ratio,
)
from unipot.finetune.linear.readout_rows import LAYERS, ReadoutRows, readout_rows
from unipot.models.potential import Potential

#: frames whose rows are kept in memory to solve for a layer, some; the weights are few, and more frames do not change them much
MOST_FRAMES = 2000


@dataclass(frozen=True, kw_only=True)
class ReadoutChoice:
    """What was tried beyond the composition shift.

    Attributes:
        chosen: `shift`, or a layer (with the number of directions).
        asked: the option that was given, one of `ALIGNMENTS`.
        fit: new weights of the layer; None for `shift`.
        held_out: errors of all candidates on frames that were not fitted; empty when that could not be found out.
        n_folds: of that check.
        n_force_rows: force components that were differentiated.
        n_force_labels: force components that are labelled.
        warnings: sentences the user should read.
    """

    chosen: str = SHIFT
    asked: str = SHIFT
    fit: ReadoutFit | None = None
    held_out: tuple[HeldOutErrors, ...] = ()
    n_folds: int = 0
    n_force_rows: int = 0
    n_force_labels: int = 0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "chosen": self.chosen,
            "asked": self.asked,
            "fit": None if self.fit is None else self.fit.to_dict(),
            "held_out": [entry.to_dict() for entry in self.held_out],
            "n_folds": self.n_folds,
            "n_force_rows": self.n_force_rows,
            "n_force_labels": self.n_force_labels,
        }


def choose_readout(
    potential: Potential, parent: str, batches: Sequence[AtomBatch], elements: tuple[int, ...], asked: str, groups: Sequence[Any] | None
) -> ReadoutChoice:
    """Solve for the layers that `asked` allows, check them on held-out frames, and take the best.

    Args:
        potential: not changed.
        parent: with references for all elements of the frames.
        batches: labelled frames.
        elements: of the frames.
        asked: one of `ALIGNMENTS`; a layer is taken whatever the check says, `auto` needs a check that it passes.
        groups: of the frames, in order; None for none.

    Raises:
        ValueError: `asked` is unknown, or names a layer that cannot be solved for.
    """
    if asked not in ALIGNMENTS:
        raise InputError(f"alignment is {asked!r}; use one of: {', '.join(ALIGNMENTS)}")
    if asked == SHIFT:
        return ReadoutChoice()
    if asked == AUTO and potential.heads[parent].direct_forces:
        return ReadoutChoice(asked=asked, warnings=(f"head {parent!r} predicts forces directly: only the shift per element was fitted",))
    layers = LAYERS if asked == AUTO else (asked,)
    batches, groups, limited = _limited(batches, groups)
    rows = readout_rows(potential, parent, batches, elements, layers)
    first = rows[layers[0]]
    if not any(len(block.target) for block in first.blocks.values()):
        return ReadoutChoice(asked=asked, warnings=("no frame carries a label, so nothing was fitted",))
    problems = {name: problem for layer, own in rows.items() for name, problem in candidates_of(own, layer).items()}
    folds = assign_folds(first, groups)
    n_folds = int(folds.max()) + 1
    held_out = tuple(held_out_errors(problems, folds, elements)) if n_folds > 1 else ()
    chosen = _decided_candidate(held_out, asked, list(problems))
    warnings = (*limited, *((_unchecked(first, asked),) if not held_out else _warning_against(held_out, chosen)))
    return ReadoutChoice(
        chosen=chosen,
        asked=asked,
        fit=None if chosen == SHIFT else fit_readout(problems[chosen]),
        held_out=held_out,
        n_folds=n_folds if held_out else 0,
        n_force_rows=len(first.blocks["forces"].target),
        n_force_labels=first.n_components,
        warnings=warnings,
    )


def _limited(
    batches: Sequence[AtomBatch], groups: Sequence[Any] | None
) -> tuple[Sequence[AtomBatch], Sequence[Any] | None, tuple[str, ...]]:
    """Evenly chosen batches of at most some `MOST_FRAMES` frames, with their groups, and a sentence if that is not all."""
    sizes = [batch.n_structures for batch in batches]
    if sum(sizes) <= MOST_FRAMES:
        return batches, groups, ()
    n_chosen = max(int(len(batches) * MOST_FRAMES / sum(sizes)), 1)
    chosen = np.linspace(0, len(batches) - 1, n_chosen).astype(int).tolist()
    first = np.concatenate([[0], np.cumsum(sizes)])
    own = None if groups is None else [group for k in chosen for group in groups[first[k] : first[k + 1]]]
    n_frames = sum(sizes[k] for k in chosen)
    sentence = f"layers of the readout were solved for with {n_frames} of {sum(sizes)} frames, evenly chosen; the shift with all of them"
    return [batches[k] for k in chosen], own, (sentence,)


def _decided_candidate(held_out: tuple[HeldOutErrors, ...], asked: str, names: list[str]) -> str:
    """The candidate to take; a layer that is asked for must be one of its own `names`."""
    if asked == AUTO:
        return best_candidate(held_out) if held_out else SHIFT
    if not held_out:
        return names[0]  # the fewest directions
    scores = {entry.candidate: log_ratio(entry, held_out[0]) for entry in held_out[1:]}
    return min(names, key=lambda name: scores[name])


def _unchecked(rows: ReadoutRows, asked: str) -> str:
    what = "there is one frame" if rows.n_frames == 1 else f"the {rows.n_frames} frames are all alike"
    done = "only the shift per element was fitted" if asked == AUTO else f"the {asked} was solved for without a check"
    return f"{what}, so no frame could be held out: {done}"


def _warning_against(held_out: tuple[HeldOutErrors, ...], chosen: str) -> tuple[str, ...]:
    """A sentence if a layer that the user insists on fails the check."""
    if chosen == SHIFT or best_candidate([entry for entry in held_out if entry.candidate in (SHIFT, chosen)]) == chosen:
        return ()
    return (f"alignment={chosen} is worse than the shift alone on held-out frames in some property; alignment=auto would not take it",)
