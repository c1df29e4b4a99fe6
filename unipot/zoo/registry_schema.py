"""What an entry of a registry is, and reading a registry file that may be damaged or a stranger's: bounds first, then every key.

    {"format": "unipot-zoo", "format_version": 1, "models": [
      {"name": "mine-small", "version": "1.0", "status": "current", "superseded_by": null,
       "files": [{"file": "model.safetensors", "bytes": 123, "sha256": "...", "urls": ["https://..."]}],
       "licences": {"code": {"name": "MIT"}, "weights": {"name": "CC-BY-4.0", "url": "https://..."}},
       "summary": "...", "heads": {"pbe": "PBE, VASP"}, "elements": ["H", "O"], "citation": "...", "access": "..."}]}

`summary`, `heads`, `elements`, `citation` and `access` (how to get a model that is not open to everybody) may be left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipot.errors import InputError
from unipot.nearest import did_you_mean
from unipot.structure import SYMBOLS
from unipot.zoo.card import CARD_FILE, WEIGHTS_FILE
from unipot.zoo.licences import Licence
from unipot.zoo.names import MAX_ADDRESS, MAX_NAME, is_name, is_version

FORMAT, FORMAT_VERSION = "unipot-zoo", 1
#: of a registry file, of the models in it, of a file of a model, of a card, of mirrors of a file
MAX_BYTES, MAX_MODELS, MAX_FILE_BYTES, MAX_CARD_BYTES, MAX_URLS = 8_000_000, 10_000, 100_000_000_000, 32_000_000, 16
#: characters of a text
MAX_TEXT = 4000
STATUSES = ("current", "experimental", "superseded", "withdrawn")
#: a model is one file with its card inside, or these two
PAIR = (CARD_FILE, WEIGHTS_FILE)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {
    "model": ("name", "version", "files", "licences", "status", "superseded_by", "summary", "heads", "elements", "citation", "access"),
    "file": ("file", "bytes", "sha256", "urls"),
    "licence": ("name", "url", "terms"),
}
_NEEDED = {"model": ("name", "version", "files", "licences", "status"), "file": ("file", "bytes", "sha256"), "licence": ("name",)}


class RegistryError(InputError):
    """A registry that cannot be trusted or understood."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a model.

    Attributes:
        file: its name.
        size: bytes.
        sha256: of its contents.
        urls: mirrors in order of preference: `https://`, `http://`, `hf://models/owner/name@revision/file`, or an absolute path.
    """

    file: str
    size: int
    sha256: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of a registry; see the module for the keys.

    Attributes:
        source: the registry file it stands in, for messages.
    """

    name: str
    version: str
    files: tuple[ModelFile, ...]
    code: Licence
    weights: Licence
    status: str = "current"
    superseded_by: str | None = None
    summary: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)
    elements: tuple[str, ...] = ()
    citation: str = ""
    access: str = ""
    source: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """One hash of names and contents of all files."""
        content = sorted((file.file, file.sha256) for file in self.files)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def in_use(self) -> bool:
        """Whether the name without a version may mean it."""
        return self.status in ("current", "experimental")


def entries_of_text(text: str, where: str, folder: Path | None) -> list[Entry]:
    """The models of a registry.

    Args:
        text: JSON.
        where: the file, for messages.
        folder: that addresses without a scheme are relative to; None drops those.

    Raises:
        RegistryError: it does not follow the schema; the sentence names file and key.
    """
    try:
        content = _json(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RegistryError(f"it does not say format {FORMAT!r}, so it is no registry of models")
        version = content.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise RegistryError(f"format_version is {_shown(version)}, this unipot reads {FORMAT_VERSION}; upgrade unipot if it is newer")
        models = _list(content.get("models"), "models", MAX_MODELS)
        entries = [_entry(item, f"models[{k}]", where, folder) for k, item in enumerate(models)]
        seen: set[str] = set()
        for entry in entries:
            if entry.key in seen:
                raise RegistryError(f"{entry.key} stands in it twice; a version is one model")
            seen.add(entry.key)
    except ValueError as error:
        raise RegistryError(f"{where}: {error}") from error.__cause__
    return entries


def text_of_entries(entries: Sequence[Entry], folder: Path | None = None) -> str:
    """A registry of these models, as `entries_of_text` reads it.

    Args:
        entries: the models.
        folder: of the registry; mirrors on this machine are written relative to it, those elsewhere are left out.
    """
    models = [_to_dict(entry, folder) for entry in entries]
    return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, "models": models}, indent=1) + "\n"


