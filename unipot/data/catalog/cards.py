"""Cards: `card.yaml` of a recipe, read and checked key by key, and the raw files that it lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from unipot.data.quality.quarantine import Thresholds
from unipot.data.spec import check_dataset_name
from unipot.errors import InputError
from unipot.properties import ENERGY_KINDS, PROPERTIES
from unipot.structure import SYMBOLS
from unipot.yaml_files import load_yaml

URL_SCHEMES = ("https://", "http://", "hf://")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file that a recipe reads, and where it comes from.

    Attributes:
        file: path below the raw folder.
        urls: mirrors in order of preference; `hf://datasets/<owner>/<name>/<path>` for the Hugging Face hub.
        sha256: of the file, lower-case hexadecimal, or None.
        md5: likewise; where both are known both are checked.
        size: bytes, or None.
        unpack: `tar` for an archive, `xz` for one compressed file, else None.
        when: recipe option -> values for which the file is needed; empty: always.
        access: how to get the file where it cannot be fetched without asking; "" when it can.
    """

    file: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    unpack: str | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    access: str = ""

    @property
    def unpacked(self) -> str:
        """Folder below the raw folder that the file is unpacked into: its path without `.tar.gz` and the like.

        One compressed file `<stem>.xz` becomes `<stem>/<stem>`.
        """
        if self.unpack == "xz":
            return self.file.removesuffix(".xz")
        suffix = next(s for s in sorted(_TAR_SUFFIXES, key=len, reverse=True) if self.file.endswith(s))
        return self.file.removesuffix(suffix)

    def needed_for(self, options: Mapping[str, Any]) -> bool:
        """Whether a conversion with these values of the recipe's options reads the file."""
        return all(option not in options or options[option] in values for option, values in self.when.items())


