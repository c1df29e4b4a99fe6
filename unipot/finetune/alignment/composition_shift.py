"""One energy shift per element between two levels of theory, from however few frames there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.composition import combination_in_words
from unipot.errors import InputError
from unipot.structure import SYMBOLS

#: singular values below this fraction of the largest possible one are rounding, not composition
RANK_TOLERANCE = 1e-9
#: candidate ridges, as squared standard deviation of the atomic fractions; 0 first, so that a tie is ordinary least squares
RIDGES = (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: a direction that keeps less than this share of its least-squares value counts as regularised
REGULARISED_BELOW = 0.9


@dataclass(frozen=True, kw_only=True)
class CompositionShift:
    """Δe per element, and how well the frames determine it.

    Attributes:
        elements: atomic numbers, ascending.
        shift: (n_elements,) eV/atom, float64.
        common: eV/atom, the shift all elements share; undetermined directions follow it alone.
        rank: of the (n_frames, n_elements) matrix of atomic fractions.
        condition: largest over smallest non-zero singular value of that matrix.
        ridge: chosen strength, in squared atomic fraction; 0 is ordinary least squares.
        regularised: the combinations of elements that the frames do not determine, in words.
        mean_before: eV/atom, mean of (label − parent) before the shift.
        rmse_before: eV/atom, root mean square of (label − parent) before the shift.
        rmse_after: eV/atom, the same after it.
        rmse_leave_one_out: eV/atom, each frame predicted by a fit to the others; nan for one frame.
        n_frames: frames with an energy.
    """

    elements: tuple[int, ...]
    shift: np.ndarray
    common: float
    rank: int
    condition: float
    ridge: float
    regularised: tuple[str, ...]
    mean_before: float
    rmse_before: float
    rmse_after: float
    rmse_leave_one_out: float
    n_frames: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; elements by symbol."""
        return {
            "shift_per_element_eV": {SYMBOLS[z]: float(e) for z, e in zip(self.elements, self.shift, strict=True)},
            "common_shift_eV_per_atom": self.common,
            "rank": self.rank,
            "n_elements": len(self.elements),
            "condition": self.condition,
            "ridge": self.ridge,
            "regularised_directions": list(self.regularised),
            "mean_difference_before_eV_per_atom": self.mean_before,
            "rmse_before_eV_per_atom": self.rmse_before,
            "rmse_after_eV_per_atom": self.rmse_after,
            "rmse_left_out_eV_per_atom": None if np.isnan(self.rmse_leave_one_out) else self.rmse_leave_one_out,
            "n_frames": self.n_frames,
        }


