"""Matrix products of few bits on any machine."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unipot.models.native.neighborhood import NEIGHBOR_SUMS_VARIABLE
from unipot.testing import rounded_products
from unipot.testing.probes import probe_structures
from unipot.testing.products import MANTISSA_BITS, rounded
from unipot.testing.response import batch_of

normal = st.floats(2.0**-60, 2.0**60, width=32) | st.floats(-(2.0**60), -(2.0**-60), width=32)


@given(normal, st.sampled_from(sorted(MANTISSA_BITS)))
def test_a_factor_moves_by_half_a_unit_of_its_last_bit_at_most_and_once(number, precision):
    bits = MANTISSA_BITS[precision]
    once = rounded(torch.tensor(number), bits)
    assert abs(float(once) - number) <= 2.0 ** (np.floor(np.log2(abs(number))) - bits - 1)
    assert torch.equal(rounded(once, bits), once)


def test_bfloat16_is_what_torch_makes_of_it():
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(numbers, 7), numbers.bfloat16().float())


@pytest.mark.parametrize("product", [torch.mm, torch.bmm, torch.nn.functional.linear, torch.baddbmm], ids=lambda f: f.__name__)
def test_products_have_rounded_factors_and_sums_in_float32(product):
    generator = torch.Generator().manual_seed(1)
    batched = product in (torch.bmm, torch.baddbmm)
    a, b = torch.randn(2, *([3] if batched else []), 5, 5, generator=generator)
    bias = (torch.full((3, 5, 5), 1 + 2.0**-20),) if product is torch.baddbmm else ()
    with rounded_products("high"):
        found = product(*bias, a, b)
    torch.testing.assert_close(found, product(*bias, rounded(a, 10), rounded(b, 10)), rtol=0, atol=2e-6)  # sums in another order
    assert (found - product(*bias, a, b)).abs().max() > 1e-4


def test_derivatives_are_products_of_the_same_precision():
    a, b = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    factor = torch.full((5, 5), 1 + 2.0**-12)
    with rounded_products("high"):
        (gradient,) = torch.autograd.grad(a @ b, a, factor)
    assert torch.equal(gradient, torch.ones(5, 5) @ rounded(b.detach(), 10).T)


def test_float64_is_left_alone():
    a, b = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with rounded_products("medium"):
        found = a @ b
    assert torch.equal(found, a @ b)


def test_a_model_is_off_by_the_precision_of_its_products_and_no_more(make_potential):
    potential = make_potential(dtype=torch.float32, n_channels=32, n_layers=2)
    batch = batch_of(potential, probe_structures(potential))
    exact = potential(batch, ("energy", "forces")).forces
    size = exact.square().mean().sqrt()
    errors = {}
    for precision in MANTISSA_BITS:
        with rounded_products(precision):
            errors[precision] = float((potential(batch, ("energy", "forces")).forces - exact).square().mean().sqrt() / size)
    assert 1e-5 < errors["high"] < 5e-3 and 3 * errors["high"] < errors["medium"] < 0.05


def test_the_choice_of_kernels_is_what_it_was_afterwards(monkeypatch):
    monkeypatch.setenv(NEIGHBOR_SUMS_VARIABLE, "auto")
    with pytest.raises(KeyError), rounded_products("high"):
        assert os.environ[NEIGHBOR_SUMS_VARIABLE] == "slots"
        raise KeyError
    assert os.environ[NEIGHBOR_SUMS_VARIABLE] == "auto"
    monkeypatch.delenv(NEIGHBOR_SUMS_VARIABLE)
    with rounded_products("high"):
        pass
    assert NEIGHBOR_SUMS_VARIABLE not in os.environ


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'highest'; use one of: high, medium"), rounded_products("highest"):
        pass
