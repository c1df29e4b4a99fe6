"""Compiled functions of edge vectors: against plain ones, in every derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipot.models.native import edge_functions

CUTOFF = 5.0


pytestmark = pytest.mark.usefixtures("kernels")


def edges(n_edges: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Lengths from 0.3 Å to beyond the cutoff, in all directions."""
    generator = torch.Generator().manual_seed(n_edges)
    directions = torch.nn.functional.normalize(torch.randn(n_edges, 3, generator=generator, dtype=torch.float64), dim=1)
    return (directions * torch.linspace(0.3, 1.1 * CUTOFF, n_edges)[:, None]).to(dtype).requires_grad_()


def functions_and_derivatives(vectors: Tensor, n_basis: int, *, compiled: bool) -> list[Tensor]:
    """The functions, their gradient, and gradients of functions of these, up to the third."""
    functions = edge_functions.edge_functions(vectors, CUTOFF, n_basis, compiled=compiled)
    weights = [torch.linspace(-1, 2, f.numel(), dtype=f.dtype).reshape(f.shape).requires_grad_() for f in functions]
    (first,) = torch.autograd.grad(functions, (vectors,), weights, create_graph=True)
    second = torch.autograd.grad(first.sin().sum(), [vectors, *weights], create_graph=True)
    third = torch.autograd.grad(sum(f.sin().sum() for f in second), [vectors, *weights])
    return [*functions, first, *second, *third]


@pytest.mark.parametrize(("n_edges", "n_basis"), [(1, 1), (7, 8), (64, 8), (200, 3)])
def test_compiled_functions_and_derivatives_equal_plain_ones(n_edges: int, n_basis: int) -> None:
    mine, expected = (functions_and_derivatives(edges(n_edges), n_basis, compiled=compiled) for compiled in (True, False))
    for found, wanted in zip(mine, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10 * max(1.0, float(wanted.detach().abs().max())))


def test_float32_is_as_exact_as_its_results_can_be() -> None:
    single = edges(300, torch.float32)
    double = single.detach().double().requires_grad_()
    pairs = zip(*(functions_and_derivatives(vectors, 8, compiled=True)[:4] for vectors in (single, double)), strict=True)
    for mine, expected in pairs:
        assert mine.dtype == torch.float32
        assert float((mine.double() - expected).detach().abs().max()) <= 2e-7 * max(1.0, float(expected.detach().abs().max()))


def test_more_threads_change_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            results.append(functions_and_derivatives(edges(300, torch.float32), 8, compiled=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_beyond_the_cutoff_the_envelope_and_its_derivatives_are_zero() -> None:
    vectors = torch.tensor([[CUTOFF, 0.0, 0.0], [0.0, 1.2 * CUTOFF, 0.0]], dtype=torch.float64, requires_grad=True)
    envelope = edge_functions.edge_functions(vectors, CUTOFF, 2, compiled=True)[1]
    (slope,) = torch.autograd.grad(envelope.sum(), vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), vectors)
    assert not envelope.any() and not slope.any() and not curvature.any()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_operators_are_registered_soundly(order: int) -> None:
    vectors = edges(3)
    weights = [torch.full_like(f, 0.3).requires_grad_() for f in edge_functions.plain_functions(vectors, CUTOFF, 2)]
    along = vectors.detach().cos().requires_grad_()
    name, given = (
        ("edge_functions", [vectors]),
        ("edge_gradients", [vectors, *weights]),
        ("edge_changes", [vectors, *weights, along]),
    )[order]
    operator = getattr(torch.ops.unipot, name).default
    traced = () if order == 2 else ("test_aot_dispatch_dynamic",)  # derivatives of the last are no operators, and never traced
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", *traced)
    torch.library.opcheck(operator, (*given, CUTOFF, 2), test_utils=checks)
    assert torch.autograd.gradcheck(lambda *tensors: operator(*tensors, CUTOFF, 2), given)
    assert torch.autograd.gradgradcheck(lambda *tensors: operator(*tensors, CUTOFF, 2), given)


def test_mixed_dtypes_are_refused() -> None:
    vectors = edges(3)
    weights = [torch.ones_like(f) for f in edge_functions.plain_functions(vectors, CUTOFF, 2)]
    with pytest.raises(TypeError, match="one dtype"):
        torch.ops.unipot.edge_gradients(vectors.detach(), weights[0].float(), *weights[1:], CUTOFF, 2)


def test_no_edges_have_empty_functions() -> None:
    functions = edge_functions.edge_functions(torch.zeros(0, 3), CUTOFF, 4, compiled=True)
    assert [tuple(f.shape) for f in functions] == [(0, 4), (0, 1), (0, 8)]
