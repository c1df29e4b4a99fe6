"""What `unipot study learning-curve` is asked for, checked before any data is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from unipot.errors import InputError
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.inputs.user_frames import name_of
from unipot.workflows.settings.compose import checked_config, load_config
from unipot.workflows.settings.schema import LabelConfig

#: settings of a run that the study decides
_OURS = ("checkpoint", "data", "name", "run", "n_train", "seed", "test_data", "resume")


@dataclass(kw_only=True)
class TargetConfig:
    """One set of frames to learn from, and what errors are measured on; see `UserDataConfig` for how files are read."""

    data: str = MISSING
    tests: dict[str, str] = field(default_factory=dict)
    level_of_theory: str | None = None
    energy_kind: str | None = None
    labels: list[str] | None = None
    format: str = "auto"
    group_key: str | None = None
    sources: dict[str, LabelConfig] = field(default_factory=dict)
    test_fraction: float | None = None
    n_test: int | None = None


@dataclass(kw_only=True)
class StudyStrategyConfig:
    """How frames are used: settings of `unipot finetune`, and a selection of frames and seeds (null: those of the study)."""

    overrides: list[str] = field(default_factory=list)
    steps: int | None = None
    frames: list[int] | None = None
    seeds: list[int] | None = None

    def words(self) -> list[str]:
        """Settings in the order in which they are given to `unipot finetune`."""
        return [*([] if self.steps is None else [f"schedule.max_steps={self.steps}"]), *self.overrides]


@dataclass(kw_only=True)
class StudyConfig:
    """`unipot study learning-curve`: `targets`, or one of them as `data` and `test_data`.

    `strategies`: label -> list of settings, mapping of `StudyStrategyConfig`, or null.
    """

    checkpoint: str = MISSING
    targets: dict[str, TargetConfig] = field(default_factory=dict)
    data: str | None = None
    test_data: str | None = None
    level_of_theory: str | None = None
    labels: list[str] | None = None
    format: str = "auto"
    group_key: str | None = None
    test_fraction: float = MISSING
    max_test_frames: int = MISSING
    frames: list[int] = MISSING
    seeds: list[int] = MISSING
    strategies: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    overrides: list[str] = field(default_factory=list)
    jobs: int = MISSING
    threads: int = MISSING
    output: str = MISSING
    analyse_only: bool = False


def targets_of(config: StudyConfig) -> dict[str, TargetConfig]:
    """Name -> target, of `targets` or of the short form.

    Raises:
        ValueError: there is none, both forms are used, or a name cannot be that of a folder.
    """
    if config.targets and (config.data or config.test_data):
        raise InputError("targets and data are both given; data and test_data are for a single target, write it under targets instead")
    if not config.targets and not config.data:
        raise InputError("there is no target; add data=<frames> test_data=<frames>, targets=few-shot, or targets.<name>.data=<frames>")
    targets = config.targets
    if not targets:
        tests = {"test": config.test_data} if config.test_data else {}
        targets = {
            name_of(str(config.data)): TargetConfig(
                data=str(config.data),
                tests=tests,
                level_of_theory=config.level_of_theory,
                labels=config.labels,
                format=config.format,
                group_key=config.group_key,
            )
        }
    for name, target in targets.items():
        for text in (name, *target.tests):
            _require_name(text, "target" if text == name else f"test set of targets.{name}")
    return targets


def strategies_of(config: StudyConfig) -> dict[str, StudyStrategyConfig]:
    """Label -> strategy, complete: frames and seeds filled in, every setting known to `unipot finetune`.

    Raises:
        ValueError: there is none, one is malformed, sets what the study decides, or the reference is not among them.
    """
    _check_numbers("frames", config.frames, 2)
    _check_numbers("seeds", config.seeds, 0)
    for name, least in (("jobs", 1), ("threads", 1), ("max_test_frames", 1)):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give at least {least}")
    found = {label: _strategy(label, value, config) for label, value in config.strategies.items() if value is not None}
    if not found:
        raise InputError("there is no strategy; add strategies.<label>.overrides=[...], settings of unipot finetune")
    if config.reference is not None and config.reference not in found:
        raise InputError(
            f"reference is {config.reference!r}, but the strategies are: {', '.join(found)}; name one of them, or reference=null for no "
            "data efficiency"
        )
    return found


def _strategy(label: str, value: Any, config: StudyConfig) -> StudyStrategyConfig:
    _require_name(label, "strategy")
    if not isinstance(value, dict):
        if not isinstance(value, list):
            raise InputError(f"strategies.{label} is {value!r}; give a list of settings of unipot finetune, or {{overrides, steps, ...}}")
        value = {"overrides": value}
    try:
        strategy: StudyStrategyConfig = checked_config(StudyStrategyConfig, value)
        _check_words([*config.overrides, *strategy.words()])
    except ValueError as error:
        raise InputError(f"strategies.{label}: {error}") from error
    strategy.frames = sorted(set(config.frames if strategy.frames is None else strategy.frames))
    strategy.seeds = list(dict.fromkeys(config.seeds if strategy.seeds is None else strategy.seeds))
    _check_numbers(f"strategies.{label}.frames", strategy.frames, 2)
    _check_numbers(f"strategies.{label}.seeds", strategy.seeds, 0)
    return strategy


def _check_words(words: list[str]) -> None:
    for word in words:
        key = word.partition("=")[0]
        if key in _OURS:
            raise InputError(f"{word!r} sets what the study decides for each run; leave {key} out")
    load_config("finetune", FinetuneConfig, ["checkpoint=a", "data=a", *words])


def _check_numbers(name: str, values: list[int], least: int) -> None:
    if not values:
        raise InputError(f"{name} is empty; give numbers from {least}, for example {name}=[{least},{least + 1}]")
    if min(values) < least:
        raise InputError(f"{name} holds {min(values)}; give numbers from {least}")


def _require_name(text: str, what: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise InputError(f"{what} {text!r} names a folder, so it must be letters, digits, - and _, starting with a letter or digit")
