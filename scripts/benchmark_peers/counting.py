"""What a step costs a machine: floating-point operations, bytes, operations launched; and what the machine can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MATRIX = 2048  # rows of the square float32 matrices whose product gives the peak
COPY_BYTES = 2**28  # of one array that is copied, far beyond any cache
MATRIX_ON_DEVICE, COPY_BYTES_ON_DEVICE = 8192, 2**31  # the same on a GPU


class WorkMode(TorchDispatchMode):
    """Counts operations, the bytes of their tensor inputs and outputs, and floating-point operations by torch's formulas.

    Formulas exist for matrix products and whatever registers one (`torch.utils.flop_counter.register_flop_formula`). Views
    and allocations move nothing and are left out; a broadcast input counts once. Caches are not considered, so the bytes are
    the traffic of operations that each read and write main memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0
        self.n_operations = 0
        self.flop: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or func.__name__.startswith(("empty", "new_empty", "detach", "_local_scalar", "sym_")):
            return result
        self.n_operations += 1
        self.n_bytes += sum(_touched(t) for t in _tensors((args, kwargs, result)))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            name = str(func.overloadpacket)
            self.flop[name] = self.flop.get(name, 0) + formula(*args, **kwargs, out_val=result)
        return result


def count(step: Callable[[], object]) -> dict[str, Any]:
    """Of one call: `gflop`, `gigabytes`, `operations`, and `gflop_of` each operation that has a formula."""
    with WorkMode() as work:
        step()
    return {
        "gflop": sum(work.flop.values()) / 1e9,
        "gigabytes": work.n_bytes / 1e9,
        "operations": work.n_operations,
        "gflop_of": {name: n / 1e9 for name, n in work.flop.items()},
    }


def matrix_product_rate(device: str = "cpu") -> float:
    """GFLOP/s of one large float32 matrix product, at the present precision of such products."""
    n = MATRIX if device == "cpu" else MATRIX_ON_DEVICE
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    return 2 * n**3 / _seconds(lambda: a @ b, device) / 1e9


def copy_rate(device: str = "cpu") -> float:
    """GB/s of one large copy, reading and writing counted."""
    n_bytes = COPY_BYTES if device == "cpu" else COPY_BYTES_ON_DEVICE
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _seconds(lambda: target.copy_(source), device) / 1e9


def _seconds(work: Callable[[], object], device: str) -> float:
    """Of the second call, finished."""
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    work()
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _tensors(value)


def _touched(tensor: torch.Tensor) -> int:
    n_elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        n_elements *= size if stride != 0 else 1
    return n_elements * tensor.element_size()
