"""From `conf/`, a user's file and the command line, or settings in Python, to one checked configuration object.

Precedence, lowest first: `conf/<verb>.yaml` with its groups, the file given as `config=my.yaml`, the command line (or Python's settings).
In a user's file a group may be named as on the command line (`backbone: native-small`) or spelled out as a mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unipot.errors import InputError
from unipot.nearest import did_you_mean
from unipot.resources import conf_dir
from unipot.yaml_files import read_yaml_text

#: name of the file in a run folder that holds everything the run was made of
RESOLVED_CONFIG = "resolved_config.yaml"
#: commands that `unipot.api` has as functions
_IN_PYTHON = ("prepare", "pretrain", "finetune", "evaluate", "relax", "md")


def load_config(verb: str, schema: type, overrides: Sequence[str]) -> Any:
    """An instance of `schema`, complete and with known keys only.

    Args:
        verb: name of the file in `conf/`.
        schema: dataclass from `unipot.workflows.settings.schema` or a workflow's module.
        overrides: Hydra overrides (`key.path=value`, `group=option`), and `config=my.yaml`.

    Raises:
        ValueError: a key, group or option is unknown (the closest one is named), a value has the wrong type, or a
            mandatory value is missing.
        FileNotFoundError: the user's file or the run folder to resume is not there.
    """
    choices, values, file = _parsed(overrides, groups_for(schema))
    return _complete(verb, schema, choices, values, file)


def config_from(verb: str, schema: type, *settings: Mapping[str, Any]) -> Any:
    """What `load_config` makes of the same settings on the command line, here as Python values.

    Args:
        verb: name of the file in `conf/`.
        schema: as for `load_config`.
        *settings: name -> value. A name may be dotted (`schedule.max_steps`); a mapping sets the values of a section; a text for a
            group chooses its option; `config` is the path of a YAML file. Of two values for one setting the later one counts.

    Raises:
        ValueError: as `load_config`, or a value is nothing that a configuration holds.
        FileNotFoundError: the user's file or the run folder to resume is not there.
    """
    choices, values, file = _taken(settings, groups_for(schema))
    return _complete(verb, schema, choices, values, file, how=_in_python)


def require_complete(config: Any, verb: str) -> None:
    """Refuse a configuration that was made by hand out of its dataclass: numbers live in `conf/`, so it lacks most of them.

    Raises:
        ValueError: mandatory values are not set; says how the defaults are had.
    """
    missing = _unset(config)
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        instead = (
            f"call unipot.api.{verb}(...), which takes the same settings and has"
            if verb in _IN_PYTHON
            else "run the command, which has"
        )
        raise InputError(
            f"{type(config).__name__}: {names} not set, since the class itself has no defaults; {instead} the defaults of `unipot {verb}`"
        )


def _complete(
    verb: str, schema: type, choices: list[str], values: dict[str, Any], file: str | None, how: Callable[[str], str] | None = None
) -> Any:
    """The configuration of these group choices, values and user's file; `how` says how a missing one is given."""
    groups = groups_for(schema)
    file_choices: list[str] = []
    resumed = _resumed(values, schema)
    if resumed is not None:
        if choices:
            raise InputError(f"{choices[0]!r} chooses a group, but a resumed run keeps its configuration; override single values instead")
        base: Any = resumed
        from_file: dict[str, Any] = {}
    else:
        file_choices, from_file = _user_file(file, groups)
        base = _composed(verb, file_choices + choices)
    stated = _stated(schema, [*file_choices, *choices], from_file, values)
    added = {"stated": sorted({*base.get("stated", []), *stated})} if stated else {}
    return checked_config(schema, base, added, from_file, values, how=how or _on_command_line)


def _on_command_line(key: str) -> str:
    return f"add {key}=... to the command line or your configuration file"


def _in_python(key: str) -> str:
    return f"give {key}=..." if "." not in key else f"give settings={{{key!r}: ...}}"


def checked_config(schema: type, *layers: Any, how: Callable[[str], str] = _on_command_line) -> Any:
    """Merge `layers` onto `schema` and return its instance; see `load_config` for the errors, `how` says how a missing value is given."""
    # plain containers: Hydra's are in struct mode, which would refuse names of new datasets
    plain = [OmegaConf.to_container(layer, resolve=False) if isinstance(layer, DictConfig) else layer for layer in layers]
    for layer in plain:
        _refuse_unknown(layer, schema, "")
    for number, layer in enumerate(plain[1:], start=1):
        plain[:number] = [_without_replaced(earlier, layer) for earlier in plain[:number]]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), *plain)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"{missing[0]} is not set; {how(missing[0])}")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None)
        sentence = str(error.msg if hasattr(error, "msg") and error.msg else error).split("\n")[0]
        raise InputError(f"configuration {where or ''}: {sentence}".replace(" :", ":")) from error


