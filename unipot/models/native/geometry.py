"""Radial basis, envelope and angular functions of edges.

Letters: e slots, b radial basis functions, m components of a given degree l.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


def envelope(x: Tensor) -> Tensor:
    """1 at x = 0, 0 from x = 1 on, with three continuous derivatives: 1 − 35x⁴ + 84x⁵ − 70x⁶ + 20x⁷ (x = r/cutoff)."""
    x = x.clamp(max=1.0)
    x2 = x * x
    return 1 + x2 * x2 * (-35 + x * (84 + x * (-70 + 20 * x)))


def bessel(x: Tensor, n_basis: int) -> Tensor:
    """(e,) -> (e, b): sin(nπx)/x, n = 1…n_basis (Gasteiger et al. 2020, eq. 7, without the envelope and scale)."""
    n = torch.arange(1, n_basis + 1, dtype=x.dtype, device=x.device) * math.pi
    return torch.sin(x[:, None] * n) / x[:, None]


@cache
def symmetric_traceless_basis(dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """(5, 3, 3) orthonormal symmetric traceless matrices, ordered xy, yz, zx, x²−y², 3z²−r².

    Not a buffer: a model that went through float32 would keep the rounded values in float64.
    """
    q = torch.zeros(5, 3, 3, dtype=torch.float64)
    for m, (a, b) in enumerate(((0, 1), (1, 2), (2, 0))):
        q[m, a, b] = q[m, b, a] = math.sqrt(0.5)
    q[3] = torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)) * math.sqrt(0.5)
    q[4] = torch.diag(torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64)) / math.sqrt(6.0)
    return q.to(dtype=dtype, device=device)


@cache
def trace_and_traceless(dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """(6, 9) orthonormal rows that take a 3x3 matrix to its trace/√3 and its five symmetric traceless components."""
    trace = torch.eye(3, dtype=torch.float64).reshape(1, 9) / math.sqrt(3.0)
    return torch.cat([trace, symmetric_traceless_basis(torch.float64).reshape(5, 9)]).to(dtype=dtype, device=device)


def second_degree(unit: Tensor) -> Tensor:
    """(e, 3) unit vectors -> (e, 5) components of √(3/2)(r̂r̂ − 1/3) in `symmetric_traceless_basis`; norm 1."""
    x, y, z = unit.unbind(-1)
    root3 = math.sqrt(3.0)
    return torch.stack([root3 * x * y, root3 * y * z, root3 * z * x, 0.5 * root3 * (x * x - y * y), 1.5 * z * z - 0.5], dim=-1)
