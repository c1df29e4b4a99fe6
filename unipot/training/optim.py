"""Which parameter learns how: ordered rules, the optimizer they make, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import nn

from unipot.errors import InputError
from unipot.training.muon import HybridMuon, matrix_names

OPTIMIZERS = ("adamw", "muon")
METHODS = ("full", "heads-only", "freeze", "layerwise", "lora")
#: names of the factors of low-rank updates, see `unipot.finetune.lora`
LORA_UP, LORA_DOWN = "backbone.*parametrizations.*.up", "backbone.*parametrizations.*.down"


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW or Muon, clipping and weight average.

    Attributes:
        kind: `adamw`, or `muon`: orthogonalised updates for weight matrices and AdamW for the rest, see `HybridMuon`.
        momentum: of the orthogonalised updates.
        learning_rate: peak rate.
        weight_decay: decoupled, where the policy does not say otherwise.
        betas: of AdamW.
        epsilon: of AdamW.
        clip_norm: largest global gradient norm; None does not clip.
        ema_decay: of the weight average, 0 to below 1.
    """

    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    clip_norm: float | None = 10.0
    ema_decay: float = 0.99
    kind: str = "adamw"
    momentum: float = 0.95

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            raise InputError(f"optimizer.kind is {self.kind!r}; use one of: {', '.join(OPTIMIZERS)}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"optimizer.momentum is {self.momentum}; it must be from 0 to below 1")
        if not self.learning_rate > 0:
            raise InputError(f"optimizer.learning_rate is {self.learning_rate}; it must be positive")
        if self.weight_decay < 0:
            raise InputError(f"optimizer.weight_decay is {self.weight_decay}; it must not be negative")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optimizer.betas is {list(self.betas)}; give two numbers from 0 to below 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"optimizer.clip_norm is {self.clip_norm}; it must be positive, or null for no clipping")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"optimizer.ema_decay is {self.ema_decay}; it must be from 0 to below 1")


class _Groups(Protocol):
    def layer_groups(self) -> list[tuple[str, tuple[str, ...]]]: ...

    def no_decay_names(self) -> set[str]: ...


@dataclass(frozen=True, kw_only=True)
class ParameterRule:
    """What happens to the parameters whose name matches one of `patterns`.

    Attributes:
        name: shown in the table.
        patterns: shell patterns (`backbone.layers.0.*`) over full parameter names.
        lr_scale: factor on the learning rate; 0 freezes.
        weight_decay: None takes the optimizer's; names in `no_decay` get 0 whatever is said here.
        to_start: strength λ of the pull towards the weights at the start, see `unipot.training.starting_point`.
    """

    name: str
    patterns: tuple[str, ...]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    to_start: float = 0.0

    def __post_init__(self) -> None:
        if self.lr_scale < 0 or (self.weight_decay or 0.0) < 0 or self.to_start < 0:
            numbers = f"lr_scale {self.lr_scale}, weight_decay {self.weight_decay} and to_start {self.to_start}"
            raise InputError(f"parameter rule {self.name!r}: {numbers} must not be negative")
        if not self.patterns:
            raise InputError(f"parameter rule {self.name!r} has no pattern; give at least one, for example 'backbone.*'")

    def matches(self, parameter: str) -> bool:
        return any(fnmatchcase(parameter, pattern) for pattern in self.patterns)


@dataclass(frozen=True, kw_only=True)
class ParameterRow:
    """One parameter and the rule that governs it."""

    parameter: str
    n_numbers: int
    rule: str
    lr_scale: float
    weight_decay: float
    to_start: float = 0.0

    @property
    def frozen(self) -> bool:
        return self.lr_scale == 0.0


