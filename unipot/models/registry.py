"""Backbones by name. A model card names its backbone; only names registered here are ever built, nothing is imported from a card."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from unipot.errors import InputError
from unipot.models.backbone import Backbone
from unipot.nearest import did_you_mean

#: name -> "module:class" for the ones that ship (imported when asked for), or a factory
_BACKBONES: dict[str, str | Callable[..., Backbone]] = {
    "native": "unipot.models.native.backbone:NativeBackbone",
    "escn-md": "unipot.models.fairchem:EscnMdBackbone",
}


def backbone_names() -> tuple[str, ...]:
    return tuple(_BACKBONES)


def register_backbone(name: str, factory: Callable[..., Backbone]) -> None:
    """Make `build_backbone(name, …)` call `factory(**hyperparameters)`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _BACKBONES:
        raise InputError(f"a backbone called {name!r} is registered already; choose another name")
    _BACKBONES[name] = factory


def build_backbone(name: str, hyperparameters: dict[str, Any]) -> Backbone:
    """A backbone with fresh weights.

    Raises:
        ValueError: the name or a hyperparameter is unknown (the closest known one is named).
    """
    if name not in _BACKBONES:
        raise InputError(f"backbone {name!r} is not known{did_you_mean(name, _BACKBONES)}; known are: {', '.join(_BACKBONES)}")
    factory = _BACKBONES[name]
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = _BACKBONES[name] = getattr(import_module(module), attribute)
    allowed = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in allowed.values()):
        for key in hyperparameters:
            if key not in allowed:
                raise InputError(
                    f"backbone {name!r} has no hyperparameter {key!r}{did_you_mean(key, allowed)}; it takes: {', '.join(allowed)}"
                )
    return factory(**hyperparameters)

