"""An ensemble of last layers in closed form: every member is solved for on its own resample of the frames.

Members differ from their mean by δ_m; with the columns δ_m / √(M − 1) the spread of any energy, force or difference over the members is
the norm of its features times that matrix. An ensemble is thus one more factor of a covariance, kept and used as the posterior's is.
Bootstrap by frame or group: B. Efron, Ann. Statist. 7, 1 (1979); it assumes neither a noise level nor that errors of one frame are
independent, which the posterior does.
"""

from __future__ import annotations

import numpy as np

from unipot.errors import InputError
from unipot.finetune.linear.evidence import NothingToFit
from unipot.finetune.linear.frame_sums import FrameSums

#: members of an ensemble
MEMBERS = 8


def ensemble_factor(sums: FrameSums, n_members: int = MEMBERS, seed: int = 0) -> np.ndarray:
    """(n_weights, n_weights) C with C Cᵀ the covariance of the members; columns that are not needed are zero.

    Args:
        sums: of the frames.
        n_members: at least 2.
        seed: of the resamples.

    Raises:
        ValueError: there are fewer than two members.
        NothingToFit: there are fewer than two frames (or groups), or all members agree.
    """
    if n_members < 2:
        raise InputError(f"an ensemble of {n_members} has no spread; take at least 2 members")
    if sums.n_units < 2:
        raise NothingToFit("one frame cannot be resampled, so there is no ensemble; give more frames, or use uncertainty=last-layer")
    counts = np.random.default_rng(seed).multinomial(sums.n_units, np.full(sums.n_units, 1 / sums.n_units), size=n_members)
    members = np.stack([sums.step(own.astype(float))[: sums.n_weights] for own in counts], axis=1)
    deviations = (members - members.mean(axis=1, keepdims=True)) / np.sqrt(n_members - 1)
    if not np.abs(deviations).max() > 0:
        raise NothingToFit("all members of the ensemble are equal: the frames carry no errors to resample")
    if n_members > sums.n_weights:
        return np.linalg.qr(deviations.T, mode="r").T
    return np.pad(deviations, ((0, 0), (0, sums.n_weights - n_members)))
