"""Sums over neighbours on the CPU without anything of the size (edges × coefficients): torch operators around a C kernel.

With radial functions R, angular functions Y, features h and G_l, cotangents of the moments,

    T(R, Y, h, G) = Σ_e Σ_l Σ_k Σ_m Σ_f  R[e, lk] Y[e, lm] h[j(e), f] G_l[i(e), m, k, f]

is linear in each argument. The moments are ∂T/∂G. Three operators are closed under differentiation to any order:

    neighbor_moments     ∂T/∂G
    neighbor_gradients   ∂T/∂R, ∂T/∂Y, ∂T/∂h
    neighbor_changes     how all four change along (R', Y', h'): what training through forces needs

Letters: e edges sorted by centre, i centre, j neighbour, k radial function, m component of degree l, f feature.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.native.kernel_library import kernel
from unipot.models.native.operators import define_operator

SOURCE = Path(__file__).with_name("neighbor_sums.c")
_GRAPH = "Tensor first_edge, Tensor neighbor, int[] n_shapes"
_ARGUMENTS = "Tensor radial, Tensor angular, Tensor features"
_COTANGENTS = "Tensor gradient0, Tensor gradient1, Tensor gradient2"

Three = tuple[Tensor, Tensor, Tensor]


#: `Job` of neighbor_sums.c, all of whose fields have eight bytes: nine sizes, seventeen addresses, a flag
_Job = ctypes.c_int64 * 27
_NONE = (None, None, None)


def neighbor_moments(
    radial: Tensor, angular: Tensor, features: Tensor, first_edge: Tensor, neighbor: Tensor, n_shapes: Sequence[int]
) -> Three:
    """Moments of degree 0, 1, 2; of scalars (n_atoms, K0, F), (n_atoms, 3, K1, F), (n_atoms, 5, K2, F).

    Of vectors, degree 1 is made of R0 ⊗ vector and degrees 0 and 2 of the trace and the symmetric traceless part (see
    `geometry.trace_and_traceless`) of R1 Y1 ⊗ vector: (n_atoms, K1, F), (n_atoms, 3, K0, F), (n_atoms, 5, K1, F).

    Args:
        radial: (n_edges, at least K0 + K1 + K2).
        angular: (n_edges, 8), degree 1 then degree 2.
        features: (n_atoms, F) scalars or (n_atoms, 3, F) vectors.
        first_edge: (n_atoms + 1,) int64, edges of centre i are first_edge[i] … first_edge[i + 1] − 1.
        neighbor: (n_edges,) int64.
        n_shapes: (K0, K1, K2); K1 and K2 may be 0, and K2 is 0 for vectors.
    """
    return _NEIGHBOR_MOMENTS(radial, angular, features, first_edge, neighbor, n_shapes)


def _run_kernel(
    arguments: Sequence[Tensor],
    graph: tuple[Tensor, Tensor, Sequence[int]],
    *,
    gradients: Sequence[Tensor] = _NONE,
    along: Sequence[Tensor | None] | None = None,
    moments: Sequence[Tensor] = _NONE,
    out: Sequence[Tensor] = _NONE,
) -> None:
    """Call the kernel.

    Args:
        arguments: R, Y, h.
        graph: first edge of each centre, neighbour of each edge, shapes.
        gradients: cotangents of the moments.
        along: changes of R, Y, h, of which some may be None; None for the derivatives themselves.
        moments, out: ∂T/∂G; ∂T/∂R, ∂T/∂Y, ∂T/∂h: written to.
    """
    (radial, _, features), (first_edge, neighbor, n_shapes) = arguments, graph
    given = [first_edge, neighbor, *arguments, *gradients, *(along or _NONE), *moments, *out]
    held = [None if tensor is None else tensor.contiguous() for tensor in given]  # copies live until the kernel is done
    dtypes = {tensor.dtype for tensor in held[2:] if tensor is not None}  # the kernel sees addresses only
    if len(dtypes) > 1:
        raise TypeError(f"sums over neighbours need one dtype, got {sorted(map(str, dtypes))}")
    sizes = (features.shape[0], radial.shape[0], features[0].numel(), radial.shape[1], *n_shapes)
    addresses = (0 if tensor is None else tensor.data_ptr() for tensor in held)
    job = _Job(*sizes, torch.get_num_threads(), features.dim() == 3, *addresses, along is not None)
    suffix = {torch.float32: "float32", torch.float64: "float64"}[features.dtype]
    if getattr(kernel(SOURCE), f"unipot_neighbor_sums_{suffix}")(job):
        raise MemoryError("no memory was left for sums over neighbours")


def _empty_moments(features: Tensor, n_shapes: Sequence[int]) -> Three:
    (n, *_, f), (k0, k1, k2) = features.shape, n_shapes
    if features.dim() == 3:
        return features.new_empty(n, k1, f), features.new_empty(n, 3, k0, f), features.new_empty(n, 5, k1, f)
    return features.new_empty(n, k0, f), features.new_empty(n, 3, k1, f), features.new_empty(n, 5, k2, f)


def _moments(radial: Tensor, angular: Tensor, features: Tensor, first_edge: Tensor, neighbor: Tensor, n_shapes: Sequence[int]) -> Three:
    out = _empty_moments(features, n_shapes)
    _run_kernel((radial, angular, features), (first_edge, neighbor, n_shapes), moments=out)
    return out


def _gradients(radial: Tensor, angular: Tensor, features: Tensor, *rest: Any) -> Three:
    *cotangents, first_edge, neighbor, n_shapes = rest
    out = _empty_gradients(radial, angular, features)
    _run_kernel((radial, angular, features), (first_edge, neighbor, n_shapes), gradients=cotangents, out=out)
    return out


def _changes(radial: Tensor, angular: Tensor, features: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *six, first_edge, neighbor, n_shapes = rest
    out, moments = _empty_gradients(radial, angular, features), _empty_moments(features, n_shapes)
    _run_kernel((radial, angular, features), (first_edge, neighbor, n_shapes), gradients=six[:3], along=six[3:], moments=moments, out=out)
    return *out, *moments


def _empty_gradients(radial: Tensor, angular: Tensor, features: Tensor) -> Three:
    """The kernel adds to the last of them."""
    return radial.new_empty(radial.shape), angular.new_empty(angular.shape), features.new_zeros(features.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.n_shapes = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # absent cotangents are skipped, not multiplied


def _moments_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    radial, angular, features, first_edge, neighbor = ctx.saved_tensors
    given = _filled(cotangents, _empty_moments(features.detach(), ctx.n_shapes))
    gradients = _NEIGHBOR_GRADIENTS(radial, angular, features, *given, first_edge, neighbor, ctx.n_shapes)
    return *gradients, None, None, None


def _gradients_backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
    *six, first_edge, neighbor = ctx.saved_tensors
    return *_NEIGHBOR_CHANGES(*six, *along, first_edge, neighbor, ctx.n_shapes), None, None, None


def _changes_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """The changes along t contracted with u are Σ_ab T(t in place a, u in place b): differentiate each term.

    Places are R, Y, h, G; t has no G. The one component of degree 0 is constant, so terms with a change of Y lack it.
    """
    *nine, first_edge, neighbor = ctx.saved_tensors
    graph = (first_edge, neighbor, ctx.n_shapes)
    x, t = [*nine[:3], nine[3:6]], nine[6:]
    u = [*cotangents[:3], _filled(cotangents[3:], x[3]) if any(c is not None for c in cotangents[3:]) else None]
    to_x: list[Any] = [None] * 4
    to_t: list[Any] = [None] * 4
    for a in range(3):
        for b in range(4):
            if a == b or t[a] is None or u[b] is None:
                continue
            term = list(x)
            term[a], term[b] = t[a], u[b]
            if 1 in (a, b):
                constant = int(x[2].dim() == 3)  # degree of the moments that R0 is in
                term[0] = torch.nn.functional.pad(term[0][:, ctx.n_shapes[0] :], (ctx.n_shapes[0], 0))
                term[3] = [torch.zeros_like(g) if degree == constant else g for degree, g in enumerate(term[3])]
            gradients = _NEIGHBOR_GRADIENTS(*term[:3], *term[3], *graph)
            partial = [*gradients, _NEIGHBOR_MOMENTS(*term[:3], *graph)]
            for place in {0, 1, 2, 3} - {b}:
                target = to_t if place == a else to_x
                target[place] = _sum(target[place], partial[place])
    return *to_x[:3], *(to_x[3] or (None, None, None)), *to_t[:3], None, None, None


def _filled(given: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(own) if tensor is None else tensor for tensor, own in zip(given, like, strict=True)]


def _sum(total: Any, more: Any) -> Any:
    if total is None:
        return more
    return tuple(a + b for a, b in zip(total, more, strict=True)) if isinstance(more, tuple | list) else total + more


def _fake_moments(*arguments: Any) -> Three:
    return _empty_moments(arguments[2], arguments[-1])


def _fake_gradients(*arguments: Any) -> Three:
    return _empty_gradients(*arguments[:3])


def _fake_changes(*arguments: Any) -> tuple[Tensor, ...]:
    return *_fake_gradients(*arguments), *_fake_moments(*arguments)


_THREE = "(Tensor, Tensor, Tensor)"
_ALONG = "Tensor? radial_along, Tensor? angular_along, Tensor? features_along"
_NEIGHBOR_MOMENTS = define_operator(
    "neighbor_moments",
    f"({_ARGUMENTS}, {_GRAPH}) -> {_THREE}",
    function=_moments,
    fake=_fake_moments,
    backward=_moments_backward,
    save=_save,
)
_NEIGHBOR_GRADIENTS = define_operator(
    "neighbor_gradients",
    f"({_ARGUMENTS}, {_COTANGENTS}, {_GRAPH}) -> {_THREE}",
    function=_gradients,
    fake=_fake_gradients,
    backward=_gradients_backward,
    save=_save,
)
_NEIGHBOR_CHANGES = define_operator(
    "neighbor_changes",
    f"({_ARGUMENTS}, {_COTANGENTS}, {_ALONG}, {_GRAPH}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    function=_changes,
    fake=_fake_changes,
    backward=_changes_backward,
    save=_save,
)
