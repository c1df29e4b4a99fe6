"""A second device that every machine has: tensors that meet no others, as on a GPU, and are computed on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from unipot.models.potential import Potential
from unipot.testing.probes import probe_structures
from unipot.testing.response import Model, batch_of, device_of, respond_to_batch, tolerance_of
from unipot.testing.violation import ContractViolation, relative_deviation, require_below

#: the name it goes by: torch knows it, and knows no way from it to numpy or to other devices
OTHER = torch.device("meta")

#: the only operations that tensors of two devices may meet in
_TRANSFERS = ("aten::copy_", "aten::_to_copy")

#: functions that make tensors of numbers in Python, which torch does before any mode sees the result
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Within, tensors can be moved to the device that this yields, and are then computed with as on a GPU.

    That is: an operation between them and tensors of the CPU fails (numbers without dimensions excepted), numpy does not see them,
    and operators that exist for the CPU alone refuse them. Their numbers are those of the CPU; nothing is faster. A tensor that was
    forgotten on the CPU is found on any machine in this way, though not what a GPU's own kernels do. Indices on the CPU are
    refused, too, which GPUs take at the price of a copy. Not for threads or other processes, and not for compiled graphs.

    Example:
        >>> import torch
        >>> with other_device() as device:
        ...     numbers = torch.arange(3, device=device)
        ...     print((2 * numbers).cpu())
        ...     try:
        ...         numbers + torch.ones(3)
        ...     except RuntimeError as error:
        ...         print(str(error).partition(": ")[0])
        tensor([0, 2, 4])
        tensors on two devices meet in aten::add.Tensor
    """
    with _Dispatch(), _FromNumbers():
        yield OTHER


def check_other_device(model: Model) -> float:
    """The model answers the same on another device, with every tensor there; a potential also gives gradients of its weights.

    Run on the CPU with `other_device`, so that backbones can be checked where no GPU is.
    """
    structures = probe_structures(model)
    expected = respond_to_batch(model, batch_of(model, structures))
    try:
        with other_device() as device:
            moved = copy.deepcopy(model).to(device)
            batch = batch_of(model, structures).to(device)
            found = respond_to_batch(moved, batch)
            left = [tensor.device for tensor in found.tensors() if tensor.device != device]
            if isinstance(moved, Potential):
                moved(batch, ("energy", "forces"), create_graph=True).forces.square().sum().backward()
                left += [p.grad.device for p in moved.parameters() if p.grad is not None and p.grad.device != device]
            deviation = max(relative_deviation(a.cpu(), b.cpu()) for a, b in zip(found.tensors(), expected.tensors(), strict=True))
    except (RuntimeError, TypeError) as error:
        raise ContractViolation(f"other device: {str(error).splitlines()[0]}") from error
    if left:
        raise ContractViolation(f"other device: an answer lies on {left[0]}, though model and batch were moved from {device_of(model)}")
    return require_below("other device", deviation, tolerance_of(model))


class _Elsewhere(Tensor):
    """A tensor that says it is on the other device; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _Elsewhere:
        form = (here.shape, here.stride(), here.storage_offset())
        made = Tensor._make_wrapper_subclass(cls, *form, dtype=here.dtype, device=OTHER, requires_grad=False)  # type: ignore[attr-defined]
        made.here = here
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Torch's own would read memory that is not there."""
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a tensor of the CPU."""
        return self.here.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.here!r} on the other device"


class _Dispatch(TorchDispatchMode):
    """Catches what has no tensor of the other device among its arguments: those that are made there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Tensors of numbers are made on the CPU and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], _Elsewhere):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(OTHER)
        if func in _FROM_NUMBERS and _is_other(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(OTHER)
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers of its arguments, its result on the device where it belongs."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    is_there = any(isinstance(tensor, _Elsewhere) for tensor in tensors)
    if is_there and func.name() not in _TRANSFERS:
        _require_allowed(func, tensors)
    if kwargs.get("device") is not None:
        is_there = _is_other(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")} if is_there else kwargs
    result = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if any(result is _here(tensor) for tensor in tensors) and func.name() == "aten::_to_copy":
        result = result.clone()
    if not is_there:
        return result
    wrapped = tree_map(lambda leaf: _Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _require_allowed(func: Any, tensors: list[Tensor]) -> None:
    strangers = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, _Elsewhere) and tensor.dim() > 0]
    if strangers:
        raise RuntimeError(f"tensors on two devices meet in {func.name()}: one of shape {strangers[0]} was left on the CPU")
    if func.namespace not in ("aten", "prims") and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CUDA"):
        raise RuntimeError(f"operator {func.name()} exists for the CPU alone; use another on other devices")


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, _Elsewhere) else leaf


def _is_other(device: Any) -> bool:
    return device is not None and torch.device(device) == OTHER
