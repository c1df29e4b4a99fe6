"""Normal equations of a last layer, summed frame by frame: leaving frames out or drawing them twice is then a sum of small matrices.

Composition shifts are unknowns too, with a flat prior, so that what they can describe counts as described.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.finetune.linear.evidence import LinearPosterior
from unipot.finetune.linear.readout_rows import ReadoutRows

#: groups below which frames are the units: fewer could neither be left out nor resampled
FEWEST_GROUPS = 5
#: prior precision of a composition shift, as a fraction of what the frames say of it
FLAT = 1e-9


@dataclass(frozen=True, kw_only=True)
class FrameSums:
    """Per unit (a frame, or a group of them) XᵀX/σ² and Xᵀr/σ², over all kinds of rows.

    Attributes:
        grams: (n_units, n_unknowns, n_unknowns); unknowns are the weights, then a shift per element.
        pulls: (n_units, n_unknowns), of the residuals that the present weights leave.
        prior: (n_unknowns,) precisions.
        units: (n_frames,) unit of each frame.
        n_weights: unknowns that are weights.
    """

    grams: np.ndarray
    pulls: np.ndarray
    prior: np.ndarray
    units: np.ndarray
    n_weights: int

    @property
    def n_units(self) -> int:
        return len(self.grams)

    def step(self, counts: np.ndarray) -> np.ndarray:
        """(n_unknowns,) change of the weights if unit u were there counts[u] times."""
        precision = np.diag(self.prior) + np.tensordot(counts, self.grams, axes=1)
        return np.linalg.solve(precision, counts @ self.pulls)


def frame_sums(rows: ReadoutRows, solution: LinearPosterior, groups: Sequence[Any] | None = None) -> FrameSums:
    """Sums of all frames, with the noise and prior of `solution`.

    Args:
        rows: with the residuals of the present weights.
        solution: posterior around them.
        groups: of the frames; taken as units if there are at least `FEWEST_GROUPS`.
    """
    units = units_of(rows.n_frames, groups)
    n_unknowns = rows.n_weights + rows.fractions.shape[1]
    grams = np.zeros((int(units.max()) + 1, n_unknowns, n_unknowns))
    pulls = np.zeros(grams.shape[:2])
    for name, noise in solution.noise.items():
        block, owners = extended(rows, name) / noise, rows.frames[name]
        target = rows.blocks[name].target / noise
        for frame in np.unique(owners):
            own = slice(*np.searchsorted(owners, [frame, frame + 1]))
            grams[units[frame]] += block[own].T @ block[own]
            pulls[units[frame]] += block[own].T @ target[own]
    prior = np.full(n_unknowns, solution.prior_precision)
    shifts = np.einsum("uss->s", grams)[rows.n_weights :]
    prior[rows.n_weights :] = np.maximum(FLAT * shifts, solution.prior_precision * FLAT)
    return FrameSums(grams=grams, pulls=pulls, prior=prior, units=units, n_weights=rows.n_weights)


def extended(rows: ReadoutRows, name: str) -> np.ndarray:
    """(n_rows, n_weights + n_elements) rows of a property: a shift per element changes energies only."""
    design = rows.blocks[name].design
    shifts = rows.fractions if name == "energy" else np.zeros((len(design), rows.fractions.shape[1]))
    return np.concatenate([design, shifts], axis=1)


def units_of(n_frames: int, groups: Sequence[Any] | None) -> np.ndarray:
    """(n_frames,) number of the group of each frame; every frame its own where groups are few or unknown."""
    if groups is None or len(set(map(str, groups))) < FEWEST_GROUPS:
        return np.arange(n_frames)
    return np.unique(np.array([str(group) for group in groups]), return_inverse=True)[1]
