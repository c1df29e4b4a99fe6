"""Errors that a frame would have had if the last layer had not seen it, without fitting again.

At the optimum of a regularised linear fit, leaving out a block s of rows changes its residuals from r_s to (I − H_ss)⁻¹ r_s, H the hat
matrix, which is r_s + X_s (P − X_sᵀX_s)⁻¹ X_sᵀ r_s with P the precision of all rows (R. D. Cook, Technometrics 19, 15, 1977). Exact for
the linear layer; what the backbone has learned from the frame stays.
"""

from __future__ import annotations

import numpy as np

from unipot.finetune.linear.frame_sums import FrameSums, extended
from unipot.finetune.linear.readout_rows import ReadoutRows

#: atomic fraction beyond which a composition is not one that the others combine to
OTHER = 1e-6


def leave_one_out_residuals(rows: ReadoutRows, sums: FrameSums, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of property `name` with each row's unit left out, and (n_rows,) bool where they exist.

    An energy does not exist where no other unit has that composition (or determines its shift).

    Args:
        rows: as `sums` was made of.
        sums: of all frames.
        name: property.
    """
    design, residual = extended(rows, name), rows.blocks[name].target.copy()
    owners = sums.units[rows.frames[name]]
    precision = np.diag(sums.prior) + sums.grams.sum(axis=0)
    for unit in np.unique(owners):
        step = np.linalg.solve(precision - sums.grams[unit], sums.pulls[unit])
        residual[owners == unit] += design[owners == unit] @ step
    return residual, _predictable(rows, owners) if name == "energy" else np.ones(len(residual), dtype=bool)


def _predictable(rows: ReadoutRows, owners: np.ndarray) -> np.ndarray:
    """(n_energies,) bool: the compositions of the other units span a frame's own."""
    found = np.zeros(len(owners), dtype=bool)
    for unit in np.unique(owners):
        own, others = rows.fractions[owners == unit], rows.fractions[owners != unit]
        if len(others):
            rest = own - own @ np.linalg.pinv(others, rcond=1e-9) @ others
            found[owners == unit] = np.abs(rest).max(axis=1) < OTHER
    return found
