"""Bayesian linear regression on several kinds of rows at once, its precisions set by evidence maximisation.

Model: y_b = X_b m + noise of variance 1/β_b for each block b (energies, forces, stress), prior m ~ N(0, 1/α). α and every β_b
follow MacKay's fixed point (D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4, 415, 1992, eqs. 4.8-4.10, with one
noise level per block): γ_b = tr(Σ β_b X_bᵀX_b), β_b = (n_b − γ_b)/|y_b − X_b m|², α = Σ_b γ_b / |m|². All in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from unipot.errors import InputError

MAX_ITERATIONS = 200
#: relative change of all precisions below which the fixed point counts as reached
TOLERANCE = 1e-4
#: γ_b never takes more than this share of the rows of a block: as many weights as rows would leave no noise at all
LARGEST_SHARE = 0.9
#: residuals below this fraction of the labels' spread are rounding, not an estimate of the noise
SMALLEST_NOISE = 1e-6
#: eV/atom, eV/Å, eV/Å³: no label is more exact
ROUNDING = 1e-9


class NothingToFit(InputError):
    """The frames say nothing of the weights."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one kind.

    Attributes:
        design: (n_rows, n_weights).
        target: (n_rows,).
    """

    design: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LinearPosterior:
    """Gaussian over the weights.

    Attributes:
        mean: (n_weights,).
        factor: (n_weights, n_weights) lower triangular C, covariance = C Cᵀ.
        prior_precision: α.
        noise: block name -> standard deviation 1/√β_b in the unit of its target.
        effective: number of weights that the data determine, Σ_b γ_b.
        log_evidence: ln p(all targets | α, β).
        iterations: done.
        converged: whether the precisions stopped changing.
    """

    mean: np.ndarray
    factor: np.ndarray
    prior_precision: float
    noise: dict[str, float]
    effective: float
    log_evidence: float
    iterations: int
    converged: bool


def maximise_evidence(blocks: Mapping[str, Block], start: LinearPosterior | None = None) -> LinearPosterior:
    """Weights and precisions from all blocks at once; blocks without rows do not count.

    Args:
        blocks: name -> rows; all with the same number of weights.
        start: precisions to begin with, those of a similar problem.

    Raises:
        NothingToFit: no block has a row.
        ValueError: shapes differ, or a number is not finite.
    """
    used = {name: block for name, block in blocks.items() if len(block.target)}
    _check_blocks(used)
    grams = {name: (block.design.T @ block.design, block.design.T @ block.target) for name, block in used.items()}
    floors = {name: max(SMALLEST_NOISE * float(np.sqrt(np.mean(b.target**2))), ROUNDING) for name, b in used.items()}
    alpha, beta = _initial(used, start)
    converged, iterations = False, 0
    while not converged and iterations < MAX_ITERATIONS:
        mean, covariance = _solve(grams, alpha, beta)
        gamma = {name: beta[name] * float(np.sum(covariance * gram)) for name, (gram, _) in grams.items()}
        new_beta = {name: _noise_precision(block, mean, gamma[name], floors[name]) for name, block in used.items()}
        new_alpha = min(max(sum(gamma.values()), 1e-6) / max(float(mean @ mean), 1e-300), _largest(grams, beta))
        changes = [new_alpha / alpha, *(new_beta[name] / beta[name] for name in used)]
        converged = bool(max(abs(np.log(change)) for change in changes) < TOLERANCE)
        alpha, beta, iterations = new_alpha, new_beta, iterations + 1
    mean, covariance = _solve(grams, alpha, beta)
    return LinearPosterior(
        mean=mean,
        factor=_lower_factor(covariance),
        prior_precision=alpha,
        noise={name: beta[name] ** -0.5 for name in used},
        effective=sum(beta[name] * float(np.sum(covariance * gram)) for name, (gram, _) in grams.items()),
        log_evidence=log_evidence(used, alpha, beta),
        iterations=iterations,
        converged=converged,
    )


def laplace_posterior(blocks: Mapping[str, Block], weights: np.ndarray) -> LinearPosterior:
    """Gaussian around weights that were found in another way, their residuals given: the same fixed point with the mean held.

    The prior is centred on zero, α = Σ_b γ_b / |weights|²: a trained layer no longer moves, so the size of a further step says
    nothing about how uncertain it is.

    Args:
        blocks: as above, the targets being what the weights leave over.
        weights: (n_weights,).

    Raises:
        ValueError: as `maximise_evidence`.
    """
    used = {name: block for name, block in blocks.items() if len(block.target)}
    _check_blocks(used)
    grams = {name: (block.design.T @ block.design, np.zeros(len(weights))) for name, block in used.items()}
    floors = {name: max(SMALLEST_NOISE * float(np.sqrt(np.mean(b.target**2))), ROUNDING) for name, b in used.items()}
    nothing, power = np.zeros(len(weights)), max(float(weights @ weights), 1e-300)
    alpha, beta = _initial(used, None)
    converged, iterations = False, 0
    while not converged and iterations < MAX_ITERATIONS:
        covariance = _solve(grams, alpha, beta)[1]
        gamma = {name: beta[name] * float(np.sum(covariance * gram)) for name, (gram, _) in grams.items()}
        new_beta = {name: _noise_precision(block, nothing, gamma[name], floors[name]) for name, block in used.items()}
        new_alpha = min(max(sum(gamma.values()), 1e-6) / power, _largest(grams, beta))
        converged = bool(max(abs(np.log(c)) for c in (new_alpha / alpha, *(new_beta[n] / beta[n] for n in used))) < TOLERANCE)
        alpha, beta, iterations = new_alpha, new_beta, iterations + 1
    covariance = _solve(grams, alpha, beta)[1]
    return LinearPosterior(
        mean=np.array(weights, dtype=np.float64),
        factor=_lower_factor(covariance),
        prior_precision=alpha,
        noise={name: beta[name] ** -0.5 for name in used},
        effective=sum(beta[name] * float(np.sum(covariance * gram)) for name, (gram, _) in grams.items()),
        log_evidence=float("nan"),
        iterations=iterations,
        converged=converged,
    )


def log_evidence(blocks: Mapping[str, Block], alpha: float, beta: Mapping[str, float]) -> float:
    """ln p(targets | α, β), MacKay 1992 eq. 4.6, with one β per block."""
    grams = {name: (block.design.T @ block.design, block.design.T @ block.target) for name, block in blocks.items()}
    mean, _ = _solve(grams, alpha, beta)
    n_weights = len(mean)
    precision = alpha * np.eye(n_weights) + sum(beta[name] * gram for name, (gram, _) in grams.items())
    total = n_weights * np.log(alpha) - alpha * float(mean @ mean) - np.linalg.slogdet(precision)[1]
    for name, block in blocks.items():
        residual = block.target - block.design @ mean
        total += len(block.target) * np.log(beta[name] / (2 * np.pi)) - beta[name] * float(residual @ residual)
    return 0.5 * float(total)


def _initial(blocks: Mapping[str, Block], start: LinearPosterior | None) -> tuple[float, dict[str, float]]:
    """Noise as large as the targets, and a prior that allows the weights to explain them."""
    if start is not None:
        return start.prior_precision, {name: start.noise[name] ** -2 for name in blocks}
    power = {name: max(float(np.mean(block.target**2)), ROUNDING**2) for name, block in blocks.items()}
    gains = [float(np.mean(np.sum(block.design**2, axis=1))) / power[name] for name, block in blocks.items()]
    return max(*gains, 1e-300), {name: 1 / value for name, value in power.items()}


def _solve(grams: Mapping[str, tuple[np.ndarray, np.ndarray]], alpha: float, beta: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    n_weights = next(iter(grams.values()))[0].shape[0]
    precision = alpha * np.eye(n_weights)
    pull = np.zeros(n_weights)
    for name, (gram, product) in grams.items():
        precision += beta[name] * gram
        pull += beta[name] * product
    factored = cho_factor(precision, lower=True)
    covariance = cho_solve(factored, np.eye(n_weights))
    return cho_solve(factored, pull), 0.5 * (covariance + covariance.T)


def _noise_precision(block: Block, mean: np.ndarray, gamma: float, floor: float) -> float:
    residual = block.target - block.design @ mean
    n_rows = len(residual)
    free = max(n_rows - gamma, (1 - LARGEST_SHARE) * n_rows)
    return 1 / max(float(residual @ residual) / free, floor**2)


def _largest(grams: Mapping[str, tuple[np.ndarray, np.ndarray]], beta: Mapping[str, float]) -> float:
    """Prior precision beyond which no weight moves: the parent, without the arithmetic running away."""
    return 1e8 * sum(beta[name] * float(np.trace(gram)) for name, (gram, _) in grams.items()) or 1.0


def _lower_factor(covariance: np.ndarray) -> np.ndarray:
    """Lower triangular C with C Cᵀ = covariance, by QR of its square root: works where rounding makes Cholesky fail."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    upper = np.linalg.qr(root.T, mode="r")
    return (upper * np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None]).T


def _check_blocks(blocks: Mapping[str, Block]) -> None:
    if not blocks:
        raise NothingToFit("there are no rows to fit: no frame has a label beyond what the composition shift takes")
    widths = {block.design.shape[1] for block in blocks.values()}
    if len(widths) != 1:
        raise InputError(f"the blocks have {sorted(widths)} weights; all must have the same number")
    for name, block in blocks.items():
        if block.design.shape[0] != len(block.target):
            raise InputError(f"block {name!r} has {block.design.shape[0]} rows and {len(block.target)} targets")
        if not (np.isfinite(block.design).all() and np.isfinite(block.target).all()):
            raise InputError(f"block {name!r} has a number that is not finite; check the labels of the frames")
