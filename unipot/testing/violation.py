"""What a broken physics contract looks like, and how a deviation is judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Below this size (eV, eV/Å, eV/Å³ or feature units) a response is no signal, and its relative deviation means nothing.
SIGNAL_FLOOR = 1e-6


class ContractViolation(AssertionError):
    """A model breaks a physics contract; the message holds the claim, the measured figure and the allowed one."""


def relative_deviation(measured: Tensor, expected: Tensor) -> float:
    """max |measured − expected| / max |expected|, where the denominator is at least `SIGNAL_FLOOR`.

    Raises:
        ContractViolation: the shapes differ, or a value is not finite.
    """
    if measured.shape != expected.shape:
        raise ContractViolation(f"shape {tuple(measured.shape)} where {tuple(expected.shape)} is expected")
    if measured.numel() == 0:
        return 0.0
    measured, expected = measured.detach().double(), expected.detach().double()
    if not (torch.isfinite(measured).all() and torch.isfinite(expected).all()):
        raise ContractViolation("the response contains non-finite values")
    return float((measured - expected).abs().max() / expected.abs().max().clamp(min=SIGNAL_FLOOR))


def require_below(claim: str, deviation: float, tolerance: float) -> float:
    """`deviation`, if it is within `tolerance`.

    Raises:
        ContractViolation: it is not.
    """
    if not deviation <= tolerance:
        raise ContractViolation(f"{claim}: relative deviation {deviation:.3e} exceeds the tolerance {tolerance:.1e}")
    return deviation


def require_signal(claim: str, signals: Sequence[Tensor]) -> None:
    """The control of a contract: at least one of the tensors is non-zero, so that the contract can fail.

    Raises:
        ContractViolation: all are (nearly) zero.
    """
    largest = max((float(s.detach().abs().max()) for s in signals if s.numel()), default=0.0)
    if not largest > SIGNAL_FLOOR:
        raise ContractViolation(f"{claim}: the control failed, the response is {largest:.1e}; use a model whose weights are not zero")
