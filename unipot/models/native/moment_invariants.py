"""Invariants and vectors of the moments of one atom: plain, and compiled with the derivatives that training through forces needs.

Moments x = (a0, a1, a2) are shrunk to y = x / √(1 + |a0|²/C + (|a1|² + |A2|²)/V), so that products of the moments of dense
environments stay in range, and give the invariants y0, |y1|², |Y2|², y1·Y2·y1 and det Y2, and the vectors y1 and Y2·y1.

Compiled these are three operators: the function P(x); its gradient G(x, g) = ∂⟨g, P⟩/∂x; and the changes of both along z, which
are all that the gradient of ⟨z, G(x, g)⟩ is made of, since ∂/∂g of it is the change of P and ∂/∂x, a second derivative being
symmetric, that of G. Derivatives beyond come from the plain formula.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.native.geometry import symmetric_traceless_basis
from unipot.models.native.operators import call_kernel, define_operator, derivative_of_changes

SOURCE = Path(__file__).with_name("moment_invariants.c")
_MOMENTS = "Tensor a0, Tensor a1, Tensor a2"
_COTANGENTS = "Tensor invariants, Tensor vectors"

Moments = tuple[Tensor, Tensor, Tensor]


def moment_invariants(a0: Tensor, a1: Tensor, a2: Tensor, *, compiled: bool) -> tuple[Tensor, Tensor]:
    """Invariants (n, C + 4V) and vectors (n, 3, 2V).

    Args:
        a0: (n, C).
        a1: (n, 3, V).
        a2: (n, 5, V), components in `symmetric_traceless_basis`.
        compiled: by the operators below, on the CPU in float32 or float64.
    """
    return _MOMENT_INVARIANTS(a0, a1, a2) if compiled else plain_invariants(a0, a1, a2)


def plain_invariants(a0: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    """The same by operations of torch."""
    lengths = a1.square().sum(1) + a2.square().sum(1)
    shrink = torch.rsqrt(1 + a0.square().mean(1, keepdim=True) + lengths.mean(1, keepdim=True))
    y0, y1, y2 = a0 * shrink, a1 * shrink[:, None], a2 * shrink[:, None]
    matrix = torch.einsum("nmv,mab->nabv", y2, symmetric_traceless_basis(y2.dtype, y2.device))  # (n, 3, 3, V)
    turned = (matrix * y1[:, None]).sum(2)
    products = [y1.square().sum(1), y2.square().sum(1), (turned * y1).sum(1), symmetric_determinant(matrix)]
    return torch.cat([y0, *products], dim=1), torch.cat([y1, turned], dim=2)


def symmetric_determinant(matrix: Tensor) -> Tensor:
    """(n, 3, 3, V) symmetric -> (n, V); a third of the trace of the cube where the matrix is traceless."""
    first, second, third = matrix.unbind(1)  # rows: one cross product costs less than nine elements, above all in derivatives
    return (torch.linalg.cross(first, second, dim=1) * third).sum(1)


def _sizes(a0: Tensor, a1: Tensor, *_: Tensor) -> tuple[int, int, int]:
    return a0.shape[0], a0.shape[1], a1.shape[2]


def _empty_products(a0: Tensor, a1: Tensor) -> tuple[Tensor, Tensor]:
    (n, c), v = a0.shape, a1.shape[2]
    return a0.new_empty(n, c + 4 * v), a0.new_empty(n, 3, 2 * v)


def _empty_moments(a0: Tensor, a1: Tensor, a2: Tensor) -> Moments:
    return a0.new_empty(a0.shape), a0.new_empty(a1.shape), a0.new_empty(a2.shape)


def _invariants(*moments: Tensor) -> tuple[Tensor, Tensor]:
    out = _empty_products(*moments[:2])
    call_kernel(SOURCE, "moment_invariants", _sizes(*moments), moments, out)
    return out


def _gradients(*tensors: Tensor) -> Moments:
    out = _empty_moments(*tensors[:3])
    call_kernel(SOURCE, "moment_invariant_gradients", _sizes(*tensors), tensors, out)
    return out


def _changes(*tensors: Tensor) -> tuple[Tensor, ...]:
    out = (*_empty_moments(*tensors[:3]), *_empty_products(*tensors[:2]))
    call_kernel(SOURCE, "moment_invariant_changes", _sizes(*tensors), tensors, out)
    return out


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _invariants_backward(ctx: Any, *cotangents: Tensor) -> Moments:
    return _MOMENT_INVARIANT_GRADIENTS(*ctx.saved_tensors, *cotangents)


def _gradients_backward(ctx: Any, *along: Tensor) -> tuple[Tensor, ...]:
    return _MOMENT_INVARIANT_CHANGES(*ctx.saved_tensors, *along)


def _changes_backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
    return derivative_of_changes(plain_invariants, 3, ctx.saved_tensors, cotangents)


_TWO, _THREE, _FIVE = (f"({', '.join(['Tensor'] * n)})" for n in (2, 3, 5))
_ALONG = "Tensor along0, Tensor along1, Tensor along2"
_MOMENT_INVARIANTS = define_operator(
    "moment_invariants",
    f"({_MOMENTS}) -> {_TWO}",
    function=_invariants,
    fake=lambda a0, a1, a2: _empty_products(a0, a1),
    backward=_invariants_backward,
    save=_save,
)
_MOMENT_INVARIANT_GRADIENTS = define_operator(
    "moment_invariant_gradients",
    f"({_MOMENTS}, {_COTANGENTS}) -> {_THREE}",
    function=_gradients,
    fake=lambda a0, a1, a2, *rest: _empty_moments(a0, a1, a2),
    backward=_gradients_backward,
    save=_save,
)
_MOMENT_INVARIANT_CHANGES = define_operator(
    "moment_invariant_changes",
    f"({_MOMENTS}, {_COTANGENTS}, {_ALONG}) -> {_FIVE}",
    function=_changes,
    fake=lambda a0, a1, a2, *rest: (*_empty_moments(a0, a1, a2), *_empty_products(a0, a1)),
    backward=_changes_backward,
    save=_save,
)