def _to_dict(entry: Entry, folder: Path | None) -> dict[str, Any]:
    files = [
        {"file": file.file, "bytes": file.size, "sha256": file.sha256, "urls": [url for url in _written(file.urls, folder) if url]}
        for file in entry.files
    ]
    optional = {
        "summary": entry.summary, "heads": dict(entry.heads), "elements": list(entry.elements), "citation": entry.citation,
        "access": entry.access,
    }  # fmt: skip
    return {
        "name": entry.name,
        "version": entry.version,
        "status": entry.status,
        "superseded_by": entry.superseded_by,
        "files": files,
        "licences": {"code": entry.code.to_dict(), "weights": entry.weights.to_dict()},
        **{key: value for key, value in optional.items() if value},
    }


def _written(urls: Sequence[str], folder: Path | None) -> list[str]:
    return [
        url if "://" in url else Path(url).relative_to(folder).as_posix() if folder is not None and Path(url).is_relative_to(folder) else ""
        for url in urls
    ]


def _entry(item: Any, at: str, source: str, folder: Path | None) -> Entry:
    given = _keys(item, at, "model")
    name, version = _text(given["name"], f"{at}.name"), _text(given["version"], f"{at}.version")
    if not is_name(name):
        raise RegistryError(f"{at}.name is {_shown(name)}; a name has up to {MAX_NAME} small letters, digits and hyphens, a letter first")
    if not is_version(version):
        raise RegistryError(f"{at}.version is {_shown(version)}; a version is like 1.0")
    at = f"{at} ({name}@{version})"
    status = given["status"]
    if status not in STATUSES:
        raise RegistryError(f"{at}.status is {_shown(status)}; use one of: {', '.join(STATUSES)}")
    licences = given["licences"]
    if not isinstance(licences, dict) or set(licences) != {"code", "weights"}:
        raise RegistryError(f"{at}.licences has to have code and weights, each with its name")
    optional = {key: _text(given[key], f"{at}.{key}") for key in ("summary", "citation", "access") if key in given}
    return Entry(
        name=name, version=version, status=status, source=source, superseded_by=_successor(given.get("superseded_by"), at),
        files=_files(given["files"], f"{at}.files", folder), heads=_heads(given.get("heads", {}), f"{at}.heads"),
        elements=_elements(given.get("elements", []), f"{at}.elements"), code=_licence(licences["code"], f"{at}.licences.code"),
        weights=_licence(licences["weights"], f"{at}.licences.weights"), **optional,
    )  # fmt: skip


def _files(value: Any, at: str, folder: Path | None) -> tuple[ModelFile, ...]:
    files = tuple(_file(item, f"{at}[{k}]", folder) for k, item in enumerate(_list(value, at, len(PAIR))))
    names = [file.file for file in files]
    if sorted(names) != sorted(PAIR) and not (len(names) == 1 and _FILE.fullmatch(names[0])):
        raise RegistryError(
            f"{at} are {_shown(names)}; a model is one .safetensors file, or {' and '.join(PAIR)} (files that hold code, as .pt, .pth and "
            ".ckpt do, are not fetched)"
        )
    for file in files:
        most = MAX_CARD_BYTES if file.file == CARD_FILE else MAX_FILE_BYTES
        if file.size > most:
            raise RegistryError(f"{at}: {file.file} has {file.size:,} bytes, at most {most:,} are fetched")
    return files


