"""What may stand where a model is wanted: a path, a name of the zoo, a model of the Hugging Face hub, an address.

| written | means |
|---|---|
| anything that exists as a path | that file or folder |
| `model[-size][@version]` | a model of a registry, see `unipot.zoo.registry` |
| `hf://owner/name[@revision][/file]` | a model of the Hugging Face hub |
| `https://host/model.safetensors[#sha256=...]` | one file; with its hash `http://` too |

Whatever is none of these is a path that is not there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from unipot.errors import InputError

#: last words of a name that are sizes, the smallest first
SIZES = ("tiny", "mini", "small", "medium", "large", "xl")
#: characters of a name, and of an address
MAX_NAME, MAX_ADDRESS = 64, 2000
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_VERSION = re.compile(r"[0-9]{1,8}(?:\.[0-9]{1,8}){0,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class ZooName:
    """A model of a registry.

    Attributes:
        name: model and size.
        version: None for the newest.

    Example:
        >>> ZooName("unipot-base-small", "1.0").size, str(ZooName("unipot-base"))
        ('small', 'unipot-base')
    """

    name: str
    version: str | None = None

    @property
    def size(self) -> str | None:
        """The last word of the name, where it is one of `SIZES`."""
        last = self.name.rpartition("-")[2]
        return last if last in SIZES and last != self.name else None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A model of the Hugging Face hub; without a revision its present one, without a file `model.safetensors`."""

    owner: str
    name: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.owner}/{self.name}{revision}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True)
class Address:
    """One `.safetensors` file on a server.

    Attributes:
        url: without its fragment.
        sha256: that the file must have, where the address says it.
    """

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url if self.sha256 is None else f"{self.url}#sha256={self.sha256}"


def parse_name(text: str | os.PathLike[str]) -> ZooName | HubName | Address | Path:
    """What `text` stands for; a path object is always a path.

    Raises:
        ValueError: it looks like an address and is none that is taken.

    Example:
        >>> parse_name("unipot-base-small@1.0")
        ZooName(name='unipot-base-small', version='1.0')
        >>> parse_name("hf://owner/model@main").revision
        'main'
    """
    if not isinstance(text, str):
        return Path(text)
    if os.path.exists(os.path.expanduser(text)):
        return Path(text)
    scheme, sign, rest = text.partition("://")
    if sign and scheme.lower() == "hf":
        return _hub_name(text, rest)
    if sign and scheme.lower() in ("https", "http"):
        return _address(text)
    if sign:
        raise InputError(f"{text[:200]}: models come from https:// and hf://, not {scheme[:20]}://; download the file and give its path")
    name, at, version = text.partition("@")
    if is_name(name) and (is_version(version) if at else True):
        return ZooName(name, version or None)
    return Path(text)


def is_name(text: str) -> bool:
    """Whether `text` could be the name of a model: small letters, digits and single hyphens, with a letter first."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether `text` could be a version: up to four whole numbers with dots between them."""
    return _VERSION.fullmatch(text) is not None


def version_order(version: str) -> tuple[int, ...]:
    """Sorts versions from old to new.

    Example:
        >>> max("1.9", "1.10", key=version_order)
        '1.10'
    """
    return tuple(int(number) for number in version.split("."))


def _hub_name(text: str, rest: str) -> HubName:
    owner, _, rest = rest.partition("/")
    repository, _, file = rest.partition("/")
    name, at, revision = repository.partition("@")
    parts = [owner, name, *([revision] if at else []), *(file.split("/") if file else [])]
    if not all(_HUB_PART.fullmatch(part) for part in parts):
        raise InputError(f"{text[:200]} is no model of the hub; write hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/file")
    return HubName(owner=owner, name=name, revision=revision or None, file=file or None)


def _address(text: str) -> Address:
    url, sign, fragment = text.partition("#")
    sha256 = fragment.removeprefix("sha256=").lower() if sign else None
    shown = text[:200]
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"{shown} is no address ({error}); write https://host/model.safetensors") from error
    if len(text) > MAX_ADDRESS or not host or not text.isprintable() or " " in text:
        raise InputError(f"{shown} is no address; write https://host/model.safetensors")
    if sha256 is not None and not (fragment.startswith("sha256=") and _SHA256.fullmatch(sha256)):
        raise InputError(f"{shown}: behind the # stands sha256= with the 64 hexadecimal digits of the file's hash, or nothing")
    if parts.scheme == "http" and sha256 is None:
        raise InputError(f"{shown}: what comes by http:// can be changed on its way; use https://, or add #sha256= and the file's hash")
    return Address(url, sha256)
