"""Floating-point operations of unipot's own operators, for torch's flop counter."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry


def register() -> None:
    """Give every operator of neighbour sums that this version of unipot has a formula; multiply–adds count twice."""
    formulas = {"neighbor_moments": _moments, "neighbor_gradients": _gradients, "neighbor_changes": _changes}
    for name, formula in formulas.items():
        if hasattr(torch.ops.unipot, name):
            flop_registry[getattr(torch.ops.unipot, name)] = formula


def _contraction(arguments: tuple[Any, ...]) -> int:
    """One contraction over edges e, features f and coefficients (l, k, m): 2·E·F·(K0 + 3·K1 + 5·K2)."""
    radial, _, features, *_, (k0, k1, k2) = arguments
    return 2 * radial.shape[0] * features.shape[1] * (k0 + 3 * k1 + 5 * k2)


def _moments(*arguments: Any, out_val: Any = None) -> int:
    return _contraction(arguments)


def _gradients(*arguments: Any, out_val: Any = None) -> int:
    # cotangents with features for radial and angular functions, cotangents with weights for features
    return 2 * _contraction(arguments)


def _changes(*arguments: Any, out_val: Any = None) -> int:
    # the three contractions of value and moments with changed weights; with changed features two more
    changed_features = arguments[8] is not None
    return (5 if changed_features else 3) * _contraction(arguments)