def fit_composition_shift(
    counts: np.ndarray, differences: np.ndarray, elements: tuple[int, ...], ridge: float | None = None
) -> CompositionShift:
    """Solve min Σ (d_s − N_s·Δe)²/n_s² + λ Σ_Z (Δe_Z − δ)² for Δe and δ.

    Dividing by n_s turns counts into atomic fractions, whose rows sum to one; so Δe = δ·1 + Q v with Q a basis of the
    complement of 1, δ is the unpenalised intercept and v an ordinary ridge problem, solved by SVD in float64. Directions
    without any composition variance keep v = 0: all elements move together.

    Args:
        counts: (n_frames, n_elements) atoms of each element.
        differences: (n_frames,) eV, label minus parent energy.
        elements: atomic numbers of the columns.
        ridge: λ per frame; None takes, from `RIDGES`, the least left-out error (ties: the smaller ridge).

    Raises:
        ValueError: no frames, shapes that do not agree, or values that are not finite.
    """
    counts, differences = np.asarray(counts, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    _check_differences(counts, differences, elements)
    n_frames, n_elements = counts.shape
    n_atoms = counts.sum(axis=1)
    fractions, target = counts / n_atoms[:, None], differences / n_atoms
    complement = _complement_of_ones(n_elements)
    reduced = fractions @ complement  # (n_frames, n_elements - 1)
    centred = reduced - reduced.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    determined = singular > RANK_TOLERANCE * np.sqrt(n_frames)
    chosen = _best_ridge(left, singular, determined, target) if ridge is None else ridge
    kept = _kept_share(singular, determined, chosen * n_frames)
    inverse = np.where(determined, kept / np.where(determined, singular, 1.0), 0.0)
    v = right.T @ (inverse * (left.T @ (target - target.mean())))
    common = float(target.mean() - reduced.mean(axis=0) @ v)
    shift = common + complement @ v
    spectrum = np.linalg.svd(fractions, compute_uv=False)
    rank = 1 + int(determined.sum())
    return CompositionShift(
        elements=elements,
        shift=shift,
        common=common,
        rank=rank,
        condition=float(spectrum[0] / spectrum[rank - 1]),
        ridge=float(chosen),
        regularised=_regularised(right, kept, complement, elements),
        mean_before=float(target.mean()),
        rmse_before=_rms(target),
        rmse_after=_rms(target - fractions @ shift),
        rmse_leave_one_out=_rms(_leave_one_out(left, kept, target)) if n_frames > 1 else float("nan"),
        n_frames=n_frames,
    )


def open_compositions(counts: np.ndarray, scale: float) -> np.ndarray:
    """Where compositions leave the energy zero open: G such that |NᵀG| is the standard deviation of that of N atoms of each element.

    The shift of `fit_composition_shift` moves directions of composition without variance, and elements that no frame has, with the
    common shift. What they would need beside it is unknown: normal, with the standard deviation `scale` per atom. Compositions that
    the frames determine, mixtures of theirs, have zero.

    Args:
        counts: (n_frames, 119) atoms of each element, of frames with energies; at least one.
        scale: eV/atom, how far shifts of elements lie from one another; the shifts that were needed say it.

    Returns:
        (119, 119) eV per atom, a row per atomic number.

    Raises:
        ValueError: there are no frames, or `scale` is negative or not finite.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if len(counts) == 0 or not (np.isfinite(scale) and scale >= 0):
        raise InputError(f"open compositions need at least one frame and a scale of 0 or more, got {len(counts)} and {scale}")
    fractions = counts / counts.sum(axis=1, keepdims=True)
    centre, present = fractions.mean(axis=0), counts.any(axis=0)
    complement = _complement_of_ones(int(present.sum()))
    _, singular, right = np.linalg.svd((fractions - centre)[:, present] @ complement, full_matrices=True)
    undetermined = complement @ right[int((singular > RANK_TOLERANCE * np.sqrt(len(counts))).sum()) :].T
    directions = np.diag((~present).astype(np.float64))
    directions[np.ix_(present, np.flatnonzero(present)[: undetermined.shape[1]])] = undetermined
    return scale * (directions - centre @ directions)


def _check_differences(counts: np.ndarray, differences: np.ndarray, elements: tuple[int, ...]) -> None:
    if counts.ndim != 2 or counts.shape[0] == 0 or counts.shape[1] != len(elements) or differences.shape != counts.shape[:1]:
        raise InputError(
            f"a composition shift needs counts (n_frames >= 1, {len(elements)}) and one difference per frame; "
            f"got counts {counts.shape} and differences {differences.shape}"
        )
    if not np.isfinite(differences).all():
        raise InputError(f"{int((~np.isfinite(differences)).sum())} of {len(differences)} energy differences are not finite")


def _complement_of_ones(n: int) -> np.ndarray:
    """(n, n-1) orthonormal basis of the vectors that sum to zero."""
    return np.linalg.svd(np.ones((1, n)))[2][1:].T


def _kept_share(singular: np.ndarray, determined: np.ndarray, penalty: float) -> np.ndarray:
    squared = np.where(determined, singular, 0.0) ** 2
    return np.divide(squared, squared + penalty, out=np.zeros_like(squared), where=determined)


def _leave_one_out(left: np.ndarray, kept: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n_frames,) residual of each frame under a fit to the others, in closed form (residual over 1 − leverage)."""
    centred = target - target.mean()
    leverage = 1 / len(target) + (left**2) @ kept
    return (centred - left @ (kept * (left.T @ centred))) / np.maximum(1 - leverage, 1e-9)


def _best_ridge(left: np.ndarray, singular: np.ndarray, determined: np.ndarray, target: np.ndarray) -> float:
    n_frames = len(target)
    if n_frames == 1 or not determined.any():
        return 0.0
    best, best_error = RIDGES[-1], np.inf
    for ridge in RIDGES:
        kept = _kept_share(singular, determined, ridge * n_frames)
        if (1 - 1 / n_frames - (left**2) @ kept).min() < 1e-6:
            continue  # a frame that alone fixes a direction fits itself: nothing supports that value
        error = _rms(_leave_one_out(left, kept, target))
        if error < 0.99 * best_error - 1e-10:
            best, best_error = ridge, error
    return best


def _regularised(right: np.ndarray, kept: np.ndarray, complement: np.ndarray, elements: tuple[int, ...]) -> tuple[str, ...]:
    """Directions the frames leave open, each as a combination of elements."""
    n_free = len(elements) - 1
    if n_free == 0:
        return ()
    null = np.linalg.svd(right, full_matrices=True)[2][len(right) :]
    weak = [row for row, share in zip(right, kept, strict=True) if share < REGULARISED_BELOW]
    open_directions = np.array([*weak, *null]).reshape(-1, n_free)
    if len(open_directions) == n_free:
        return (f"every difference between {', '.join(SYMBOLS[z] for z in elements)} (the frames fix their common shift only)",)
    return tuple(combination_in_words(complement @ row, elements) for row in open_directions)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
