"""Building a model from the description in a card, which may be damaged or a stranger's, within the bounds of its own weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unipot.errors import InputError
from unipot.models.potential import Potential
from unipot.zoo.card import ArtifactError

#: numbers that any model may make besides its weights: tables of pairs of elements, bases of spherical functions
_FREE_NUMBERS = 2**25
#: tensors that it may make, per weight tensor that it has: several modules are made for a weight, and some are thrown away
_TENSORS_PER_WEIGHT, _FREE_TENSORS = 32, 20_000
#: what a constructor raises for values that make no sense, its own checks and those of Python and torch
_REFUSED = (ArithmeticError, AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError)


def potential_with(description: dict[str, Any], tensors: dict[str, Tensor]) -> Potential:
    """The potential that a card describes, with these weights.

    A description that asks for more numbers than there are weights (a million layers) is refused before they are made.

    Raises:
        ArtifactError: it cannot be built, or has other weights.
    """
    if files := [key for key in description["backbone"].get("hyperparameters", {}) if key.startswith("checkpoint")]:
        raise ArtifactError(f"the card asks for a file of this machine ({files[0]}), which no card of unipot does; it is not read")
    try:
        # fresh weights are drawn and overwritten; leave no trace in the caller's stream
        with torch.random.fork_rng(devices=[]), within_weights(tensors):
            potential = Potential.from_description(description)
    except _REFUSED as error:
        raise ArtifactError(f"the model described in the card cannot be built: {error}") from error
    expected = potential.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        words = [f"{len(names)} {what} (first {names[0]!r})" for what, names in (("missing", missing), ("not expected", extra)) if names]
        raise ArtifactError(f"weights and card do not fit: {', '.join(words)}; download or copy the model again")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ArtifactError(
                f"weight {name!r} is {tensor.dtype} {tuple(tensor.shape)}, the model described in the card has "
                f"{expected[name].dtype} {tuple(expected[name].shape)}; download or copy the model again"
            )
    potential.load_state_dict(tensors, strict=True)
    return potential


@contextmanager
def within_weights(tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within, no more tensors and numbers are made than a model with these weights needs.

    Raises:
        ValueError: more are asked for; they are not made.
    """
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    with _Bounded(4 * n_numbers + _FREE_NUMBERS, _TENSORS_PER_WEIGHT * len(tensors) + _FREE_TENSORS):
        yield


class _Bounded(TorchDispatchMode):
    """Counts tensors that are made of sizes, before they are."""

    def __init__(self, n_numbers: int, n_tensors: int) -> None:
        super().__init__()
        self.n_numbers, self.n_tensors = n_numbers, n_tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = _size_wanted(func.name(), args)
        if wanted is not None:
            self.n_numbers, self.n_tensors = self.n_numbers - wanted, self.n_tensors - 1
            if self.n_numbers < 0 or self.n_tensors < 0:
                raise InputError("it is far larger than the weights that come with it; the card is damaged, download the model again")
        return func(*args, **(kwargs or {}))


def _size_wanted(name: str, arguments: Any) -> int | None:
    """Numbers of a tensor that is made of sizes; None for any other operation."""
    if name.startswith("aten::new_"):
        arguments = arguments[1:]
    if any(isinstance(argument, Tensor) for argument in arguments):
        return None
    if arguments and isinstance(arguments[0], list | tuple) and all(isinstance(size, int) for size in arguments[0]):
        return math.prod(arguments[0])
    whole = [abs(argument) for argument in arguments if isinstance(argument, int | float) and not isinstance(argument, bool)]
    if name.startswith("aten::eye"):
        return math.prod(whole * 2 if len(whole) == 1 else whole)
    return int(max(whole, default=0)) if name.startswith(("aten::arange", "aten::linspace", "aten::logspace", "aten::range")) else None
