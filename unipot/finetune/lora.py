"""Low-rank updates of a backbone's weight matrices (LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685).

A matrix W (n_out, n_in) that is chosen becomes W + (alpha / rank) · up · down, with W frozen, `down` (rank, n_in)
random and `up` (n_out, rank) zero: before the first step the model is its parent. The update is a parametrization of
the weight itself, not of a layer, so that it works wherever a backbone reads the weight: in a linear layer, an einsum
or a batched product.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unipot.errors import InputError
from unipot.models.backbone import Backbone
from unipot.models.potential import Potential

#: in the names of parameters that belong to a parametrized weight
_PARAMETRIZED = ".parametrizations."
_ORIGINAL = ".original"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Which matrices get an update, and of which size.

    Attributes:
        rank: of an update; a matrix with fewer rows or columns gets that many.
        alpha: the update is multiplied by alpha / rank.
        patterns: shell patterns over parameter names of the backbone (`layers.*.message.weight`), embedding tables
            included. Empty: every matrix that multiplies features, no table.
        groups: names out of the backbone's `layer_groups()`; empty: all.

    Raises:
        ValueError: rank or alpha is not positive.
    """

    rank: int
    alpha: float
    patterns: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"finetune.lora.rank is {self.rank}; it must be at least 1 (finetune=heads-only trains the head alone)")
        if not self.alpha > 0:
            raise InputError(f"finetune.lora.alpha is {self.alpha}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What was injected: rows of (parameter of the backbone, shape, rank)."""

    matrices: tuple[tuple[str, tuple[int, ...], int], ...]
    n_numbers: int
    settings: LoraSettings

    def sentence(self) -> str:
        """For the terminal."""
        frozen = sum(math.prod(shape) for _, shape, _ in self.matrices)
        return (
            f"LoRA: rank {self.settings.rank}, alpha {self.settings.alpha:g}: {self.n_numbers:,} numbers beside {frozen:,} frozen ones in "
            f"{len(self.matrices)} matrices; the update is added to the weights in every artifact"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the card."""
        names = [name for name, _, _ in self.matrices]
        return {"rank": self.settings.rank, "alpha": self.settings.alpha, "matrices": names, "n_parameters": self.n_numbers}


class LowRankUpdate(nn.Module):
    """W -> W + scale · up · down; zero at the start.

    Args:
        weight: (..., n_out, n_in); leading axes are a batch of matrices, each with its own update.
        rank: at most min(n_out, n_in).
        scale: factor on the product.
        generator: of the random start of `down`, normal with variance 1/n_in.
    """

    def __init__(self, weight: Tensor, *, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        *batch, n_out, n_in = weight.shape
        down = torch.randn(*batch, rank, n_in, generator=generator, dtype=torch.float64) / math.sqrt(n_in)
        self.scale = scale
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(*batch, n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """(..., n_out, n_in)."""
        return weight + self.scale * (self.up @ self.down)


def lora_matrices(backbone: Backbone, settings: LoraSettings) -> list[str]:
    """Names of the parameters of `backbone` that the settings choose, in its order.

    Raises:
        ValueError: a group is unknown, or a pattern or the whole choice matches no matrix.
    """
    tables = {f"{name}.weight" for name, module in backbone.named_modules() if isinstance(module, nn.Embedding)}  # type: ignore[attr-defined]
    linear = {f"{name}.weight" for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}  # type: ignore[attr-defined]
    exempt = backbone.no_decay_names() - linear  # scales of norms are stored as (degree, channel), but multiply no feature vector
    every = [name for name, p in backbone.named_parameters() if p.dim() >= 2 and min(p.shape[-2:]) > 1]  # type: ignore[attr-defined]
    prefixes = _prefixes(backbone, settings.groups)
    inside = [name for name in every if name.startswith(prefixes)]
    matrices = [name for name in inside if name not in exempt and name not in tables]
    if settings.patterns:
        for pattern in settings.patterns:
            if not any(fnmatchcase(name, pattern) for name in inside):
                known = _first_names(inside)
                raise InputError(f"finetune.lora.patterns: {pattern!r} matches no matrix of the backbone; there are: {known}")
        return [name for name in inside if any(fnmatchcase(name, pattern) for pattern in settings.patterns)]
    if not matrices:
        raise InputError(f"finetune.lora.groups [{', '.join(settings.groups)}] hold no matrix that multiplies features; leave them out")
    return matrices


def inject_lora(potential: Potential, settings: LoraSettings, *, seed: int) -> LoraReport:
    """Give the chosen matrices of the backbone an update, in place; which parameters learn is left to the parameter policy.

    Args:
        potential: without updates.
        settings: see `LoraSettings`.
        seed: of the start of `down`; each matrix has its own stream, whatever others are chosen.

    Raises:
        ValueError: see `lora_matrices`; or the potential has updates already.
    """
    if has_updates(potential):
        raise InputError("this potential has low-rank updates already; merge them first: merged(potential)")
    backbone, rows, n_numbers = potential.backbone, [], 0
    for name in lora_matrices(backbone, settings):
        owner, _, attribute = name.rpartition(".")
        module = backbone.get_submodule(owner)  # type: ignore[attr-defined]
        weight = getattr(module, attribute)
        rank = min(settings.rank, *weight.shape[-2:])
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()))
        update = LowRankUpdate(weight.detach(), rank=rank, scale=settings.alpha / settings.rank, generator=generator)
        parametrize.register_parametrization(module, attribute, update)
        rows.append((name, tuple(weight.shape), rank))
        n_numbers += update.up.numel() + update.down.numel()
    return LoraReport(matrices=tuple(rows), n_numbers=n_numbers, settings=settings)


def has_updates(potential: nn.Module) -> bool:
    """Whether any weight is parametrized."""
    return any(_PARAMETRIZED in f".{name}" for name, _ in potential.named_parameters())


def merged(potential: Potential) -> Potential:
    """The same model with every update added to its weight; `potential` itself where there is none.

    The sum is the one that the forward pass forms, so that the merged model predicts what the adapted one does. The
    potential given is not touched.
    """
    if not has_updates(potential):
        return potential
    tensors: dict[str, Tensor] = {}
    for name, tensor in potential.state_dict().items():
        owner, found, rest = name.partition(_PARAMETRIZED)
        if not found:
            tensors[name] = tensor
        elif rest.endswith(_ORIGINAL):
            attribute = rest.removesuffix(_ORIGINAL)
            tensors[f"{owner}.{attribute}"] = getattr(potential.get_submodule(owner), attribute).detach()
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and overwritten; leave no trace in the caller's stream
        plain = Potential.from_description(potential.describe())
    plain.load_state_dict(tensors, strict=True)
    for name in potential.head_names:
        plain.heads[name].trained_elements = potential.heads[name].trained_elements
    return plain.to(potential.device).train(potential.training)


def _prefixes(backbone: Backbone, groups: Sequence[str]) -> tuple[str, ...]:
    known = dict(backbone.layer_groups())
    for group in groups:
        if group not in known:
            raise InputError(f"finetune.lora.groups: {group!r} is not a layer group of the backbone; it has: {', '.join(known)}")
    return tuple(prefix for group in groups or known for prefix in known[group])


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")
