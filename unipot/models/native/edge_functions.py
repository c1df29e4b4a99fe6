"""Functions of edge vectors that every layer reads: plain, and compiled with the derivatives that training through forces needs.

With r = |v|, u = v/r and x = r/cutoff: the radial basis and envelope of x, and the angular functions of u (see `geometry`). As in
`moment_invariants` three operators are the function, its gradient, and the changes of both along a direction; derivatives beyond
come from the plain formula.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.native.geometry import bessel, envelope, second_degree
from unipot.models.native.operators import call_kernel, define_operator, derivative_of_changes

SOURCE = Path(__file__).with_name("edge_functions.c")
N_ANGULAR = 8

Three = tuple[Tensor, Tensor, Tensor]


def edge_functions(vectors: Tensor, cutoff: float, n_basis: int, *, compiled: bool) -> Three:
    """Radial basis (n_edges, n_basis), envelope (n_edges, 1), and angular functions of degrees 1 and 2 (n_edges, 8).

    Args:
        vectors: (n_edges, 3) Å, none of them zero.
        cutoff: Å.
        n_basis: radial functions.
        compiled: by the operators below, on the CPU in float32 or float64.
    """
    function = _EDGE_FUNCTIONS if compiled else plain_functions
    return function(vectors, cutoff, n_basis)


def plain_functions(vectors: Tensor, cutoff: float, n_basis: int) -> Three:
    """The same by operations of torch."""
    distance = torch.linalg.vector_norm(vectors, dim=1)
    unit = vectors / distance[:, None]
    x = distance / cutoff
    return bessel(x, n_basis), envelope(x)[:, None], torch.cat([unit, second_degree(unit)], dim=1)


def _empty_functions(vectors: Tensor, n_basis: int) -> Three:
    n = vectors.shape[0]
    return vectors.new_empty(n, n_basis), vectors.new_empty(n, 1), vectors.new_empty(n, N_ANGULAR)


def _functions(vectors: Tensor, cutoff: float, n_basis: int) -> Three:
    out = _empty_functions(vectors, n_basis)
    call_kernel(SOURCE, "edge_functions", (vectors.shape[0], n_basis, float(cutoff)), (vectors,), out)
    return out


def _gradients(vectors: Tensor, basis: Tensor, weight: Tensor, angular: Tensor, cutoff: float, n_basis: int) -> Tensor:
    out = vectors.new_empty(vectors.shape)
    call_kernel(SOURCE, "edge_gradients", (vectors.shape[0], n_basis, float(cutoff)), (vectors, basis, weight, angular), (out,))
    return out


def _changes(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, cutoff, n_basis = arguments
    out = _fake_changes(*arguments)
    call_kernel(SOURCE, "edge_changes", (tensors[0].shape[0], n_basis, float(cutoff)), tensors, out)
    return out


def _fake_changes(*arguments: Any) -> tuple[Tensor, ...]:
    vectors, n_basis = arguments[0], arguments[-1]
    return vectors.new_empty(vectors.shape), *_empty_functions(vectors, n_basis)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.cutoff, ctx.n_basis = inputs
    ctx.save_for_backward(*tensors)


def _functions_backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    return _EDGE_GRADIENTS(*ctx.saved_tensors, *cotangents, ctx.cutoff, ctx.n_basis), None, None


def _gradients_backward(ctx: Any, along: Tensor) -> tuple[Any, ...]:
    return *_EDGE_CHANGES(*ctx.saved_tensors, along, ctx.cutoff, ctx.n_basis), None, None


def _changes_backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    plain = partial(plain_functions, cutoff=ctx.cutoff, n_basis=ctx.n_basis)
    return *derivative_of_changes(plain, 1, ctx.saved_tensors, cotangents), None, None


_SIZES = "float cutoff, int n_basis"
_COTANGENTS = "Tensor basis, Tensor weight, Tensor angular"
_EDGE_FUNCTIONS = define_operator(
    "edge_functions",
    f"(Tensor vectors, {_SIZES}) -> (Tensor, Tensor, Tensor)",
    function=_functions,
    fake=lambda vectors, cutoff, n_basis: _empty_functions(vectors, n_basis),
    backward=_functions_backward,
    save=_save,
)
_EDGE_GRADIENTS = define_operator(
    "edge_gradients",
    f"(Tensor vectors, {_COTANGENTS}, {_SIZES}) -> Tensor",
    function=_gradients,
    fake=lambda vectors, *rest: vectors.new_empty(vectors.shape),
    backward=_gradients_backward,
    save=_save,
)
_EDGE_CHANGES = define_operator(
    "edge_changes",
    f"(Tensor vectors, {_COTANGENTS}, Tensor along, {_SIZES}) -> (Tensor, Tensor, Tensor, Tensor)",
    function=_changes,
    fake=_fake_changes,
    backward=_changes_backward,
    save=_save,
)
