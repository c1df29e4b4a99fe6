"""A pull of the weights towards where they started (L2-SP, Li, Grandvalet, Davoine, ICML 2018, https://arxiv.org/abs/1802.01483)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unipot.errors import InputError
from unipot.training.optim import ParameterRow


class StartingPoint:
    """Before each update, θ ← θ − rate · λ · (θ − θ_start) for every parameter whose row has λ = `to_start` above 0.

    This is the gradient step on λ/2 · ‖θ − θ_start‖², decoupled from the loss as weight decay is in AdamW (Loshchilov and
    Hutter 2019): it depends neither on the normalisation of the loss nor on Adam's second moments. The start is that of the
    first run: it is part of the run state, so that a resumed run does not take its first weights for it.

    Args:
        module: as it starts.
        rows: the table of the parameter policy.
        learning_rate: peak rate.

    Raises:
        ValueError: rate · λ exceeds 1, where the pull would overshoot the start.

    Example:
        >>> row = ParameterRow(parameter="weight", n_numbers=1, rule="all", lr_scale=1.0, weight_decay=0.0, to_start=0.5)
        >>> linear = nn.Linear(1, 1, bias=False)
        >>> point = StartingPoint(linear, [row], learning_rate=0.1)
        >>> list(point.start)
        ['weight']
    """

    def __init__(self, module: nn.Module, rows: Sequence[ParameterRow], *, learning_rate: float) -> None:
        self._parameters = dict(module.named_parameters())
        self._strength = {row.parameter: row.to_start * row.lr_scale for row in rows if row.to_start > 0 and not row.frozen}
        self.start = {name: self._parameters[name].detach().clone() for name in self._strength}
        worst = max(self._strength.values(), default=0.0)
        if learning_rate * worst > 1:
            raise InputError(
                f"l2_to_start is {worst:g} and the learning rate {learning_rate:g}: their product is above 1, so that each step would "
                f"overshoot the start; give at most {1 / learning_rate:g}"
            )

    @torch.no_grad()
    def pull(self, rate: float) -> None:
        """Move the parameters towards their start.

        Args:
            rate: learning rate of this step before the factor of a rule.
        """
        for name, strength in self._strength.items():
            parameter = self._parameters[name]
            if self.start[name].device != parameter.device:
                self.start[name] = self.start[name].to(parameter.device)
            parameter.lerp_(self.start[name], rate * strength)

    def state_dict(self) -> dict[str, Tensor]:
        """The start, for the run state."""
        return {name: value.clone() for name, value in self.start.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore; the pulled parameters must be the same.

        Raises:
            ValueError: they are not.
        """
        if set(state) != set(self.start):
            differing = sorted(set(state) ^ set(self.start))
            raise InputError(f"the saved starting point lacks or adds {differing[0]!r}; resume with the same configuration")
        for name, value in state.items():
            self.start[name].copy_(value)