@dataclass(frozen=True, kw_only=True)
class ParameterPolicy:
    """Ordered rules; the first that matches a parameter governs it, so every parameter has exactly one.

    Attributes:
        rules: in order.
        no_decay: full names of parameters without weight decay.

    Example:
        >>> policy = ParameterPolicy(rules=(ParameterRule(name="all", patterns=("*",)),))
        >>> [row.rule for row in policy.resolve(torch.nn.Linear(2, 1), weight_decay=0.1)]
        ['all', 'all']
    """

    rules: tuple[ParameterRule, ...]
    no_decay: frozenset[str] = frozenset()

    def resolve(self, module: nn.Module, *, weight_decay: float) -> list[ParameterRow]:
        """The table: one row per parameter of `module`, in its order.

        Raises:
            ValueError: a parameter matches no rule, or a rule governs no parameter.
        """
        rows, used = [], set()
        for name, parameter in module.named_parameters():
            rule = next((rule for rule in self.rules if rule.matches(name)), None)
            if rule is None:
                patterns = ", ".join(pattern for rule in self.rules for pattern in rule.patterns)
                raise InputError(f"parameter {name!r} matches no rule (patterns: {patterns}); add a last rule '*'")
            used.add(rule.name)
            decay = weight_decay if rule.weight_decay is None else rule.weight_decay
            rows.append(
                ParameterRow(
                    parameter=name,
                    n_numbers=parameter.numel(),
                    rule=rule.name,
                    lr_scale=rule.lr_scale,
                    weight_decay=0.0 if name in self.no_decay else decay,
                    to_start=rule.to_start,
                )
            )
        for rule in self.rules:
            if rule.name not in used:
                raise InputError(
                    f"parameter rule {rule.name!r} ({', '.join(rule.patterns)}) governs no parameter: nothing matches it or an earlier "
                    f"rule took all; parameters look like {', '.join(row.parameter for row in rows[:4])}"
                )
        return rows

    def apply(self, module: nn.Module, *, weight_decay: float) -> list[ParameterRow]:
        """Set `requires_grad` by the rules and return the table.

        Raises:
            ValueError: see `resolve`; or every parameter is frozen.
        """
        rows = self.resolve(module, weight_decay=weight_decay)
        if all(row.frozen for row in rows):
            raise InputError("every parameter is frozen, so there is nothing to train; give a rule an lr_scale above 0")
        parameters = dict(module.named_parameters())
        for row in rows:
            parameters[row.parameter].requires_grad_(not row.frozen)
        return rows


