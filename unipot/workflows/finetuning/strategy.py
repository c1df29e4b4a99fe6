"""Group `finetune`: which parameters move and how far, from the configuration to a parameter policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from unipot.errors import InputError
from unipot.finetune.alignment.new_elements import NewElement, free_rows
from unipot.finetune.lora import LoraReport, LoraSettings, inject_lora, lora_matrices
from unipot.models.potential import Potential
from unipot.training.optim import ParameterPolicy, build_policy
from unipot.workflows.finetuning.schema import FULL, LORA, LoraConfig, StrategyConfig

#: method -> option of the group where it is called otherwise
_GROUP_OPTIONS = {"freeze": "freeze-k", "layerwise": "layer-wise"}
#: methods beside LoRA that do something with the option; the others would ignore it
_USED_BY = {"freeze_groups": ("freeze", "layerwise"), "layer_decay": ("layerwise",)}


def check_strategy(strategy: StrategyConfig, potential: Potential, *, from_scratch: bool) -> None:
    """Refuse options that contradict each other, before any work.

    Raises:
        ValueError: they do, or the options of LoRA do not fit the backbone.
    """
    method = strategy.method
    if from_scratch and (method == LORA or strategy.l2_to_start):
        raise InputError("from_scratch=true trains random weights, so neither finetune=lora nor l2_to_start means anything; leave it out")
    if from_scratch and method != FULL:
        raise InputError(f"from_scratch=true trains every random weight, so finetune with method {method!r} contradicts it; leave it out")
    if strategy.l2_to_start < 0:
        raise InputError(f"finetune.l2_to_start is {strategy.l2_to_start}; it must not be negative")
    if strategy.l2_to_start_heads and not strategy.l2_to_start:
        raise InputError("finetune.l2_to_start_heads is true, but finetune.l2_to_start is 0, so nothing is pulled; set it above 0")
    if strategy.l2_to_start and method == "heads-only" and not strategy.l2_to_start_heads:
        raise InputError("finetune=heads-only freezes the backbone, so l2_to_start pulls nothing; set finetune.l2_to_start_heads=true")
    if method != LORA:
        _refuse_idle(strategy)
        if strategy.lora != LoraConfig():
            raise InputError(f"finetune.lora has options, but the method is {method!r}, which has no low-rank updates; add finetune=lora")
        return
    if strategy.freeze_groups:
        raise InputError(
            f"finetune=lora freezes the whole backbone beside its updates, so freeze_groups={strategy.freeze_groups} contradicts it; "
            "choose the layer groups that get updates with finetune.lora.groups"
        )
    if strategy.layer_decay != 1:
        raise InputError(
            f"finetune=lora has one rate (finetune.lora.lr_scale), so layer_decay={strategy.layer_decay:g} contradicts it; set it to 1"
        )
    lora_matrices(potential.backbone, lora_settings(strategy.lora))


def _refuse_idle(strategy: StrategyConfig) -> None:
    """Refuse an option that the method would ignore."""
    for option, idle in (("freeze_groups", 0), ("layer_decay", 1)):
        value = getattr(strategy, option)
        if value != idle and strategy.method not in _USED_BY[option]:
            raise InputError(
                f"finetune.{option} is {value:g}, but method {strategy.method!r} makes no use of it; set it to {idle}, or choose "
                f"{' or '.join('finetune=' + _GROUP_OPTIONS[method] for method in _USED_BY[option])}"
            )


def lora_settings(config: LoraConfig) -> LoraSettings:
    """Checked numbers.

    Raises:
        ValueError: the rank is missing, or a number is not allowed.
    """
    if config.rank is None:
        raise InputError("finetune.lora.rank is not set; method lora needs one, for example finetune.lora.rank=8")
    alpha = float(config.rank) if config.alpha is None else config.alpha
    return LoraSettings(rank=config.rank, alpha=alpha, patterns=tuple(config.patterns), groups=tuple(config.groups))


def add_updates(strategy: StrategyConfig, potential: Potential, *, seed: int, console: Console) -> LoraReport | None:
    """Low-rank updates where the method asks for them, in place; None for other methods."""
    if strategy.method != LORA:
        return None
    report = inject_lora(potential, lora_settings(strategy.lora), seed=seed)
    console.print(report.sentence(), highlight=False)
    return report


def strategy_policy(
    strategy: StrategyConfig,
    potential: Potential,
    *,
    heads: Sequence[str],
    new_elements: Sequence[NewElement] = (),
    properties: Sequence[str] = (),
) -> ParameterPolicy:
    """The rules of the chosen strategy. Rows of new elements learn even where it freezes their tables; no other row there moves.

    Raises:
        ValueError: see `unipot.training.optim.build_policy`.
    """
    options: dict[str, Any] = {
        "method": strategy.method,
        "freeze_groups": strategy.freeze_groups,
        "layer_decay": strategy.layer_decay,
        "heads": heads,
        "properties": properties,
        "head_lr_scale": strategy.head_lr_scale,
        "lora_lr_scale": strategy.lora.lr_scale,
        "l2_to_start": strategy.l2_to_start,
        "l2_to_start_heads": strategy.l2_to_start_heads,
    }
    policy = build_policy(potential, **options)
    frozen = {row.parameter for row in policy.resolve(potential, weight_decay=0.0) if row.frozen}
    tables = free_rows(potential, new_elements, frozen)
    return build_policy(potential, **options, free_tables=tables) if tables else policy


def strategy_facts(strategy: StrategyConfig, lora: LoraReport | None) -> dict[str, Any]:
    """JSON-able, for the card: the method, and what it has beside its name."""
    facts: dict[str, Any] = {"method": strategy.method}
    if lora is not None:
        facts["lora"] = lora.to_dict()
    if strategy.l2_to_start:
        facts["l2_to_start"] = {"strength": strategy.l2_to_start, "heads": strategy.l2_to_start_heads}
    return facts
