"""Exponential moving average of the weights, kept in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unipot.errors import InputError


class WeightAverage:
    """A shadow of every parameter that learns: shadow ← d·shadow + (1 − d)·parameter after each update.

    d = min(decay, (1 + t) / (10 + t)) after t updates, so that the average follows quickly at first. The shadow is
    float32, or float64 where the parameter is. Frozen parameters have no shadow: they equal their average.

    Args:
        module: whose parameters with `requires_grad` are followed.
        decay: 0 to below 1; 0 follows exactly.

    Example:
        >>> average = WeightAverage(nn.Linear(1, 1), decay=0.9)
        >>> sorted(average.shadow)
        ['bias', 'weight']
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.n_updates = 0
        self.shadow: dict[str, Tensor] = {name: _copy(p) for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        """Move the shadow towards the parameters."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        parameters = dict(self.module.named_parameters())
        for name, shadow in self.shadow.items():
            shadow.lerp_(parameters[name].detach().to(shadow.dtype), 1 - decay)
        self.n_updates += 1

    def to(self, device: torch.device | str) -> None:
        """Move the shadow to where the parameters are."""
        self.shadow = {name: shadow.to(device) for name, shadow in self.shadow.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards its own again, bitwise."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange parameters and shadow."""
        parameters = dict(self.module.named_parameters())
        for name, shadow in self.shadow.items():
            own = parameters[name].detach().clone()
            parameters[name].copy_(shadow)
            self.shadow[name] = own.to(shadow.dtype)

    def state_dict(self) -> dict[str, object]:
        """Tensors and numbers only, for the run state."""
        return {"n_updates": self.n_updates, "shadow": {name: shadow.clone() for name, shadow in self.shadow.items()}}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore; the followed parameters must be the same.

        Raises:
            ValueError: the state follows other parameters.
        """
        shadow: dict[str, Tensor] = state["shadow"]  # type: ignore[assignment]
        if set(shadow) != set(self.shadow):
            differing = sorted(set(shadow) ^ set(self.shadow))
            raise InputError(f"the saved weight average lacks or adds {differing[0]!r}; resume with the same configuration")
        for name, value in shadow.items():
            self.shadow[name].copy_(value)
        self.n_updates = int(state["n_updates"])  # type: ignore[call-overload]


def _copy(parameter: nn.Parameter) -> Tensor:
    dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    return parameter.detach().to(dtype, copy=True)
