"""How kernels become operators of torch: differentiable, and opaque to tracing and compilers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.native.kernel_library import kernel

_LIBRARY = torch.library.Library("unipot", "FRAGMENT")


def define_operator(
    name: str,
    schema: str,
    *,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    save: Callable[..., None],
) -> Callable[..., Any]:
    """Define torch.ops.unipot.<name>, for tracing and compiled graphs.

    Args:
        name: of the operator.
        schema: of arguments and results, as `(Tensor x) -> Tensor`.
        function: that runs on the CPU; its results are new tensors.
        fake: the same shapes and dtypes without numbers.
        backward: (context, *cotangents) -> gradients of the arguments.
        save: (context, inputs, output) -> None: keeps what `backward` needs.

    Returns:
        The operator as a function. Where nothing traces, watches or transforms it does not pass through the dispatcher, which
        takes as long as the rest of the call for a small structure.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"unipot::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"unipot::{name}", backward, setup_context=save, lib=_LIBRARY)
    operator = getattr(torch.ops.unipot, name)

    def forward(ctx: Any, *arguments: Any) -> Any:
        save(ctx, arguments, None)
        return function(*arguments)

    direct = type(name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})

    def call(*arguments: Any) -> Any:
        return operator(*arguments) if _is_watched(arguments) else direct.apply(*arguments)  # type: ignore[attr-defined]

    return call


def _is_watched(arguments: Sequence[Any]) -> bool:
    """Whether torch.compile, a dispatch mode, a transform of torch.func, or torch.autograd.grad of batched cotangents is at work."""
    functorch = torch._C._functorch
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or any(isinstance(argument, Tensor) and functorch.is_legacy_batchedtensor(argument) for argument in arguments)
    )


def call_kernel(source: Path, name: str, numbers: Sequence[int | float], tensors: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Call unipot_<name>_<dtype> of a C source: numbers, threads, addresses of tensors, addresses of results.

    Args:
        source: of the kernel.
        name: of the function.
        numbers: integers are int64_t, floats double.
        tensors: of one dtype, float32 or float64.
        out: contiguous; written to.

    Raises:
        TypeError: dtypes differ; the kernel sees addresses only.
        KernelUnavailableError: see `kernel`.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        raise TypeError(f"kernels need one dtype, got {sorted(map(str, dtypes))}")
    held = [tensor.contiguous() for tensor in tensors]  # copies live until the kernel is done
    function = getattr(kernel(source), f"unipot_{name}_{'float32' if torch.float32 in dtypes else 'float64'}")
    types = [ctypes.c_double if isinstance(number, float) else ctypes.c_int64 for number in numbers]
    function.argtypes = (*types, ctypes.c_int64, *(ctypes.c_void_p,) * (len(held) + len(out)))
    function(*numbers, torch.get_num_threads(), *(tensor.data_ptr() for tensor in (*held, *out)))


def derivative_of_changes(
    plain: Callable[..., tuple[Tensor, ...]], n_arguments: int, saved: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the changes of a function and its gradient, where there is no kernel for them: of the plain formula.

    Args:
        plain: the function, of operations of torch.
        n_arguments: of the function.
        saved: its arguments x, cotangents g of its results, and a direction z of its arguments.
        cotangents: of the changes along z, of the gradient ∂⟨g, plain(x)⟩/∂x first and then of plain(x).
    """
    with torch.enable_grad():
        # views: what one of them was made of is no part of the derivative by another
        given = [tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in saved]
        arguments, weights, along = given[:n_arguments], given[n_arguments:-n_arguments], given[-n_arguments:]
        gradient = torch.autograd.grad(plain(*arguments), arguments, weights, create_graph=True)
        changes = torch.autograd.grad(gradient, [*arguments, *weights], along, create_graph=True)
        return torch.autograd.grad(changes, given, cotangents, create_graph=True, materialize_grads=True)
