"""Recipes: folders `data_recipes/<name>/` with `recipe.py`, which makes structures, and `card.yaml`, which describes them.

Recipes that differ in a few values share one `recipe.py`: the cards of the others name it as their `program`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from unipot.data.catalog.cards import RawFile, load_card, raw_files
from unipot.data.labels import SkippedItem
from unipot.errors import InputError
from unipot.nearest import did_you_mean
from unipot.structure import Structure

#: arguments of `parts` and `structures` that are not options
_RAW_ARGUMENTS = ("raw", "part")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A dataset and the code that reads or makes it, in canonical units.

    A recipe either makes its structures (`structures(**options)`) or reads raw files: `parts(raw, **options)` names the
    units of work and `structures(raw, part, **options)` streams one of them.

    Attributes:
        name: of its folder.
        folder: with `card.yaml` and the sample.
        program: the `recipe.py` that makes the structures, in `folder` or that of another recipe.
        fixed_options: options of the program whose values make this dataset; nobody chooses them.
        level_of_theory: of its labels.
        energy_kind: `total`, `adsorption` or `formation`.
        labels: properties its structures may carry.
        card: contents of `card.yaml`.
        sources: raw files of the card.
        make: the recipe's `structures` function.
        list_parts: the recipe's `parts` function; None when it reads no files.
    """

    name: str
    folder: Path
    program: Path
    fixed_options: Mapping[str, Any]
    level_of_theory: str
    energy_kind: str
    labels: tuple[str, ...]
    card: dict[str, Any]
    sources: tuple[RawFile, ...]
    make: Callable[..., Iterator[Structure | SkippedItem]]
    list_parts: Callable[..., list[str]] | None = None

    @property
    def reads_files(self) -> bool:
        return self.list_parts is not None

    @property
    def digest(self) -> str:
        """Hash of the program and its fixed options; another one may give other structures."""
        fixed = json.dumps(self.fixed_options, sort_keys=True) if self.fixed_options else ""
        return hashlib.sha256(self.program.read_bytes() + fixed.encode()).hexdigest()

    def parts(self, raw: Path, **options: Any) -> list[str]:
        """Names of the units of work, in a fixed order; one without a name for a recipe that reads no files.

        Raises:
            ValueError: an option is unknown, there are no parts, or one appears twice.
        """
        self.check_options(options)
        if self.list_parts is None:
            return [""]
        parts = list(self.list_parts(raw, **_accepted(self.list_parts, {**self.fixed_options, **options})))
        if not parts:
            raise InputError(f"recipe {self.name!r} finds nothing to read in {raw}; put the files of its card there")
        twice = sorted({part for part in parts if parts.count(part) > 1}) if len(set(parts)) < len(parts) else []
        if twice:
            raise InputError(f"recipe {self.name!r}: the part {twice[0]!r} appears twice; parts() must name each unit of work once")
        return parts

    def structures(self, raw: Path | None = None, part: str = "", **options: Any) -> Iterator[Structure | SkippedItem]:
        """Stream the structures, of one part where the recipe reads files.

        Raises:
            ValueError: the recipe has no option of that name.
        """
        self.check_options(options)
        if self.reads_files:
            return iter(self.make(raw, part, **_accepted(self.make, {**self.fixed_options, **options})))
        return iter(self.make(**self.fixed_options, **options))

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the recipe does not have.

        Raises:
            ValueError: the closest name is given.
        """
        allowed = list(self.option_defaults())
        for option in options:
            if option not in allowed:
                hint = did_you_mean(option, allowed)
                raise InputError(f"recipe {self.name!r} has no option {option!r}{hint}; it has: {', '.join(allowed) or 'none'}")

    def option_defaults(self) -> dict[str, Any]:
        """Option -> default, as the signatures of `parts` and `structures` say, without those that the card fixes."""
        return {name: default for name, default in self.program_options().items() if name not in self.fixed_options}

    def program_options(self) -> dict[str, Any]:
        """Option -> default, of all that the program has."""
        found: dict[str, Any] = {}
        for function in (self.list_parts, self.make):
            if function is not None:
                found |= {name: p.default for name, p in inspect.signature(function).parameters.items() if p.kind != p.VAR_KEYWORD}
        return {name: default for name, default in found.items() if not (self.reads_files and name in _RAW_ARGUMENTS)}

    def level_for(self, options: Mapping[str, Any]) -> str:
        """Level of theory of the labels that these options choose; `levels_of_theory` of the card says where it is another one."""
        values = {**self.option_defaults(), **options}
        chosen = [levels[values[option]] for option, levels in self.card.get("levels_of_theory", {}).items() if values[option] in levels]
        return chosen[0] if chosen else self.level_of_theory

    def needed_files(self, options: Mapping[str, Any]) -> list[RawFile]:
        """Raw files that a conversion with these options reads."""
        values = {**self.option_defaults(), **options}
        return [source for source in self.sources if source.needed_for(values)]

    def n_structures(self, options: Mapping[str, Any]) -> int | None:
        """How many structures to expect, where the recipe has an option `n_frames`; for progress bars."""
        value = {**self.option_defaults(), **options}.get("n_frames")
        return value if isinstance(value, int) else None


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in `folder`: of folders with a program or a card."""
    names = {path.parent.name for file in ("recipe.py", "card.yaml") for path in folder.glob(f"*/{file}")}
    return sorted(name for name in names if not name.startswith("_"))


