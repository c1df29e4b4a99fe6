"""`recomputed`: a module that keeps its inputs instead of its activations, through second derivatives.

`torch.utils.checkpoint` drops what the forward pass saves, but differentiating forces needs the graph of the first backward pass
too, and that graph keeps everything it recomputed. So here the pullback is a function that recomputes as well: a force loss
keeps the inputs of a module and the gradients that reach it, and one module's activations at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

#: (parameters, then differentiable inputs) -> outputs
_Call = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


def recomputed(module: nn.Module, *arguments: Any) -> tuple[Tensor, ...]:
    """`module(*arguments)`, whose activations are computed again by every backward pass that needs them.

    Values and derivatives, first and second, are those of the module; a third derivative is refused by autograd. The module must
    be a function of its parameters and arguments (no random numbers, no state).

    Args:
        module: returns a tuple of tensors.
        arguments: tensors, dataclasses of tensors, or anything that is not differentiated.
    """
    if not torch.is_grad_enabled():
        return module(*arguments)
    names, parameters = [name for name, _ in module.named_parameters()], list(module.parameters())
    inputs = list(_differentiable(arguments))
    precision = _autocast(parameters + inputs)

    def call(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        given = dict(zip(names, tensors[: len(names)], strict=True))
        with precision():
            return torch.func.functional_call(module, given, _with_tensors(arguments, iter(tensors[len(names) :])))

    # as views they have nodes of their own, which autograd can be asked about
    views = [parameter.view_as(parameter) for parameter in parameters]
    return _Recomputed.apply(call, [view.grad_fn for view in views], *views, *inputs)


class _Recomputed(Function):
    """(parameters, inputs) -> outputs."""

    @staticmethod
    def forward(ctx: Any, call: _Call, nodes: list[Any], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call, ctx.nodes = call, nodes
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return call(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = list(ctx.needs_input_grad[2:])
        for k, node in enumerate(ctx.nodes):  # forces need no gradient of the weights
            wanted[k] = wanted[k] and torch._C._will_engine_execute_node(node)
        given = [gradient is not None for gradient in gradients]
        if not any(given) or not any(wanted):
            return (None,) * (2 + len(wanted))
        present = [gradient for gradient in gradients if gradient is not None]
        return None, None, *_Pullback.apply(ctx.call, wanted, given, *present, *ctx.saved_tensors)


class _Pullback(Function):
    """(gradients of outputs, parameters, inputs) -> gradients of parameters and inputs."""

    @staticmethod
    def forward(ctx: Any, call: _Call, wanted: list[bool], given: list[bool], *tensors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.call, ctx.wanted, ctx.given = call, wanted, given
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        leaves = [tensor.detach() for tensor in tensors]
        for leaf, learns in zip(leaves[sum(given) :], wanted, strict=True):
            leaf.requires_grad_(learns)
        return _pulled(call, wanted, given, leaves, create_graph=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *second: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        n_given = sum(ctx.given)
        through = [False] * n_given + ctx.wanted
        leaves = [
            tensor.detach().requires_grad_(need or inner)
            for tensor, need, inner in zip(ctx.saved_tensors, needed, through, strict=True)
        ]
        with torch.enable_grad():
            first = _pulled(ctx.call, ctx.wanted, ctx.given, leaves, create_graph=True)
            rows = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None and a.requires_grad]
            targets = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
            if not rows or not targets:
                return (None,) * (3 + len(needed))
            found = iter(torch.autograd.grad([a for a, _ in rows], targets, [b for _, b in rows], allow_unused=True))
        return None, None, None, *(next(found) if need else None for need in needed)


def _pulled(call: _Call, wanted: list[bool], given: list[bool], leaves: list[Tensor], *, create_graph: bool) -> tuple[Tensor | None, ...]:
    """Gradients of the wanted ones among parameters and inputs, None for the others and where outputs do not depend on them."""
    gradients, tensors = leaves[: sum(given)], leaves[sum(given) :]
    with torch.enable_grad():
        outputs = [output for output, kept in zip(call(tensors), given, strict=True) if kept]
        rows = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if output.requires_grad]
        targets = [tensor for tensor, want in zip(tensors, wanted, strict=True) if want]
        found = iter(
            torch.autograd.grad([o for o, _ in rows], targets, [g for _, g in rows], create_graph=create_graph, allow_unused=True)
            if rows
            else [None] * len(targets)
        )
    return tuple(next(found) if want else None for want in wanted)


def _differentiable(value: Any) -> Iterator[Tensor]:
    """Tensors that carry a graph, in tuples and dataclasses too."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _differentiable(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _differentiable(getattr(value, field.name))


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """`value` with its differentiable tensors replaced, in the order of `_differentiable`."""
    if isinstance(value, Tensor):
        return next(tensors) if value.requires_grad else value
    if isinstance(value, tuple):
        return tuple(_with_tensors(item, tensors) for item in value)
    if is_dataclass(value):
        items = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: item for name, item in items.items() if next(_differentiable(item), None) is not None}
        return replace(value, **{name: _with_tensors(item, tensors) for name, item in changed.items()}) if changed else value
    return value


def _autocast(tensors: Sequence[Tensor]) -> Callable[[], Any]:
    """A context with the automatic precision of now, for later."""
    kind = tensors[0].device.type if tensors else "cpu"
    if not torch.is_autocast_enabled(kind):
        return nullcontext
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype)
