"""Fields of the configuration dataclasses, met with what the YAML files in `conf/` say of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from configuration_comments import Commented, Setting, read_comments
from omegaconf import MISSING

from unipot.cli import VERBS
from unipot.resources import conf_dir
from unipot.workflows.settings.compose import group_names, options_of
from unipot.workflows.settings.schema import DatasetConfig
from unipot.workflows.studies.config import StudyConfig, StudyStrategyConfig, TargetConfig

#: mappings of which the schema says no more than `Any`, and what their entries are
ENTRIES = {(StudyConfig, "strategies"): StudyStrategyConfig}
#: words of types
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any", NoneType: "null"}


@dataclass(frozen=True)
class Known:
    """A field of a schema. `owner`: the class that defines it, so that what is said of it once holds for all that inherit it."""

    owner: type
    name: str
    kind: Any
    default: Any

    @property
    def section(self) -> type | None:
        """The dataclass of a field that has settings of its own."""
        return self.kind if is_dataclass(self.kind) else None

    @property
    def entry(self) -> type | None:
        """The dataclass of the entries of a field that is a mapping by name, or a list."""
        if (self.owner, self.name) in ENTRIES:
            return ENTRIES[self.owner, self.name]
        kinds = get_args(self.kind)
        return kinds[-1] if kinds and is_dataclass(kinds[-1]) else None


def schema_of(verb: str) -> type:
    """Configuration dataclass of a command."""
    module, _, name = VERBS[verb].schema.partition(":")
    return getattr(import_module(module), name)


@cache
def known_fields(schema: type) -> list[Known]:
    """Fields of a schema in their order."""
    hints = get_type_hints(schema)
    return [Known(_owner(schema, f.name), f.name, hints[f.name], _default(f)) for f in fields(schema)]


def find(schema: type, path: tuple[str, ...]) -> Known | None:
    """The field at `path` (`<...>` stands for a name that the user gives); None where the schema says no more than `Any`."""
    known = next((f for f in known_fields(schema) if f.name == path[0]), None)
    rest = path[1:] if known is None or known.entry is None or get_origin(known.kind) is list else path[2:]
    if known is None or not rest:
        return known if len(path) == 1 else None
    inside = known.section or known.entry
    return None if inside is None else find(inside, rest)


def reachable(schema: type) -> Iterator[type]:
    """`schema` and every dataclass inside it, each once."""
    found = [schema]
    for one in found:
        yield one
        inside = (kind for known in known_fields(one) for kind in (known.section, known.entry) if kind)
        found += [kind for kind in dict.fromkeys(inside) if kind not in found]


@cache
def document(*parts: str) -> Commented:
    """A YAML file of `conf/`, as `document("trainer", "cpu")`."""
    return read_comments(conf_dir().joinpath(*parts[:-1], f"{parts[-1]}.yaml").read_text(encoding="utf-8"))


@cache
def group_schemas() -> dict[str, tuple[type, type | None]]:
    """Group -> schema of its options, and of the entries of an option that is a mapping by name."""
    sections = {f.name: f for verb in VERBS for f in known_fields(schema_of(verb)) if f.section or f.name == "targets"}
    found: dict[str, tuple[type, type | None]] = {"dataset": (DatasetConfig, None), "targets": (StudyConfig, TargetConfig)}
    for group in group_names():
        if group in sections and group not in found:
            found[group] = (sections[group].kind, None)
    return found | {"experiment": (schema_of("pretrain"), None), "preset": (schema_of("finetune"), None)}


@cache
def meanings() -> dict[tuple[type, str], str]:
    """(class, field) -> what the YAML files say of it first: commands, then groups."""
    found: dict[tuple[type, str], str] = {}
    schemas = group_schemas()
    groups = [group for group in schemas if group not in ("experiment", "preset", "targets")]
    sources = [(schema_of(verb), document(verb)) for verb in VERBS]
    sources += [(schemas[group][0], document(group, option)) for group in groups for option in _first(group)]
    for schema, file in sources:
        for setting in file.settings:
            known = find(schema, setting.path) if setting.meaning else None
            if known is not None:
                found.setdefault((known.owner, known.name), setting.meaning)
    groups_said = group_meanings()
    for schema in (schema_of(verb) for verb in VERBS):
        for known in known_fields(schema):
            if known.name in groups_said and (known.section or known.entry):
                found.setdefault((known.owner, known.name), groups_said[known.name])
    return found


def group_meanings() -> dict[str, str]:
    """Group -> what the commands' lists of defaults say of it."""
    found: dict[str, str] = {}
    for verb in VERBS:
        for setting in document(verb).settings:
            if setting.path[0] == "defaults" and len(setting.path) == 2 and setting.meaning:
                found.setdefault(setting.path[1], setting.meaning)
    return found


def type_words(kind: Any) -> str:
    """A type in plain words."""
    if kind in _WORDS:
        return _WORDS[kind]
    if is_dataclass(kind):
        return "settings"
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(type_words(one) for one in inside)
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return f"list of {type_words(inside[0])}".replace("settings", "mappings")
    raise TypeError(f"{kind!r} has no words")


def shown(value: Any) -> str:
    """A value as YAML on one line."""
    if value == MISSING:
        return "???"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).removesuffix("\n...\n").strip()


def shown_value(setting: Setting | None, known: Known | None) -> str:
    """What a YAML file gives for a setting, else the default of its field."""
    if setting is not None and setting.value:
        return shown(yaml.safe_load(setting.value))
    return "" if known is None or known.section else shown(known.default)


def _first(group: str) -> list[str]:
    """Options of a group; those that only change another one say less."""
    return sorted(options_of(group), key=lambda option: any(s.path == ("defaults",) for s in document(group, option).settings))


def _owner(schema: type, name: str) -> type:
    return next(one for one in reversed(schema.__mro__) if name in one.__dict__.get("__annotations__", {}))


def _default(field: Field[Any]) -> Any:
    if field.default is not NO_DEFAULT:
        return field.default
    value = field.default_factory() if field.default_factory is not NO_DEFAULT else MISSING
    return {} if is_dataclass(value) else value
