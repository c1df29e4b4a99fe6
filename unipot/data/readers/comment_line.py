"""The comment line of an extended XYZ frame: `key=value` pairs, quoted as ASE writes them, and what the values mean.

Words without `=` are words: ASE makes each of them a key that is true, so that the comment "charge unknown" gives a charge of 1.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from unipot.errors import InputError

_PLAIN = r"[^\s=\"'{}\[\]\\]++"
#: a pair that needs no second look, and a line of nothing but such pairs and words
_PAIR = re.compile(rf"""(?<!\S)({_PLAIN})=("[^"]*"|'[^']*'|{_PLAIN})""")
_EASY = re.compile(rf"""\s*+(?:{_PLAIN}(?:=(?:"[^"\\]*+"|'[^'\\]*+'|{_PLAIN}))?(?:\s++|$))*+""")
_CLOSING = {"'": "'", '"': '"', "{": "}", "[": "]"}
_LOGICAL = {"T": True, "True": True, "true": True, "TRUE": True, "F": False, "False": False, "false": False, "FALSE": False}
_JSON = "_JSON "


def key_values(line: str) -> dict[str, str]:
    """The pairs of a comment line, values as text.

    Quotes (`"` and `'`), braces and brackets hold a value together, and a backslash takes the next character as it is.

    Raises:
        ValueError: a key stands twice with different values, or a quote that is not closed swallows a pair.

    Example:
        >>> key_values('energy=-1.5 pbc="T T F" relaxed')
        {'energy': '-1.5', 'pbc': 'T T F'}
    """
    line = line.strip()
    if _EASY.fullmatch(line):
        pairs = [(key, value[1:-1] if value[0] in "\"'" else value) for key, value in _PAIR.findall(line)]
    else:
        pairs = _taken_apart(line) if "=" in line else []
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise InputError(f"its comment line states {key!r} twice, as {value!r} and as {found[key]!r}")
    return found


def typed(text: str) -> Any:
    """A value as ASE understands it: numbers, true and false, arrays of them, JSON behind `_JSON`, or else the text.

    Example:
        >>> typed("3"), typed("a b"), typed("T F")
        (3, 'a b', [True, False])
    """
    words = text.replace(",", " ").split()
    if words and "_" not in text:  # Python reads 1_0 as 10
        for kind in (int, float):
            try:
                numbers = [kind(word) for word in words]
            except ValueError:
                continue
            array = np.array(numbers)
            array = array if array.dtype.kind in "if" else array.astype(float)  # integers that no machine word holds
            return array if len(words) > 1 else array.item()
        if all(word in _LOGICAL for word in words):
            return [_LOGICAL[word] for word in words] if len(words) > 1 else _LOGICAL[words[0]]
    if text.startswith(_JSON):
        value = json.loads(text.removeprefix(_JSON))
        return _array_or(value) if isinstance(value, list) else value
    return text


def _array_or(value: list[Any]) -> Any:
    try:
        array = np.array(value)
    except ValueError:  # lists of unequal length
        return value
    return array if array.dtype.kind in "ifb" else value


def _taken_apart(line: str) -> list[tuple[str, str]]:
    """Pairs of a line with escapes, brackets, or spaces beside `=`; the rules are those of ASE's reader."""
    pairs: list[list[str]] = [[""]]
    waiting = ""  # for this character, which ends a quote
    opened, escaped = 0, False
    for place, char in enumerate(line):
        if escaped:
            pairs[-1][-1] += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif waiting:
            if char == waiting:
                waiting = ""
            else:
                pairs[-1][-1] += char
        elif char in _CLOSING:
            waiting, opened = _CLOSING[char], place
        elif char.isspace():
            if pairs[-1][-1]:
                pairs.append([""])
        elif char == "=":
            if pairs[-1] == [""] and len(pairs) > 1:  # a space before it
                del pairs[-1]
            pairs[-1].append("")
        else:
            pairs[-1][-1] += char
    if waiting and "=" in line[opened:]:
        raise InputError(f"its comment line opens {line[opened]!r} and does not close it: {line[opened : opened + 40]!r}")
    return [(pair[0], "=".join(pair[1:])) for pair in pairs if len(pair) > 1 and pair[0]]
