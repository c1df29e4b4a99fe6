"""Write docs/configuration.md: every setting of every command and group, with type, default and meaning.

    python scripts/write_configuration_reference.py           # writes the page
    python scripts/write_configuration_reference.py --check   # ends with 1 where the page is not what would be written

Types come from the configuration dataclasses, defaults and meanings from the YAML files in `conf/`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_origin

import yaml
from configuration_comments import Commented, Setting
from configuration_schema import (
    Known,
    document,
    find,
    group_meanings,
    group_schemas,
    known_fields,
    meanings,
    reachable,
    schema_of,
    shown_value,
    type_words,
)
from omegaconf import MISSING

from unipot.cli import VERBS
from unipot.workflows.settings.compose import groups_for, options_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_INTRODUCTION = """# Configuration

<!-- Written by scripts/write_configuration_reference.py from the dataclasses and conf/. Do not edit; edit the comments in conf/. -->

Every command has settings. You can give them in three places. A later place wins over an earlier one:

1. The defaults, listed below. They lie in `conf/`: one YAML file a command, one folder a group.
2. Your own YAML file: `config=my.yaml`.
3. The command line: `key.path=value`, for example `schedule.max_steps=2000`.

A **group** is a prepared block of settings. You choose one with `group=option`, for example `trainer=gpu`. You can change single values of
it as well: `trainer=gpu trainer.devices=4`.

How to read the tables:

* **must be given** marks a setting without a default.
* `null` means "not set".
* An unknown key, group or option is refused. The message names the closest known one.

How to write values:

