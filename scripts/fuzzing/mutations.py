"""Damage to bytes, to JSON and to text; every function takes a random generator and says in words what it did."""

from __future__ import annotations

import json
import math
import random
import re
import struct
from collections.abc import Callable
from typing import Any

#: four and eight bytes that lengths, offsets, counts and floats do not survive
_HUGE = (
    *(struct.pack("<I", n) for n in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(struct.pack("<Q", n) for n in (0, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)),
    *(struct.pack("<d", x) for x in (math.nan, math.inf, 1e308, -1e308, 5e-324)),
)
_WORDS = ("", "x" * 5000, "../../etc/passwd", "\u202e\u0000\ud7ff", "nan", "-1", "true", "[bold]", "float16", "[]")
_NUMBERS = (0, 1, -1, 2, 255, 65536, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, 1e-320, math.nan, math.inf, -math.inf)
_TOKENS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e308",
    "0",
    "-1",
    "99999999999999999999",
    "",
    '"',
    "'",
    "T",
    "F",
    "null",
    "~",
    "{",
    "]",
    "é",
    "1,5",
    "1D0",
)


def damaged_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """One or two changes of bytes; places that are not zero are preferred, since much of a file may be padding."""
    data, said = bytearray(content), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        change = rng.choice(_BYTE_CHANGES)
        said.append(change(rng, data))
    return bytes(data), ", ".join(said)


def _place(rng: random.Random, data: bytearray) -> int:
    for _ in range(20):
        place = rng.randrange(len(data)) if data else 0
        if not data or data[place]:
            break
    return place


def _span(rng: random.Random, data: bytearray) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def _flip(rng: random.Random, data: bytearray) -> str:
    place, bit = _place(rng, data), rng.randrange(8)
    if data:
        data[place] ^= 1 << bit
    return f"bit {bit} of byte {place} flipped"


def _truncate(rng: random.Random, data: bytearray) -> str:
    end = rng.choice((0, 1, len(data) - 1, rng.randrange(len(data) + 1), _place(rng, data)))
    del data[max(0, end) :]
    return f"truncated to {len(data)} bytes"


def _insert(rng: random.Random, data: bytearray) -> str:
    place, new = _place(rng, data), rng.randbytes(rng.choice((1, 1, 2, 8, 100)))
    data[place:place] = new
    return f"{len(new)} bytes inserted at {place}"


def _remove(rng: random.Random, data: bytearray) -> str:
    start, end = _span(rng, data)
    del data[start:end]
    return f"bytes {start} to {end} removed"


def _splice(rng: random.Random, data: bytearray) -> str:
    (start, end), target = _span(rng, data), _place(rng, data)
    data[target : target + end - start] = data[start:end]
    return f"bytes {start} to {end} copied over those at {target}"


def _fill(rng: random.Random, data: bytearray) -> str:
    (start, end), value = _span(rng, data), rng.choice((0, 255, 32))
    data[start:end] = bytes([value]) * (end - start)
    return f"bytes {start} to {end} set to {value}"


def _huge(rng: random.Random, data: bytearray) -> str:
    place, value = _place(rng, data), rng.choice(_HUGE)
    place -= place % len(value) if rng.random() < 0.7 else 0
    data[place : place + len(value)] = value
    return f"bytes at {place} set to {value.hex()}"


def _append(rng: random.Random, data: bytearray) -> str:
    new = rng.choice((rng.randbytes(7), bytes(4096), bytes(data[:4096])))
    data += new
    return f"{len(new)} bytes appended"


_BYTE_CHANGES: tuple[Callable[[random.Random, bytearray], str], ...] = (
    *(_flip, _flip, _flip, _truncate, _insert, _remove, _splice, _fill, _huge, _huge, _append),
)


def damaged_json(rng: random.Random, text: str) -> tuple[str, str]:
    """Text of JSON with one value changed, or with a defect of the text itself."""
    if rng.random() < 0.1:
        return _damaged_json_text(rng, text)
    content = json.loads(text)
    changed, said = damaged_value(rng, content)
    return json.dumps(changed), said