def build_policy(
    potential: nn.Module,
    *,
    method: str = "full",
    freeze_groups: int = 0,
    layer_decay: float = 0.8,
    heads: Sequence[str] | None = None,
    properties: Sequence[str] | None = None,
    head_lr_scale: float = 1.0,
    lora_lr_scale: float = 1.0,
    l2_to_start: float = 0.0,
    l2_to_start_heads: bool = False,
    free_tables: Sequence[str] = (),
) -> ParameterPolicy:
    """The usual policies, made from the backbone's own declaration of its layers.

    Args:
        potential: has `backbone` and `heads`.
        method: `full`: everything learns. `heads-only`: the backbone is frozen. `freeze`: the first `freeze_groups`
            layer groups are frozen. `layerwise`: the rate falls by `layer_decay` per group from output to input.
            `lora`: the backbone is frozen but for its low-rank updates, which must be there.
        freeze_groups: for `freeze`; also allowed with `layerwise`.
        layer_decay: factor per group, 0 to 1, for `layerwise`.
        heads: heads that learn; the others are frozen. None: all learn.
        properties: property heads that learn, likewise.
        head_lr_scale: factor on the rate of the heads that learn.
        lora_lr_scale: factor on the rate of the low-rank updates, for `lora`.
        l2_to_start: pull of what learns in the backbone towards its start; it takes the place of weight decay there. Of
            a low-rank update `up` alone is pulled, which shrinks the update itself by the same factor.
        l2_to_start_heads: also of the heads that learn.
        free_tables: names of parameters of the backbone that learn even where their group is frozen (tables with rows
            of new elements; what else is in them must be kept by the caller).

    Raises:
        ValueError: the method, a head or a number is not allowed.
    """
    backbone: _Groups = potential.backbone  # type: ignore[assignment]
    groups = backbone.layer_groups()
    _check_method(method, freeze_groups, layer_decay, [name for name, _ in groups])
    rules = _head_rules(potential, heads, head_lr_scale, l2_to_start if l2_to_start_heads else 0.0)
    rules += _property_rules(potential, properties, head_lr_scale)
    if method == "lora":
        rules += _lora_rules(potential, lora_lr_scale, l2_to_start)
    for depth, (name, prefixes) in enumerate(groups):
        scale = layer_decay ** (len(groups) - depth) if method == "layerwise" else 1.0
        frozen = method in ("heads-only", "lora") or (method in ("freeze", "layerwise") and depth < freeze_groups)
        patterns = tuple(pattern for prefix in prefixes for pattern in _prefix_patterns(f"backbone.{prefix}"))
        free = tuple(f"backbone.{table}" for table in free_tables if table.startswith(prefixes))
        if frozen and free:
            rules.append(ParameterRule(name=f"{name} tables, rows of new elements only", patterns=free, weight_decay=0.0))
        rules.append(ParameterRule(name=name, patterns=patterns, lr_scale=0.0) if frozen else _learning(name, patterns, scale, l2_to_start))
    names = [name for name, _ in potential.named_parameters()]
    no_decay = {f"backbone.{name}" for name in backbone.no_decay_names()} | {name for name in names if name.endswith(".bias")}
    governing = {next((k for k, rule in enumerate(rules) if rule.matches(name)), None) for name in names}
    rules = [rule for k, rule in enumerate(rules) if k in governing]
    return ParameterPolicy(rules=tuple(rules), no_decay=frozenset(no_decay))