* Lists: `labels=[energy,forces]`. Mappings: `'sources.energy={key: REF_energy, unit: eV}'`, in quotes because of the spaces.
* Text with spaces or commas: `level_of_theory='PBE, VASP'`. Text that ends up inside a list or mapping needs quotes of its own.
"""


def page() -> str:
    """The whole page."""
    known = meanings()
    parts = [_INTRODUCTION, "## Commands\n"]
    parts += [_command(verb, known) for verb in VERBS]
    parts += ["## Groups\n"]
    parts += [_group(group, known) for group in group_schemas()]
    parts += ["## Entries that you name\n", "These settings belong to entries of mappings and lists in the tables above.\n"]
    parts += [_entry(kind, places, known) for kind, places in _entries().items()]
    return "\n".join(parts).rstrip() + "\n"


def rows(schema: type, file: Commented, known: Mapping[tuple[type, str], str], groups: Iterable[str] = ()) -> Iterator[tuple[str, ...]]:
    """Setting, type, default and meaning of every field of a schema, sections opened.

    Args:
        schema: dataclass of the command or group.
        file: its YAML file.
        known: meanings by class and field, for what the file itself does not say.
        groups: sections that are groups: one row each, since their settings have tables of their own.
    """
    yield from _rows(schema, (), {s.path: s for s in file.settings if not s.template}, known, tuple(groups))


def _rows(
    schema: type,
    where: tuple[str, ...],
    settings: Mapping[tuple[str, ...], Setting],
    known: Mapping[tuple[type, str], str],
    groups: tuple[str, ...],
) -> Iterator[tuple[str, ...]]:
    order = [path[len(where)] for path in settings if path[: len(where)] == where and len(path) > len(where)]
    for field in sorted(known_fields(schema), key=lambda f: order.index(f.name) if f.name in order else len(order)):
        path = (*where, field.name)
        setting = settings.get(path)
        meaning = (setting.meaning if setting else "") or known.get((field.owner, field.name), "")
        if field.name in groups and not where:
            option = settings[("defaults", field.name)].value
            yield ".".join(path), "group", option, f"{known.get((field.owner, field.name), '')} ([options](#{field.name}))"
        elif field.section:
            yield ".".join(path), "settings", "", meaning
            yield from _rows(field.section, path, settings, known, groups)
        else:
            inside = [s for p, s in settings.items() if p[:-1] == path]
            opened = type_words(field.kind) == "mapping" and field.entry is None and any(s.meaning for s in inside)
            yield ".".join(path), type_words(field.kind), "" if opened else _default(field, setting, inside), meaning + _link(field)
            if opened:
                yield from ((".".join(s.path), _kind_of(s), _nested(s, settings), s.meaning) for s in inside)


def _default(field: Known, setting: Setting | None, inside: list[Setting]) -> str:
    if setting is not None and not setting.value and inside:
        return "{" + ", ".join(f"{s.path[-1]}: {s.value or '...'}" for s in inside) + "}"
    return shown_value(setting, field)


def _kind_of(setting: Setting) -> str:
    """Type of a setting that the schema does not know, told by its default."""
    value = yaml.safe_load(setting.value or "{}")
    return type_words(dict[str, str] if isinstance(value, dict) else str if value in (None, MISSING) else type(value))


def _nested(setting: Setting, settings: Mapping[tuple[str, ...], Setting]) -> str:
    """The value of a setting inside a free mapping, on one line."""
    inside = [s for path, s in settings.items() if path[:-1] == setting.path]
    return "{" + ", ".join(f"{s.path[-1]}: {s.value}" for s in inside) + "}" if inside else shown_value(setting, None)


def _link(field: Known) -> str:
    return f" ([settings of an entry](#{_anchor(field.entry)}))" if field.entry else ""


def _command(verb: str, known: Mapping[tuple[type, str], str]) -> str:
    schema, file = schema_of(verb), document(verb)
    sections = {path[1] for path in (s.path for s in file.settings) if path[0] == "defaults" and len(path) == 2}
    table = list(rows(schema, file, known, sections))
    table += [_choice(name, file) for name in groups_for(schema) if name in sections and name not in {row[0] for row in table}]
    others = [s for s in file.settings if s.path[0] in sections and len(s.path) > 1 and s.value and not s.template]
    text = f"### unipot {verb}\n\n{_sentence(VERBS[verb].summary)}\n\n```\n{VERBS[verb].example}\n```\n\n{_table(table)}\n"
    if others:
        changed = [(".".join(s.path), shown_value(s, None), s.meaning or _meaning(schema, s.path, known)) for s in others]
        text += f"\n`unipot {verb}` has defaults of its own for these settings of its groups:\n\n"
        text += _table(changed, ("setting", "default here", "meaning, unit, range")) + "\n"
    return text


def _meaning(schema: type, path: tuple[str, ...], known: Mapping[tuple[type, str], str]) -> str:
    field = find(schema, path)
    return "" if field is None else known.get((field.owner, field.name), "")


def _choice(group: str, file: Commented) -> tuple[str, ...]:
    """The row of a group whose options set values all over the command."""
    setting = next(s for s in file.settings if s.path == ("defaults", group))
    return group, "group", setting.value, f"{setting.meaning or group_meanings()[group]} ([options](#{group}))"


def _group(group: str, known: Mapping[tuple[type, str], str]) -> str:
    schema, entry = group_schemas()[group]
    parts = [f"### {group}\n"]
    for option in options_of(group):
        file = document(group, option)
        parts.append(f"#### {group}={option}\n")
        parts += [_sentence(file.header) + "\n"] if file.header else []
        partial = group in ("dataset", "experiment", "preset", "targets") or any(s.path == ("defaults",) for s in file.settings)
        parts.append((_changes(file, entry) if partial else _table(rows(schema, file, known))) + "\n")
    return "\n".join(parts)


def _changes(file: Commented, entry: type | None) -> str:
    """The settings that a file states, entries of mappings on one line each."""
    table = []
    settings = {s.path: s for s in file.settings}
    for path, setting in settings.items():
        if path[0] == "defaults":
            if len(path) == 2:
                table.append((path[1], setting.value, setting.meaning))
        elif len(path) == (1 if entry else 2) and (entry or path[0] == "datasets"):
            table.append((".".join(path), _flow(path, settings), setting.meaning))
        elif setting.value and not entry and path[0] != "datasets":
            table.append((".".join(path), shown_value(setting, None), setting.meaning))
    if not any(row[2] for row in table):
        return _table((row[:2] for row in table), ("setting", "value"))
    return _table(table, ("setting", "value", "remark"))


def _flow(path: tuple[str, ...], settings: Mapping[tuple[str, ...], Setting]) -> str:
    """Everything below `path` on one line."""
    if settings[path].value:
        return settings[path].value
    inside = [p for p in settings if p[:-1] == path]
    return "{" + ", ".join(f"{p[-1]}: {_flow(p, settings)}" for p in inside) + "}"


def _entries() -> dict[type, list[str]]:
    """Dataclasses of entries, with the paths where they are used."""
    found: dict[type, list[str]] = {}
    for verb in VERBS:
        for schema in reachable(schema_of(verb)):
            for field in known_fields(schema):
                if field.entry:
                    place = field.name if get_origin(field.kind) is list else f"{field.name}.<name>"
                    places = found.setdefault(field.entry, [])
                    places += [place] if place not in places else []
    return found


def _entry(kind: type, places: list[str], known: Mapping[tuple[type, str], str]) -> str:
    files = [document(verb) for verb in VERBS] + [document(g, o) for g in group_schemas() for o in options_of(g)]
    templates = {s.path[-1]: s for file in reversed(files) for s in file.settings if s.template and _is_of(s, places)}
    table = []
    for field in sorted(known_fields(kind), key=lambda f: f.owner is not kind):
        setting = templates.get(field.name)
        meaning = (setting.meaning if setting else "") or known.get((field.owner, field.name), "")
        table.append((field.name, type_words(field.kind), shown_value(setting, field), meaning + _link(field)))
    where = ", ".join(f"`{place}`" for place in places)
    return f"### {_title(kind)}\n\nSettings of {where}.\n\n{_table(table)}\n"


def _is_of(setting: Setting, places: list[str]) -> bool:
    parents = [".".join(path) for path in (setting.path[:-1], (*setting.path[-3:-2], "<name>"))]
    return len(setting.path) > 1 and any(place.partition(".")[0] == parent.partition(".")[0] for place in places for parent in parents)


def _title(kind: type) -> str:
    """`FurtherSetConfig` as `Further set`."""
    name = kind.__name__.removesuffix("Config")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip().capitalize()


def _anchor(kind: type) -> str:
    return _title(kind).lower().replace(" ", "-")


def _table(table: Iterable[tuple[str, ...]], titles: tuple[str, ...] = ("setting", "type", "default", "meaning, unit, range")) -> str:
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in table:
        first, *middle, last = row
        if len(titles) == 2:
            cells = [f"`{first}`", _code(last)]
        else:
            cells = [f"`{first}`", *middle[:-1], _code(middle[-1]), last.replace("|", "\\|").replace("<", "&lt;")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(value: str) -> str:
    if value == "???":
        return "**must be given**"
    return f"`{value}`".replace("|", "\\|") if value else ""


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:] if not text.startswith("unipot") else text
    return text.rstrip(".").replace("<", "&lt;") + "."


def main() -> int:
    """Write the page, or with `--check` compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE}: {'up to date' if same else 'not up to date; run python scripts/write_configuration_reference.py'}")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