def _file(item: Any, at: str, folder: Path | None) -> ModelFile:
    given = _keys(item, at, "file")
    size, sha256 = given["bytes"], given["sha256"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise RegistryError(f"{at}.bytes is {_shown(size)}; it is the size of the file in bytes")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise RegistryError(f"{at}.sha256 is {_shown(sha256)}; it has 64 hexadecimal digits in small letters")
    urls = [_url(url, f"{at}.urls[{k}]", folder) for k, url in enumerate(_list(given.get("urls", []), f"{at}.urls", MAX_URLS))]
    return ModelFile(file=_text(given["file"], f"{at}.file"), size=size, sha256=sha256, urls=tuple(url for url in urls if url))


def _url(value: Any, at: str, folder: Path | None) -> str:
    url = _text(value, at)
    scheme, sign, _ = url.partition("://")
    if sign and (scheme not in ("https", "http", "hf") or len(url) > MAX_ADDRESS or not url.isprintable() or " " in url):
        raise RegistryError(f"{at} is {_shown(url)}; an address begins with https://, http:// or hf://models/")
    if sign:
        return url
    if not url or Path(url).is_absolute() or ".." in Path(url).parts or "\0" in url:
        raise RegistryError(f"{at} is {_shown(url)}; an address without https:// is a path below the folder of the registry")
    return "" if folder is None else str(folder / url)


def _licence(value: Any, at: str) -> Licence:
    given = {key: _text(text, f"{at}.{key}") for key, text in _keys(value, at, "licence").items()}
    if not given["name"].strip():
        raise RegistryError(f"{at}.name is empty; write the SPDX name of the licence")
    return Licence(**given)


def _successor(value: Any, at: str) -> str | None:
    if value is None:
        return None
    text = _text(value, f"{at}.superseded_by")
    name, sign, version = text.partition("@")
    if not is_name(name) or (sign and not is_version(version)):
        raise RegistryError(f"{at}.superseded_by is {_shown(text)}; write the name of a model, or null")
    return text


def _heads(value: Any, at: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 1000:
        raise RegistryError(f"{at} is {_shown(value)}; it maps each head to its level of theory")
    return {_text(head, at): _text(level, f"{at}.{head[:80]}") for head, level in value.items()}


def _elements(value: Any, at: str) -> tuple[str, ...]:
    elements = tuple(_list(value, at, len(SYMBOLS)))
    if wrong := [symbol for symbol in elements if symbol not in SYMBOLS[1:]]:
        raise RegistryError(f"{at} has {_shown(wrong[0])}, which is no chemical symbol")
    return elements


def _keys(item: Any, at: str, kind: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise RegistryError(f"{at} is {_shown(item)}, where keys and values belong")
    if unknown := sorted(set(item) - set(_KEYS[kind])):
        raise RegistryError(f"{at} has the key {_shown(unknown[0])}, which is not known{did_you_mean(unknown[0], _KEYS[kind])}")
    if missing := [key for key in _NEEDED[kind] if key not in item]:
        raise RegistryError(f"{at} has no {missing[0]}")
    return item


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RegistryError(f"{at} is {_shown(value)}, where a text of at most {MAX_TEXT:,} characters belongs")
    return value


def _list(value: Any, at: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise RegistryError(f"{at} is {_shown(value)}, where a list belongs")
    if len(value) > most:
        raise RegistryError(f"{at} has {len(value):,} entries, at most {most:,} are read")
    return value


def _json(text: str) -> Any:
    if len(text) > MAX_BYTES:
        raise RegistryError(f"it has {len(text):,} characters, at most {MAX_BYTES:,} are read")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_whole, parse_float=_refused, parse_constant=_refused)
    except RecursionError as error:
        raise RegistryError("lists and mappings in it lie inside each other too deep") from error
    except json.JSONDecodeError as error:
        raise RegistryError(f"it is not valid JSON ({error})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RegistryError(f"the key {_shown(next(key for key in keys if keys.count(key) > 1))} stands twice in one place")
    return found


def _whole(text: str) -> int:
    if len(text) > 20:
        raise RegistryError(f"a number in it has {len(text):,} digits")
    return int(text)


def _refused(text: str) -> float:
    raise RegistryError(f"the number {text[:40]} in it is not whole; a registry has whole numbers only")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