def load_card(file: Path) -> dict[str, Any]:
    """The card in `file`, checked.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: it is not valid YAML, or a key is missing, unknown or has a value that is not allowed.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: every recipe has a card; copy data_recipes/_template/card.yaml and fill it in")
    card = load_yaml(file)
    if not isinstance(card, dict):
        raise InputError(f"{file}: expected keys and values at the top, found {type(card).__name__}")
    check_card(card, str(file))
    return card


def check_card(card: Mapping[str, Any], where: str) -> None:
    """Refuse a card that does not follow the schema.

    Args:
        card: contents of `card.yaml`.
        where: the file, for messages.

    Raises:
        ValueError: the message names the file, the key, the value and what is allowed.
    """
    for key, (required, _) in _KEYS.items():
        if required and key not in card:
            raise InputError(f"{where}: key '{key}' is missing; data_recipes/_template/card.yaml shows every key")
    for key, value in card.items():
        if key not in _KEYS:
            close = get_close_matches(str(key), _KEYS, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise InputError(f"{where}: key {key!r} is not known{hint}; keys are: {', '.join(_KEYS)}")
        problem = _KEYS[key][1](value)
        if problem:
            raise InputError(f"{where}: {key} {problem}")
    if card["verified"] and card.get("unverified"):
        raise InputError(f"{where}: verified is true but unverified lists {card['unverified'][0]!r}; set verified: false")
    if not card["verified"] and not card.get("unverified"):
        raise InputError(f"{where}: verified is false; list under unverified which facts could not be checked")
    if card["verified"] and not card.get("checked"):
        raise InputError(f"{where}: verified is true; list under checked what was checked and how")


def raw_files(card: Mapping[str, Any]) -> tuple[RawFile, ...]:
    """The files that a checked card lists."""
    return tuple(
        RawFile(
            file=entry["file"],
            urls=tuple(entry.get("urls") or ()),
            sha256=entry.get("sha256"),
            md5=entry.get("md5"),
            size=entry.get("bytes"),
            unpack=entry.get("unpack"),
            when={option: tuple(values) for option, values in (entry.get("when") or {}).items()},
            access=entry.get("access") or "",
        )
        for entry in card["sources"]
    )


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() else f"is {_short(value)}; give a text"


def _texts(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)
    return "" if fits else f"is {_short(value)}; give a list of texts (quote those with ': ' inside)"


def _some_texts(value: Any) -> str:
    return _texts(value) or ("" if value else "is empty; give at least one")


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else f"is {_short(value)}; give keys and values"


def _values(value: Any) -> str:
    fits = isinstance(value, dict) and all(isinstance(name, str) and isinstance(item, str | int | float) for name, item in value.items())
    return "" if fits else f"is {_short(value)}; give {{option: text, number, or true or false}}"


def _text_or_mapping(value: Any) -> str:
    return _text(value) and _mapping(value) and f"is {_short(value)}; give a text, or keys and values"


def _quarantine(value: Any) -> str:
    if _mapping(value):
        return _mapping(value)
    try:
        Thresholds.from_card(value)
    except (TypeError, ValueError) as error:
        return f"is refused: {error}"
    return ""


def _yes_or_no(value: Any) -> str:
    return "" if isinstance(value, bool) else f"is {_short(value)}; give true or false"


def _name(value: Any) -> str:
    try:
        check_dataset_name(str(value))
    except ValueError as error:
        return f"is refused: {error}"
    return ""


def _sibling(value: Any) -> str:
    fits = isinstance(value, str) and not _name(value)
    return "" if fits else f"is {_short(value)}; give the name of another recipe of the same folder, without a path"


def _levels(value: Any) -> str:
    fits = isinstance(value, dict) and all(isinstance(levels, dict) and levels for levels in value.values())
    fits = fits and all(isinstance(level, str) and level for levels in value.values() for level in levels.values())
    return "" if fits else f"is {_short(value)}; give {{option: {{value: level of theory}}}}"


def _energy_kind(value: Any) -> str:
    if isinstance(value, str) and value in ENERGY_KINDS:
        return ""
    return f"is {_short(value)}; use one of: {', '.join(ENERGY_KINDS)} (words about the zero go to energy_zero)"


def _elements(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return f"is {_short(value)}; give a list of element symbols"
    unknown = [symbol for symbol in value if not isinstance(symbol, str) or symbol not in SYMBOLS[1:]]
    # YAML reads a bare No and Y as booleans
    return f"has {unknown[0]!r}, which is no element symbol (write 'No' and 'Y' in quotes)" if unknown else ""


def _properties(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return f"is {_short(value)}; give property: {{unit, sign, coverage}}"
    for name, entry in value.items():
        if name not in PROPERTIES:
            return f"has {name!r}, which is no property; properties are: {', '.join(PROPERTIES)}"
        for key in ("unit", "sign", "coverage"):
            if not isinstance(entry, dict) or not entry.get(key):
                return f"of {name} lacks '{key}'; give {{unit, sign, coverage}}"
        if entry["unit"] != PROPERTIES[name].unit:
            return f"of {name} has unit {entry['unit']!r}; a recipe gives {PROPERTIES[name].unit} (raw units go to raw_units)"
    return ""


def _sources(value: Any) -> str:
    if not isinstance(value, list):
        return f"is {_short(value)}; give a list of files, or [] when nothing is downloaded"
    seen: set[str] = set()
    for number, entry in enumerate(value):
        problem = _mapping(entry) or _source(entry)
        if problem:
            return f"[{number}] {problem}"
        if entry["file"] in seen:
            return f"[{number}] repeats the file {entry['file']!r}"
        seen.add(entry["file"])
    return ""


def _source(entry: dict[str, Any]) -> str:
    if "file" not in entry:
        return "lacks 'file', the path below the raw folder"
    for key, value in entry.items():
        if key not in _SOURCE_KEYS:
            return f"has the key {key!r}; keys of a source are: {', '.join(_SOURCE_KEYS)}"
        problem = "" if value is None and key != "file" else _SOURCE_KEYS[key](value)
        if problem:
            return f"{key} {problem}"
    if not entry.get("urls") and not entry.get("access"):
        return f"({entry['file']}) has neither urls nor access; say where the file comes from"
    suffixes = {"tar": _TAR_SUFFIXES, "xz": (".xz",)}.get(entry.get("unpack"), ("",))
    if not entry["file"].endswith(suffixes):
        return f"unpack is for files that end in {', '.join(suffixes)}, not {entry['file']!r}"
    return ""


def _below(value: Any) -> str:
    inside = isinstance(value, str) and value and not PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts
    return "" if inside and "\\" not in value else f"is {value!r}; give a path below the raw folder, with '/' and without '..'"


def _urls(value: Any) -> str:
    if not isinstance(value, list):
        return f"is {_short(value)}; give a list of mirrors"
    bad = [url for url in value if not (isinstance(url, str) and url.startswith(URL_SCHEMES))]
    return f"has {bad[0]!r}; a mirror begins with {', '.join(URL_SCHEMES)}" if bad else ""


def _hexadecimal(digits: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fits = isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value)
        return "" if fits else f"is {_short(value)}; give {digits} lower-case hexadecimal digits in quotes, or null"

    return check


def _bytes(value: Any) -> str:
    fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return "" if fits else f"is {_short(value)}; give a whole number of bytes, or null"


def _unpack(value: Any) -> str:
    return "" if value in ("tar", "xz") else f"is {value!r}; use tar, xz, or null"


def _when(value: Any) -> str:
    fits = isinstance(value, dict) and all(isinstance(values, list) and values for values in value.values())
    return "" if fits else f"is {_short(value)}; give {{option: [values]}}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


_SOURCE_KEYS: dict[str, Callable[[Any], str]] = {
    "file": _below,
    "urls": _urls,
    "sha256": _hexadecimal(64),
    "md5": _hexadecimal(32),
    "bytes": _bytes,
    "unpack": _unpack,
    "when": _when,
    "access": _text,
    "note": _text,
}

#: key -> required?, what is wrong with a value ("": nothing)
_KEYS: dict[str, tuple[bool, Callable[[Any], str]]] = {
    "name": (True, _name),
    "title": (True, _text),
    "description": (False, _text),
    "licence": (True, _text),
    "citation": (True, _some_texts),
    "homepage": (False, _text),
    "level_of_theory": (True, _text),
    "levels_of_theory": (False, _levels),
    "software": (True, _text_or_mapping),
    "energy_kind": (True, _energy_kind),
    "energy_zero": (False, _text),
    "elements": (True, _elements),
    "properties": (True, _properties),
    "raw_units": (False, _text_or_mapping),
    "sources": (True, _sources),
    "counts": (True, _mapping),
    "sample": (False, _text_or_mapping),
    "command": (True, _text),
    "group": (True, _text),
    "split": (False, _text_or_mapping),
    "options": (False, _mapping),
    "program": (False, _sibling),
    "fixed_options": (False, _values),
    "quarantine": (True, _quarantine),
    "known_traps": (True, _texts),
    "verified": (True, _yes_or_no),
    "unverified": (False, _texts),
    "checked": (False, _texts),
}