def to_yaml(config: Any) -> str:
    """`config`, an instance of a schema, as YAML that `load_config` accepts."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        ValueError: it is not UTF-8, not YAML, or holds something else; or more than what a file written by hand may hold, aliases
            written out.
    """
    import yaml

    text = read_yaml_text(path)
    try:
        content = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values at the top, found {type(content).__name__}")
    return content  # type: ignore[return-value]


def group_names() -> list[str]:
    """Names of the configuration groups."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir())


def groups_for(schema: type) -> list[str]:
    """Groups that a command has: all but those that share their name with one of its own plain settings."""
    kinds = get_type_hints(schema)
    return [name for name in group_names() if name not in kinds or _takes_keys(kinds[name])]


def options_of(group: str) -> list[str]:
    """Options of a group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _parsed(overrides: Sequence[str], groups: Sequence[str]) -> tuple[list[str], dict[str, Any], str | None]:
    """Group choices (as Hydra overrides), values (nested), and the user's file."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices, values, file = [], OmegaConf.create(), None
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if override.is_sweep_override():  # not done here, so that a comma is part of the text
                override = parser.parse_override(_as_plain_text(text))
        except HydraException:
            try:
                override = parser.parse_override(_as_plain_text(text))
            except HydraException as error:
                raise InputError(f"cannot read {text!r}; write key=value, and quotes inside a value as in 'key=\"a b\"'") from error
        if override.is_delete() or override.is_sweep_override():
            raise InputError(f"{text!r} deletes or sweeps, which unipot does not do; give one value: key=value")
        key, value = override.key_or_group, override.value()
        if key == "config":
            file = str(value)
        elif key in groups and not isinstance(value, dict):
            choices.append(_choice(key, value, override.package))
        else:
            OmegaConf.update(values, key, value, merge=True, force_add=True)
    return choices, OmegaConf.to_container(values), file  # type: ignore[return-value]


def _taken(settings: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> tuple[list[str], dict[str, Any], str | None]:
    """As `_parsed`, of Python values."""
    choices, values, file = [], OmegaConf.create(), None
    for name, value in (pair for mapping in settings for pair in _items(mapping)):
        value = _plain(value, str(name))
        group, _, package = str(name).partition("@")
        if name == "config":
            file = None if value is None else str(value)
        elif group in groups and not isinstance(value, dict):
            choices.append(_choice(group, value, package or None))
        else:
            try:
                OmegaConf.update(values, str(name), value, merge=True, force_add=True)
            except OmegaConfBaseException as error:
                raise InputError(f"cannot read {name}={value!r}: {str(error).splitlines()[0]}") from error
    return choices, OmegaConf.to_container(values), file  # type: ignore[return-value]


def _items(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if not isinstance(settings, Mapping):
        raise InputError(f"settings are given as {settings!r}; give a mapping, as settings={{'schedule.max_steps': 100}}")
    return list(settings.items())


def _plain(value: Any, name: str) -> Any:
    """`value` as YAML could hold it: paths as text, numbers of numpy as Python's, tuples as lists."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    kind = type(value).__name__
    raise InputError(
        f"{name} is given an object of type {kind}; settings are texts, numbers, lists and mappings, and data are paths of files"
    )


def _as_plain_text(text: str) -> str:
    """`level_of_theory=PBE, VASP (520 eV)` or `unit=eV/A^3` with its value in quotes; lists, mappings and quoted values stay."""
    key, sign, value = text.partition("=")
    plain = value and value[0] not in "[{\"'" and '"' not in value
    return f'{key}{sign}"{value}"' if plain else text


def _choice(group: str, option: Any, package: str | None = None) -> str:
    """A Hydra override; with a package (`dataset@datasets.mine=extxyz`) the option is added there."""
    if isinstance(option, bool) and "on" in options_of(group):
        option = "on" if option else "off"  # what YAML makes of these words
    if option is not None and str(option) not in options_of(group):
        hint = did_you_mean(str(option), options_of(group))
        raise InputError(f"{group}={option} is not known{hint}; options are: {', '.join(options_of(group))}")
    where = f"+{group}@{package}" if package else group
    return f"{where}={'null' if option is None else option}"


