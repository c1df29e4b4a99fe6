"""Products of the moments of degree 1 and 2 of one atom: plain, and compiled with all derivatives.

Compiled, a vector a and a symmetric traceless matrix A are one object x = (a, A), (n, 8, V), and products come from

    x ∘ y = (A b + B a, sym(a bᵀ) + ½(AB + BA) without its trace),      ⟨z, x ∘ y⟩ symmetric in x, y and z,

so that the derivative of ⟨z, x ∘ y⟩ with respect to x is z ∘ y: one operator is closed under differentiation to any order.
So are the scalar products `inner` together with `scale`, multiplication by a number for the vector and one for the matrix.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.native.geometry import symmetric_traceless_basis
from unipot.models.native.kernel_library import kernel

SOURCE = Path(__file__).with_name("moment_products.c")
_SIGNATURE = (*(ctypes.c_int64,) * 3, *(ctypes.c_void_p,) * 3)


def moment_products(a1: Tensor, a2: Tensor, *, compiled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Squares (n, 2, V) |A1|², |A2|²; cubes (n, 2, V) A1·A2·A1, tr A2³/3; and the vectors A2·A1 (n, 3, V).

    Args:
        a1: (n, 3, V).
        a2: (n, 5, V), components in `symmetric_traceless_basis`.
        compiled: by the operators below, on the CPU in float32 or float64.
    """
    return _compiled_products(a1, a2) if compiled else _plain_products(a1, a2)


def _compiled_products(a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.cat([a1, a2], dim=1)
    product = torch.ops.unipot.couple(x, x)  # (2 A2·A1, sym(A1 A1) + A2²)
    double, mixed = torch.ops.unipot.inner(x, product).unbind(1)  # 2 A1·A2·A1 and A1·A2·A1 + tr A2³
    bent = 0.5 * double
    return torch.ops.unipot.inner(x, x), torch.stack([bent, (mixed - bent) / 3], dim=1), 0.5 * product[:, :3]


def _plain_products(a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    matrix = torch.einsum("nmv,mab->nabv", a2, symmetric_traceless_basis(a2.dtype, a2.device))  # (n, 3, 3, V)
    turned = (matrix * a1[:, None]).sum(2)
    squares = torch.stack([a1.square().sum(1), a2.square().sum(1)], dim=1)
    return squares, torch.stack([(turned * a1).sum(1), symmetric_determinant(matrix)], dim=1), turned


def symmetric_determinant(matrix: Tensor) -> Tensor:
    """(n, 3, 3, V) symmetric -> (n, V); a third of the trace of the cube where the matrix is traceless."""
    first, second, third = matrix.unbind(1)  # rows: one cross product costs less than nine elements, above all in derivatives
    return (torch.linalg.cross(first, second, dim=1) * third).sum(1)


def _run(name: str, x: Tensor, y: Tensor, n_rows: int) -> Tensor:
    x, y = x.to(y.dtype).contiguous(), y.contiguous()  # the kernel sees addresses only
    out = y.new_empty(y.shape[0], n_rows, y.shape[2])
    function = getattr(kernel(SOURCE), f"unipot_{name}_{'float32' if y.dtype == torch.float32 else 'float64'}")
    function.argtypes = _SIGNATURE
    function(y.shape[0], y.shape[2], torch.get_num_threads(), x.data_ptr(), y.data_ptr(), out.data_ptr())
    return out


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _couple_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    x, y = ctx.saved_tensors
    return torch.ops.unipot.couple(g, y), torch.ops.unipot.couple(g, x)


def _inner_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    x, y = ctx.saved_tensors
    return torch.ops.unipot.scale(g, y), torch.ops.unipot.scale(g, x)


def _scale_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    factors, y = ctx.saved_tensors
    return torch.ops.unipot.inner(g, y), torch.ops.unipot.scale(factors, g)


_LIBRARY = torch.library.Library("unipot", "FRAGMENT")
for _name, _n_rows, _backward in (("couple", 8, _couple_backward), ("inner", 2, _inner_backward), ("scale", 8, _scale_backward)):
    _LIBRARY.define(f"{_name}(Tensor x, Tensor y) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, lambda x, y, name=_name, n_rows=_n_rows: _run(name, x, y, n_rows), "CPU")
    torch.library.register_fake(
        f"unipot::{_name}", lambda x, y, n_rows=_n_rows: y.new_empty(y.shape[0], n_rows, y.shape[2]), lib=_LIBRARY
    )
    torch.library.register_autograd(f"unipot::{_name}", _backward, setup_context=_save, lib=_LIBRARY)
