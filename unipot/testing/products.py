"""Matrix products as tensor cores make them, on any machine: what TF32 or bfloat16 would do to a model's answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unipot.errors import InputError
from unipot.models.native.neighborhood import NEIGHBOR_SUMS_VARIABLE

#: bits of a float32 mantissa that `torch.set_float32_matmul_precision` leaves of the factors: TF32, bfloat16
MANTISSA_BITS = {"high": 10, "medium": 7}
_FLOAT32_BITS = 23

_aten = torch.ops.aten
#: position of the first factor among the arguments of each product
_FIRST_FACTOR = {
    _aten.mm.default: 0,
    _aten.bmm.default: 0,
    _aten.addmm.default: 1,
    _aten.baddbmm.default: 1,
    _aten.addbmm.default: 1,
}


@contextmanager
def rounded_products(precision: str) -> Iterator[None]:
    """Within, float32 matrix products have factors of few bits and sums in float32, as under `torch.set_float32_matmul_precision`.

    So the error of `trainer.matmul_precision=high` is measured where there is no GPU: factors are rounded to the nearest number of
    10 (high, TF32) or 7 (medium, bfloat16) bits after the leading one, in forward passes and in every derivative. Everything else,
    float64 products included, stays as it is; the native backbone works with its padded matrix products, as on a GPU. Slower than
    without, not for compiled graphs, and for the thread that enters it alone.

    Args:
        precision: high or medium.

    Raises:
        ValueError: another precision.

    Example:
        >>> import torch
        >>> factor = torch.tensor([[1 + 2**-12]])
        >>> with rounded_products("high"):
        ...     print(float(factor @ factor))
        1.0
    """
    if precision not in MANTISSA_BITS:
        raise InputError(f"precision is {precision!r}; use one of: {', '.join(MANTISSA_BITS)}")
    before = os.environ.get(NEIGHBOR_SUMS_VARIABLE)
    os.environ[NEIGHBOR_SUMS_VARIABLE] = "slots"
    try:
        with _Products(MANTISSA_BITS[precision]):
            yield
    finally:
        if before is None:
            del os.environ[NEIGHBOR_SUMS_VARIABLE]
        else:
            os.environ[NEIGHBOR_SUMS_VARIABLE] = before


class _Products(TorchDispatchMode):
    """Rounds both factors of every product.

    Args:
        bits: of the mantissa that are kept.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FIRST_FACTOR.get(func)
        if first is not None:
            factors = (rounded(factor, self.bits) for factor in args[first : first + 2])
            args = (*args[:first], *factors, *args[first + 2 :])
        return func(*args, **(kwargs or {}))


def rounded(factor: Tensor, bits: int) -> Tensor:
    """The nearest numbers with a mantissa of `bits` bits, ties to even; tensors of other types than float32 as they are.

    Args:
        factor: any shape, finite.
        bits: 1 to 22.
    """
    if factor.dtype != torch.float32:
        return factor
    dropped = _FLOAT32_BITS - bits
    pattern = factor.contiguous().view(torch.int32)
    odd = (pattern >> dropped) & 1
    return ((pattern + (2 ** (dropped - 1) - 1) + odd) & -(2**dropped)).view(torch.float32)
