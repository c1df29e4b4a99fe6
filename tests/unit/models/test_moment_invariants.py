"""Compiled invariants of moments of atoms: against plain ones, in every derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipot.models.native import moment_invariants
from unipot.models.native.geometry import symmetric_traceless_basis

pytestmark = pytest.mark.usefixtures("kernels")


def moments(n_atoms: int, n_scalars: int, n_channels: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_atoms)
    sizes = ((n_atoms, n_scalars), (n_atoms, 3, n_channels), (n_atoms, 5, n_channels))
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def invariants_and_derivatives(arguments: list[Tensor], *, compiled: bool) -> list[Tensor]:
    """Invariants and vectors, their gradient, and gradients of functions of these, up to the third."""
    products = moment_invariants.moment_invariants(*arguments, compiled=compiled)
    weights = [torch.linspace(-1, 2, p.numel(), dtype=p.dtype).reshape(p.shape).requires_grad_() for p in products]
    first = torch.autograd.grad(products, arguments, weights, create_graph=True)
    second = torch.autograd.grad(sum(f.square().sum() for f in first), [*arguments, *weights], create_graph=True)
    third = torch.autograd.grad(sum(f.square().sum() for f in second), [*arguments, *weights])
    return [*products, *first, *second, *third]


@pytest.mark.parametrize("n_atoms", [1, 7])
@pytest.mark.parametrize(("n_scalars", "n_channels"), [(1, 1), (5, 13), (64, 32)])
def test_compiled_invariants_and_derivatives_equal_plain_ones(n_atoms: int, n_scalars: int, n_channels: int) -> None:
    arguments = moments(n_atoms, n_scalars, n_channels)
    pairs = zip(invariants_and_derivatives(arguments, compiled=True), invariants_and_derivatives(arguments, compiled=False), strict=True)
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))


def test_float32_has_its_own_kernel() -> None:
    single, double = (moments(5, 64, 32, dtype) for dtype in (torch.float32, torch.float64))
    pairs = zip(invariants_and_derivatives(single, compiled=True), invariants_and_derivatives(double, compiled=True), strict=True)
    for mine, expected in pairs:
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


def test_more_threads_change_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            results.append(invariants_and_derivatives(moments(40, 64, 32, torch.float32), compiled=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_what_is_not_contiguous_is_read_in_order() -> None:
    arguments = [tensor.detach() for tensor in moments(6, 4, 3)]
    scattered = [tensor.flip(0).T.contiguous().T.flip(0) if tensor.dim() == 2 else tensor.mT.contiguous().mT for tensor in arguments]
    assert not any(tensor.is_contiguous() for tensor in scattered[1:])
    results = (moment_invariants.moment_invariants(*given, compiled=True) for given in (scattered, arguments))
    for mine, expected in zip(*results, strict=True):
        assert torch.equal(mine, expected)


def test_invariants_equal_those_of_matrices() -> None:
    a0, a1, a2 = (moment.detach() for moment in moments(4, 3, 2))
    invariants, vectors = moment_invariants.moment_invariants(a0, a1, a2, compiled=True)
    shrink = (1 + a0.square().sum(1) / 3 + (a1.square().sum((1, 2)) + a2.square().sum((1, 2))) / 2).rsqrt()
    matrices = torch.einsum("n,nmv,mab->nvab", shrink, a2, symmetric_traceless_basis(torch.float64))
    columns = (shrink[:, None, None] * a1.transpose(1, 2))[..., None]
    cubes = [(columns.mT @ matrices @ columns)[..., 0, 0], torch.linalg.det(matrices)]
    squares = [columns.square().sum((2, 3)), matrices.square().sum((2, 3))]
    torch.testing.assert_close(invariants, torch.cat([shrink[:, None] * a0, *squares, *cubes], dim=1))
    torch.testing.assert_close(vectors.transpose(1, 2), torch.cat([columns, matrices @ columns], dim=1)[..., 0])


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_invariants_of_large_and_small_moments_are_finite(scale: float) -> None:
    arguments = [(scale * tensor.detach()).requires_grad_() for tensor in moments(5, 64, 32, torch.float32)]
    assert all(bool(torch.isfinite(value).all()) for value in invariants_and_derivatives(arguments, compiled=True))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_operators_are_registered_soundly(order: int) -> None:
    arguments = moments(3, 2, 2)
    cotangents = [torch.full_like(p, 0.3).requires_grad_() for p in moment_invariants.plain_invariants(*arguments)]
    along = [tensor.detach().cos().requires_grad_() for tensor in arguments]
    name, given = (
        ("moment_invariants", arguments),
        ("moment_invariant_gradients", [*arguments, *cotangents]),
        ("moment_invariant_changes", [*arguments, *cotangents, *along]),
    )[order]
    operator = getattr(torch.ops.unipot, name).default
    traced = () if order == 2 else ("test_aot_dispatch_dynamic",)  # derivatives of the last are no operators, and never traced
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor", *traced))
    assert torch.autograd.gradcheck(operator, given)
    assert torch.autograd.gradgradcheck(operator, given)


def test_mixed_dtypes_are_refused() -> None:
    a0, a1, a2 = (moment.detach() for moment in moments(3, 2, 2))
    with pytest.raises(TypeError, match="one dtype"):
        moment_invariants.moment_invariants(a0, a1.float(), a2, compiled=True)


def test_empty_batches_have_empty_invariants() -> None:
    products = moment_invariants.moment_invariants(torch.zeros(0, 6), torch.zeros(0, 3, 4), torch.zeros(0, 5, 4), compiled=True)
    assert [tuple(p.shape) for p in products] == [(0, 22), (0, 3, 8)]