def _composed(verb: str, choices: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            return compose(config_name=verb, overrides=list(choices))
    except (HydraException, ValueError) as error:  # a group that is set to nothing is a ValueError
        raise InputError(f"unipot {verb}: {str(error).splitlines()[0]}") from error


def _user_file(file: str | None, groups: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    if file is None:
        return [], {}
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {file!r} is not there; give the path of a YAML file")
    content = read_yaml(path)
    chosen = {k: v for k, v in content.items() if k in groups and not isinstance(v, dict)}
    return [_choice(str(k), v) for k, v in chosen.items()], {str(k): v for k, v in content.items() if k not in chosen}


def _resumed(values: dict[str, Any], schema: type) -> DictConfig | None:
    """The resolved configuration of the run folder named by `resume=`, if it names one; it must fit `schema`."""
    resume = values.get("resume")
    if resume is None or resume in ("auto", "never", "fresh"):
        return None
    path = Path(str(resume)) / RESOLVED_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"resume={resume}: {path} is not there; give a run folder, or resume=auto, never or fresh")
    try:
        content = read_yaml(path)
        checked_config(schema, content)
    except ValueError as error:
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise InputError(f"{text}; give the whole command line of the run instead, with run={resume}") from error
    config = OmegaConf.create(content)
    config["run"] = str(resume)
    config["resume"] = values["resume"] = "auto"
    return config


def _without_replaced(earlier: Any, later: Any) -> Any:
    """`earlier` without the mappings that are lists in `later`: OmegaConf would not replace one by the other."""
    if not isinstance(earlier, Mapping) or not isinstance(later, Mapping):
        return earlier
    kept = {k: v for k, v in earlier.items() if not (isinstance(v, Mapping) and isinstance(later.get(k), list))}
    return {k: _without_replaced(v, later.get(k)) for k, v in kept.items()}


def _refuse_unknown(value: Any, annotation: Any, where: str) -> None:
    """Raise for the first key of `value` that the schema does not have."""
    if not isinstance(value, Mapping):
        return
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        names = [f.name for f in fields(annotation)]
        for key, item in value.items():
            if key not in names:
                place = f" in {where!r}" if where else ""
                hint = did_you_mean(str(key), names)
                raise InputError(f"option {_join(where, key)!r} is not known{hint}; options{place} are: {', '.join(names)}")
            if isinstance(item, Mapping) and not _takes_keys(hints[key]):
                here = _join(_join(where, key), next(iter(item), "..."))
                instead = "; keys and units of labels go into sources.<label>='{key: ..., unit: ...}'" if "sources" in names else ""
                raise InputError(f"option {here!r} is not known: {_join(where, key)!r} has no options of its own{instead}")
            if isinstance(item, str | int | float) and item != MISSING and _takes_lists_only(hints[key]):
                raise InputError(f"option {_join(where, key)!r} takes a list, here it is {item!r}; write '{_join(where, key)}=[{item}]'")
            _refuse_unknown(item, hints[key], _join(where, key))
    elif get_origin(annotation) is dict:
        for key, item in value.items():
            _refuse_unknown(item, get_args(annotation)[1], _join(where, key))


def _takes_keys(annotation: Any) -> bool:
    """Whether a value of this type may be a mapping."""
    return any(kind is Any or is_dataclass(kind) or (get_origin(kind) or kind) is dict for kind in _kinds(annotation))


def _takes_lists_only(annotation: Any) -> bool:
    """Whether a value of this type is a list or null."""
    return all((get_origin(kind) or kind) is list for kind in _kinds(annotation) if kind is not NoneType)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _unset(value: Any, where: str = "") -> list[str]:
    """Dotted names of the mandatory fields of a dataclass instance that have no value."""
    if isinstance(value, str) and value == MISSING:
        return [where]
    if is_dataclass(value):
        return [name for f in fields(value) for name in _unset(getattr(value, f.name), _join(where, f.name))]
    if isinstance(value, Mapping):
        return [name for key, item in value.items() for name in _unset(item, _join(where, key))]
    return []


def _stated(schema: type, choices: Sequence[str], *layers: Mapping[str, Any]) -> list[str]:
    """Groups and keys that the user stated, of the sections that field `stated` of the schema names; none without that field."""
    sections = next((f.metadata["sections"] for f in fields(schema) if f.name == "stated"), ())
    keys = [choice.partition("=")[0] for choice in choices] + [key for layer in layers for key in _leaves(layer)]
    return [key for key in keys if key.partition(".")[0] in sections]


def _leaves(value: Mapping[str, Any], where: str = "") -> list[str]:
    """Dotted names of everything in nested mappings that is not a mapping."""
    found = []
    for key, item in value.items():
        found += _leaves(item, _join(where, key)) if isinstance(item, Mapping) else [_join(where, key)]
    return found


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)

