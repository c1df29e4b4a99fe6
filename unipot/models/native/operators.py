"""How our operators become operators of torch: differentiable, and opaque to tracing and compilers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("unipot", "FRAGMENT")


def define_operator(
    name: str,
    schema: str,
    *,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    save: Callable[..., None],
) -> None:
    """Define torch.ops.unipot.<name>.

    Args:
        name: of the operator.
        schema: of arguments and results, as `(Tensor x) -> Tensor`.
        function: that runs on the CPU; its results are new tensors.
        fake: the same shapes and dtypes without numbers.
        backward: (context, *cotangents) -> gradients of the arguments.
        save: (context, inputs, output) -> None: keeps what `backward` needs.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"unipot::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"unipot::{name}", backward, setup_context=save, lib=_LIBRARY)
