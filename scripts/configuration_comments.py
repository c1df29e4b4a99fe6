"""Comments of the YAML files in `conf/`, by setting: the one place where the meaning, unit and range of a setting are written.

A comment belongs to a setting when it stands behind it, goes on below in the same column, or stands right above a setting that has
none behind it. A commented block that begins with `# name:` and goes on with `#   <name>:` (or with `#   - key:` for a list) is a
template: it shows the settings of an entry that the user names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_KEY = re.compile(r"^(?P<indent>\s*)(?P<dash>- )?(?:override /)?(?P<key>[A-Za-z0-9_<>-]+):(?:\s+(?P<rest>.*))?$")
_TEMPLATE, _ENTRY = re.compile(r"^# [a-z_]+:$"), re.compile(r"^#\s+(<\w+>:|- )")


@dataclass(frozen=True)
class Setting:
    """One setting as a YAML file writes it. `path`: its keys. `value`: its text, empty for a section. `template`: of a commented block."""

    path: tuple[str, ...]
    value: str
    meaning: str
    template: bool = False


@dataclass(frozen=True)
class Commented:
    """A YAML file: the sentences at its top, and its settings in their order."""

    header: str
    settings: tuple[Setting, ...]


def read_comments(text: str) -> Commented:
    """Header and settings of a YAML file.

    Example:
        >>> read_comments("# what it is for\\nmax_steps: 5  # optimizer steps,\\n              # at least 1").settings[0].meaning
        'optimizer steps, at least 1'
    """
    lines = text.splitlines()
    header = _comments(lines)
    words = " ".join(line[1:].strip() for line in header if not line.startswith("# @package"))
    return Commented(words, tuple(_settings(lines[len(header) :], template=False)))


def _settings(lines: Sequence[str], *, template: bool) -> Iterator[Setting]:
    around: list[tuple[int, str]] = []  # indentation and key of the sections around a line
    above: list[str] = []
    number = 0
    while number < len(lines):
        line, rest = lines[number], lines[number + 1 :]
        number += 1
        found = _KEY.match(line)
        if _TEMPLATE.match(line) and rest and _ENTRY.match(rest[0]):
            block = [text[2:] for text in (line, *_comments(rest))]
            number += len(block) - 1
            yield from _settings(block, template=True)
        elif line.startswith("#"):
            above.append(line[1:].strip())
            continue
        elif found:
            indent = len(found["indent"]) + len(found["dash"] or "")
            around = [(depth, key) for depth, key in around if depth < indent]
            value, comment, column = _split(line, found.start("rest") if found["rest"] else len(line))
            more = _continued(rest, column) if comment else []
            number += len(more)
            yield Setting((*(key for _, key in around), found["key"]), value, " ".join([*comment, *more] or above), template)
            around.append((indent, found["key"]))
        above = []


def _comments(lines: Sequence[str]) -> list[str]:
    """Those at the beginning of `lines`."""
    return list(lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))])


def _continued(lines: Sequence[str], column: int) -> list[str]:
    """Comments at the beginning of `lines` that stand in that column and go on with the one before them."""
    end = next((n for n, line in enumerate(lines) if line[:column].strip() or line[column : column + 1] != "#"), len(lines))
    return [line[column + 1 :].strip() for line in lines[:end]]


def _split(line: str, start: int) -> tuple[str, list[str], int]:
    """Value, comment and column of the comment's `#`; a `#` inside quotes or without a space before it is part of the value."""
    quote = ""
    for column in range(start, len(line)):
        letter = line[column]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "#" and line[column - 1].isspace():
            return line[start:column].strip(), [line[column + 1 :].strip()], column
    return line[start:].strip(), [], len(line)
