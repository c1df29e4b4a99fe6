"""Recipes: folders `data_recipes/<name>/` with `recipe.py`, which makes structures, and `card.yaml`, which describes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from unipot.structure import Structure


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A dataset that code makes, in canonical units.

    Attributes:
        name: of its folder.
        level_of_theory: of its labels.
        labels: properties its structures may carry.
        card: contents of `card.yaml`; empty without one.
        make: the recipe's `structures` function.
    """

    name: str
    level_of_theory: str
    labels: tuple[str, ...]
    card: dict[str, Any]
    make: Callable[..., Iterator[Structure]]

    def structures(self, **options: Any) -> Iterator[Structure]:
        """Stream the structures.

        Raises:
            ValueError: the recipe has no option of that name.
        """
        allowed = list(inspect.signature(self.make).parameters)
        for option in options:
            if option not in allowed:
                close = get_close_matches(option, allowed, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise ValueError(f"recipe {self.name!r} has no option {option!r}{hint}; it has: {', '.join(allowed) or 'none'}")
        return iter(self.make(**options))

    def n_structures(self, options: dict[str, Any]) -> int | None:
        """How many structures to expect, where the recipe has an option `n_frames`; for progress bars."""
        parameter = inspect.signature(self.make).parameters.get("n_frames")
        value = options.get("n_frames", parameter.default if parameter else None)
        return value if isinstance(value, int) else None


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in `folder`."""
    return sorted(path.parent.name for path in folder.glob("*/recipe.py") if not path.parent.name.startswith("_"))


def load_recipe(folder: Path, name: str) -> Recipe:
    """The recipe `name` of `folder`.

    Raises:
        ValueError: there is no such recipe, or it does not say its labels and level of theory.
    """
    names = recipe_names(folder)
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"recipe {name!r} is not known{hint}; recipes are: {', '.join(names) or f'none in {folder}'}")
    module = _module(folder / name / "recipe.py", name)
    card = _card(folder / name / "card.yaml")
    labels = getattr(module, "LABELS", None) or tuple(card.get("properties", ()))
    level = getattr(module, "LEVEL_OF_THEORY", None) or card.get("level_of_theory", "")
    if not labels or not level:
        missing = "level_of_theory" if labels else "properties"
        raise ValueError(f"recipe {name!r} does not state its {missing}; add it to {folder / name / 'card.yaml'}")
    return Recipe(name=name, level_of_theory=str(level), labels=tuple(labels), card=card, make=module.structures)


def _module(file: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(f"unipot_recipe_{name}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _card(file: Path) -> dict[str, Any]:
    import yaml

    if not file.exists():
        return {}
    try:
        card = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(card, dict):
        raise ValueError(f"{file}: expected keys and values at the top, found {type(card).__name__}")
    return card