def damaged_value(rng: random.Random, content: Any) -> tuple[Any, str]:
    """`content` with one value removed or replaced, at any depth: every level is chosen as often as the next one."""
    path: list[Any] = []
    container, value = None, content
    while isinstance(value, dict | list) and value and (not path or rng.random() < 0.75):
        path.append(rng.choice(list(value) if isinstance(value, dict) else range(len(value))))
        container, value = value, value[path[-1]]
    where = ".".join(map(str, path))[:200]
    if container is None:
        return rng.choice(([], None, 7, "text", {})), "replaced as a whole"
    what = rng.random()
    if what < 0.2:
        del container[path[-1]]
        return content, f"{where} removed"
    if what < 0.3 and isinstance(container, dict):
        container[rng.choice((f"{path[-1]}x", "", "format_version", str(path[-1]).upper()))] = container.pop(path[-1])
        return content, f"{where} renamed"
    if what < 0.4 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), value)
        return content, f"{where} twice"
    container[path[-1]] = new = _another(rng, value)
    return content, f"{where} set to {str(new)[:40]!r}"


def _another(rng: random.Random, value: Any) -> Any:
    """Something else in place of a value: of another kind, or a number that cannot be."""
    kinds = [None, True, rng.choice(_WORDS), rng.choice(_NUMBERS), [], {}, [value], {"a": value}]
    if isinstance(value, bool):
        kinds += 4 * [not value]
    elif isinstance(value, int | float):
        kinds += [value + 1, -value, value * 2, value * 1.0001, str(value), *rng.sample(_NUMBERS, 4)]
    elif isinstance(value, str):
        kinds += [value + "x", value[:-1], value.upper(), f"{value} ", *rng.sample(_WORDS, 3)]
    elif isinstance(value, list):
        kinds += [value[:-1], value + value, value[::-1], dict(enumerate(map(str, value)))]
    elif isinstance(value, dict):
        kinds += [list(value), list(value.values())]
    return rng.choice(kinds)


def _damaged_json_text(rng: random.Random, text: str) -> tuple[str, str]:
    deep = "[" * 100_000 + "]" * 100_000
    first = re.search(r'"[^"]+": ', text)
    name = first.group() if first else ""
    return rng.choice(
        (
            (text[: rng.randrange(len(text) + 1)], "text cut short"),
            (text.replace(": ", f": {deep}, {name}", 1), "lists in lists, 100000 deep"),
            (text.replace("{", "{" + name + "null, ", 1), "first key twice"),
            ("\ufeff" + text, "byte order mark in front"),
            (text + text, "twice"),
            ("", "empty"),
            (text.replace(",", "", 1), "a comma removed"),
        )
    )


def damaged_text(rng: random.Random, text: str) -> tuple[str, str]:
    """Text with a line or a word changed."""
    lines = text.split("\n")
    number = rng.randrange(len(lines))
    what = rng.randrange(8)
    if what == 0:
        del lines[number]
        return "\n".join(lines), f"line {number + 1} removed"
    if what == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[number])
        return "\n".join(lines), f"line {number + 1} repeated elsewhere"
    if what == 2:
        end = rng.randrange(len(text) + 1)
        return text[:end], f"cut short to {end} characters"
    if what == 3:
        lines[number] = rng.choice(("\t", " ", "    ")) + lines[number]
        return "\n".join(lines), f"line {number + 1} indented"
    words = list(re.finditer(r"[^\s=:,\[\]{}]+", lines[number]))
    if not words:
        return text + rng.choice(_TOKENS), "a word appended"
    word, new = rng.choice(words), rng.choice(_TOKENS)
    if what == 4:
        new = word.group() + rng.choice((" ", "", ":", "=", ",")) + new
    elif what == 5:
        new = word.group()[:-1]
    lines[number] = lines[number][: word.start()] + new + lines[number][word.end() :]
    return "\n".join(lines), f"{word.group()[:40]!r} of line {number + 1} is now {new[:40]!r}"