def load_recipe(folder: Path, name: str) -> Recipe:
    """The recipe `name` of `folder`; a `name` with a '/' is the path of a recipe's own folder.

    Raises:
        FileNotFoundError: the recipe has no card.
        ValueError: there is no such recipe, its card does not follow the schema or names a program that is none, or card and code
            disagree.
    """
    if "/" in name:
        folder, name = Path(name).parent, Path(name).name
    names = recipe_names(folder)
    if name not in names:
        raise InputError(f"recipe {name!r} is not known{did_you_mean(name, names)}; recipes are: {', '.join(names) or f'none in {folder}'}")
    card = load_card(folder / name / "card.yaml")
    file = _program(folder, name, card.get("program"))
    module = _module(file, name)
    if card["name"] != name:
        raise InputError(f"{folder / name / 'card.yaml'}: name is {card['name']!r} but the folder is {name!r}; make them equal")
    for attribute, key in (("LEVEL_OF_THEORY", card["level_of_theory"]), ("LABELS", tuple(card["properties"]))):
        stated = getattr(module, attribute, key)
        if (tuple(stated) if attribute == "LABELS" else stated) != key:
            raise InputError(f"{file}: {attribute} is {stated!r} but the card says {key!r}; make them equal")
    recipe = Recipe(
        name=name,
        folder=folder / name,
        program=file,
        fixed_options=card.get("fixed_options", {}),
        level_of_theory=card["level_of_theory"],
        energy_kind=card["energy_kind"],
        labels=tuple(card["properties"]),
        card=card,
        sources=raw_files(card),
        make=_function(module, "structures", file),
        list_parts=_function(module, "parts", file) if hasattr(module, "parts") else None,
    )
    _check_fixed_options(recipe)
    _check_sources(recipe)
    return recipe


def _program(folder: Path, name: str, other: str | None) -> Path:
    """The `recipe.py` of the recipe `name`: its own, or that of the recipe `other`, which its card names.

    Raises:
        ValueError: it has none, or both, or `other` has none of its own.
    """
    own, card = folder / name / "recipe.py", folder / name / "card.yaml"
    if other is None:
        if not own.is_file():
            raise InputError(f"{own} is missing; write it, or name under program in {card} the recipe whose recipe.py makes the structures")
        return own
    if own.is_file():
        raise InputError(f"{card}: program is {other!r} but {own} is there too; remove one of them")
    names = recipe_names(folder)
    with_program = [each for each in names if (folder / each / "recipe.py").is_file()]
    if other not in with_program:
        problem = "has no recipe.py of its own" if other in names else f"is no recipe of {folder}"
        hint, known = did_you_mean(other, with_program), ", ".join(with_program) or "none is there"
        raise InputError(f"{card}: program is {other!r}, which {problem}{hint}; name one that has it: {known}")
    return folder / other / "recipe.py"


def _check_fixed_options(recipe: Recipe) -> None:
    options = recipe.program_options()
    for option in recipe.fixed_options:
        if option not in options:
            hint, known = did_you_mean(option, options), ", ".join(options) or "none"
            raise InputError(f"{recipe.folder / 'card.yaml'}: fixed_options names {option!r}{hint}; {recipe.program} has: {known}")


def _check_sources(recipe: Recipe) -> None:
    file = recipe.folder / "card.yaml"
    if recipe.sources and not recipe.reads_files:
        raise InputError(f"{file}: sources lists files but recipe.py has no parts(raw, **options); add it, or set sources: []")
    options = recipe.option_defaults()
    named = [(f"when of {source.file!r}", option) for source in recipe.sources for option in source.when]
    for where, option in [*named, *(("levels_of_theory", option) for option in recipe.card.get("levels_of_theory", {}))]:
        if option not in options:
            known = ", ".join(options) or "none"
            raise InputError(f"{file}: {where} names the option {option!r}; recipe.py has: {known}")


def _function(module: ModuleType, name: str, file: Path) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{file} has no function {name}; data_recipes/_template/recipe.py shows what a recipe is made of")
    return function


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that the function takes: `parts` may need fewer than `structures`."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def _module(file: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(f"unipot_recipe_{name}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
