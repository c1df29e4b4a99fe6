"""Compiled products of moments on atoms: against plain ones, in every derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipot.models.native import moment_products
from unipot.models.native.geometry import symmetric_traceless_basis
from unipot.models.native.kernel_library import KernelUnavailableError, kernel


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        kernel(moment_products.SOURCE)
    except KernelUnavailableError as error:
        pytest.skip(str(error))


def moments(n_atoms: int, n_channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_atoms)
    sizes = ((n_atoms, 3, n_channels), (n_atoms, 5, n_channels))
    a1, a2 = (torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes)
    return a1, a2


def products_and_derivatives(a1: Tensor, a2: Tensor, *, compiled: bool) -> list[Tensor]:
    """Products, their gradient, and the gradient of a function of that."""
    products = moment_products.moment_products(a1, a2, compiled=compiled)
    weights = [torch.linspace(-1, 2, p.numel(), dtype=p.dtype).reshape(p.shape).requires_grad_() for p in products]
    first = torch.autograd.grad(products, (a1, a2), weights, create_graph=True)
    second = torch.autograd.grad(sum(f.square().sum() for f in first), (a1, a2, *weights), create_graph=True)
    third = torch.autograd.grad(sum(f.square().sum() for f in second), (a1, a2, *weights))
    return [*products, *first, *second, *third]


@pytest.mark.parametrize("n_atoms", [1, 7])
@pytest.mark.parametrize("n_channels", [1, 13, 32])
def test_compiled_products_and_derivatives_equal_plain_ones(n_atoms: int, n_channels: int) -> None:
    a1, a2 = moments(n_atoms, n_channels)
    pairs = zip(products_and_derivatives(a1, a2, compiled=True), products_and_derivatives(a1, a2, compiled=False), strict=True)
    for mine, expected in pairs:
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))


def test_products_equal_those_of_matrices() -> None:
    a1, a2 = (moment.detach() for moment in moments(4, 2))
    squares, cubes, turned = moment_products.moment_products(a1, a2, compiled=True)
    matrices = torch.einsum("nmv,mab->nvab", a2, symmetric_traceless_basis(torch.float64))
    vectors = a1.transpose(1, 2)[..., None]
    torch.testing.assert_close(turned.transpose(1, 2), (matrices @ vectors)[..., 0])
    torch.testing.assert_close(squares[:, 1], matrices.square().sum((2, 3)))
    torch.testing.assert_close(cubes[:, 0], (vectors.mT @ matrices @ vectors)[..., 0, 0])
    torch.testing.assert_close(cubes[:, 1], torch.linalg.det(matrices))


@pytest.mark.parametrize("name", ["couple", "inner", "scale"])
def test_operators_are_registered_soundly(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 2 if name == "scale" else 8
    x, y = (torch.randn(3, n, 2, generator=generator, dtype=torch.float64, requires_grad=True) for n in (rows, 8))
    operator = getattr(torch.ops.unipot, name).default
    torch.library.opcheck(operator, (x, y))
    assert torch.autograd.gradgradcheck(operator, (x, y))


def test_empty_batches_have_empty_products() -> None:
    products = moment_products.moment_products(torch.zeros(0, 3, 4), torch.zeros(0, 5, 4), compiled=True)
    assert [tuple(p.shape) for p in products] == [(0, 2, 4), (0, 2, 4), (0, 3, 4)]