def build_optimizer(module: nn.Module, rows: Sequence[ParameterRow], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One group per (lr scale, weight decay, orthogonalised or not); `lr_scale` is kept in the group for the schedule."""
    parameters = dict(module.named_parameters())
    matrices = matrix_names(module) if settings.kind == "muon" else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for row in rows:
        if not row.frozen:
            orthogonal = row.parameter in matrices
            groups.setdefault((row.lr_scale, row.weight_decay, orthogonal), []).append(parameters[row.parameter])
    options = [
        {"params": members, "lr": settings.learning_rate * scale, "lr_scale": scale, "weight_decay": decay, "orthogonal": orthogonal}
        for (scale, decay, orthogonal), members in groups.items()
    ]
    betas = (settings.betas[0], settings.betas[1])
    if settings.kind == "muon":
        return HybridMuon(
            options, learning_rate=settings.learning_rate, betas=betas, epsilon=settings.epsilon, momentum=settings.momentum
        )
    return torch.optim.AdamW(options, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up, then a cosine down to `final_fraction`; a pure function of the step.

    Attributes:
        max_steps: optimizer steps of the run.
        warmup_steps: steps of the warm-up, less than `max_steps`.
        final_fraction: of the peak rate, reached at the last step.

    Example:
        >>> schedule = WarmupCosine(max_steps=100, warmup_steps=10, final_fraction=0.0)
        >>> round(schedule.factor(0), 3), schedule.factor(9), round(schedule.factor(100), 3)
        (0.1, 1.0, 0.0)
    """

    max_steps: int
    warmup_steps: int = 0
    final_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise InputError(f"schedule.max_steps is {self.max_steps}; it must be at least 1")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise InputError(f"schedule.warmup_steps is {self.warmup_steps}; it must be from 0 to max_steps - 1 = {self.max_steps - 1}")
        if not 0 <= self.final_fraction <= 1:
            raise InputError(f"schedule.final_fraction is {self.final_fraction}; it must be from 0 to 1")

    def factor(self, step: int) -> float:
        """Factor on the learning rate of the update that follows `step` finished updates."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def group_table(rows: Iterable[ParameterRow]) -> list[tuple[str, int, float, str]]:
    """Rows by rule: (rule, parameters, lr scale, weight decays or pull towards the start), for printing."""
    table: dict[str, tuple[int, float, set[str]]] = {}
    for row in rows:
        n, _, decays = table.get(row.rule, (0, 0.0, set()))
        decay = f"{row.to_start:g} to start" if row.to_start else f"{row.weight_decay:g}"
        table[row.rule] = (n + row.n_numbers, row.lr_scale, decays | {decay})
    return [(name, n, scale, ", ".join(sorted(decays))) for name, (n, scale, decays) in table.items()]


def _check_method(method: str, freeze_groups: int, layer_decay: float, groups: Sequence[str]) -> None:
    if method not in METHODS:
        raise InputError(f"fine-tuning method {method!r} is not known; use one of: {', '.join(METHODS)}")
    if not 0 <= freeze_groups <= len(groups):
        raise InputError(f"freeze_groups is {freeze_groups}; the backbone has {len(groups)} groups ({', '.join(groups)})")
    if method == "freeze" and freeze_groups == 0:
        raise InputError("method 'freeze' needs freeze_groups of at least 1; with 0 use method 'full'")
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1")


def _learning(name: str, patterns: tuple[str, ...], lr_scale: float, l2_to_start: float) -> ParameterRule:
    """A pull towards the start takes the place of weight decay, a pull towards zero."""
    return ParameterRule(
        name=name, patterns=patterns, lr_scale=lr_scale, weight_decay=0.0 if l2_to_start else None, to_start=l2_to_start
    )


def _lora_rules(potential: nn.Module, lr_scale: float, l2_to_start: float) -> list[ParameterRule]:
    if not lr_scale > 0:
        raise InputError(f"finetune.lora.lr_scale is {lr_scale}; it must be positive")
    up = ParameterRule(name="low-rank updates, up", patterns=(LORA_UP,), lr_scale=lr_scale, weight_decay=0.0, to_start=l2_to_start)
    if not any(up.matches(name) for name, _ in potential.named_parameters()):
        raise InputError("method 'lora' needs low-rank updates in the backbone; call unipot.finetune.lora.inject_lora first")
    return [up, ParameterRule(name="low-rank updates, down", patterns=(LORA_DOWN,), lr_scale=lr_scale, weight_decay=0.0)]


def _head_rules(potential: nn.Module, heads: Sequence[str] | None, head_lr_scale: float, l2_to_start: float) -> list[ParameterRule]:
    names = tuple(potential.heads.names)  # type: ignore[union-attr]
    unknown = [name for name in heads or () if name not in names]
    if unknown:
        raise InputError(f"head {unknown[0]!r} is not in the model; available are: {', '.join(names)}")
    everything = heads is None or set(heads) == set(names)
    learn = names if everything else tuple(heads or ())
    rules = []
    if not everything and learn:
        patterns = tuple(f"heads.heads.{name}.*" for name in learn)
        rules.append(_learning(f"heads {', '.join(learn)}", patterns, head_lr_scale, l2_to_start))
    if everything:
        rules.append(_learning("heads", ("heads.*",), head_lr_scale, l2_to_start))
    else:
        rules.append(ParameterRule(name="other heads", patterns=("heads.*",), lr_scale=0.0))
    return rules


def _property_rules(potential: nn.Module, properties: Sequence[str] | None, lr_scale: float) -> list[ParameterRule]:
    learn = [name for name in getattr(potential, "scalar_properties", {}) if properties is None or name in properties]
    patterns = tuple(f"property_heads.heads.{name}.*" for name in learn)
    others = ParameterRule(name="other property heads", patterns=("property_heads.*",), lr_scale=0.0)
    return [*([_learning(f"property heads {', '.join(learn)}", patterns, lr_scale, 0.0)] if learn else []), others]


def _prefix_patterns(prefix: str) -> tuple[str, ...]:
    return (f"{prefix}*",) if prefix.endswith(".") else (prefix, f"{prefix}.*")
