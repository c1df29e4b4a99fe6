"""The models that have names: those of the registry in the package, of the site's and of the user's own.

| file | whose |
|---|---|
| `registry.json` beside this module | the package's |
| those that `$UNIPOT_ZOO` lists, with `:` between them | the site's |
| `~/.config/unipot/zoo.json` (below `$XDG_CONFIG_HOME`) | the user's |

Where several list one version of a model, it has to be the same model; the mirrors of the user and the site are asked first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from unipot.errors import InputError, MissingFile
from unipot.nearest import did_you_mean, nearest
from unipot.zoo.names import SIZES, ZooName, version_order
from unipot.zoo.registry_schema import MAX_BYTES, Entry, RegistryError, entries_of_text

#: environment variable: registry files of the site
REGISTRIES_VARIABLE = "UNIPOT_ZOO"
_PACKAGED = Path(__file__).with_name("registry.json")
#: of names that a message lists
_LISTED = 8


@dataclass(frozen=True)
class Registry:
    """Models by `name@version`."""

    entries: Mapping[str, Entry]

    def versions(self, name: str) -> list[Entry]:
        """Of one model, from old to new."""
        return sorted((e for e in self.entries.values() if e.name == name), key=lambda entry: version_order(entry.version))

    def find(self, wanted: ZooName) -> Entry:
        """The version that is asked for; without one the newest that is in use.

        Raises:
            FileNotFoundError: there is no such model, or not in this version.
        """
        found = self.versions(wanted.name)
        if not found:
            raise MissingFile(self._unknown(wanted))
        if wanted.version is None:
            return ([entry for entry in found if entry.in_use] or found)[-1]
        exact = [entry for entry in found if version_order(entry.version) == version_order(wanted.version)]
        if not exact:
            listed = ", ".join(entry.version for entry in found)
            raise MissingFile(f"{wanted.name} has no version {wanted.version}; there are: {listed}")
        return exact[0]

    def _unknown(self, wanted: ZooName) -> str:
        names = sorted({entry.name for entry in self.entries.values()})
        sizes = [name for name in names if name.rpartition("-")[0] == wanted.name and name.rpartition("-")[2] in SIZES]
        sentence = f"{str(wanted)!r} is neither a path that is there nor the name of a model"
        if sizes:
            return f"{sentence}; say which size: {', '.join(sizes)}"
        if not names:
            return f"{sentence}: no models are registered; correct the path, or name a registry in ${REGISTRIES_VARIABLE}"
        rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        known = "" if nearest(wanted.name, names) else f"; models are: {', '.join(names[:_LISTED])}{rest}"
        return f"{sentence}{did_you_mean(wanted.name, names)}{known}; `unipot zoo list` shows them"


def registry_files() -> list[Path]:
    """Those that are read, the first ones win: of the user, of the site, of the package.

    Raises:
        FileNotFoundError: one that the environment variable lists is not there.
    """
    config = os.environ.get("XDG_CONFIG_HOME")
    own = (Path(config).expanduser() if config else Path.home() / ".config") / "unipot" / "zoo.json"
    listed = [Path(word).expanduser() for word in os.environ.get(REGISTRIES_VARIABLE, "").split(os.pathsep) if word.strip()]
    for file in listed:
        if not file.exists():
            raise MissingFile(f"${REGISTRIES_VARIABLE} names {file}, which is not there; correct the variable")
    return [*([own] if own.exists() else []), *listed, _PACKAGED]


def read_registry(files: Iterable[Path] | None = None) -> Registry:
    """All models of all registries.

    Args:
        files: to read instead of `registry_files()`.

    Raises:
        RegistryError: a file does not follow the schema, or two files mean different models by one name and version.
    """
    entries: dict[str, Entry] = {}
    for file in registry_files() if files is None else files:
        for entry in read_registry_file(file):
            entries[entry.key] = merged_entries(entries[entry.key], entry) if entry.key in entries else entry
    return Registry(entries)


def read_registry_file(file: Path) -> list[Entry]:
    """The models of one file, in its order.

    Raises:
        RegistryError: it cannot be read, or does not follow the schema.
    """
    try:
        if not file.is_file():
            raise RegistryError(f"{file} is no ordinary file, so it is no registry of models")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise RegistryError(f"{file} has {size:,} bytes, at most {MAX_BYTES:,} are read; this is no registry of models")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RegistryError(f"{file}: it is not text in UTF-8 ({error})") from error
    except OSError as error:
        raise RegistryError(f"{file} cannot be read ({error.strerror}); correct its permissions") from error
    return entries_of_text(text, str(file), file.absolute().parent)


def merged_entries(first: Entry, second: Entry) -> Entry:
    """`first` with the mirrors of both.

    Raises:
        RegistryError: they are different models.
    """
    if first.digest != second.digest:
        raise RegistryError(
            f"{first.key} is one model in {first.source} and another in {second.source} (SHA-256 {first.digest[:12]}… and "
            f"{second.digest[:12]}…); a version never changes: take one of the two out, or give it another version"
        )
    other = {file.file: file.urls for file in second.files}
    files = tuple(replace(file, urls=tuple(dict.fromkeys((*file.urls, *other[file.file])))) for file in first.files)
    return replace(first, files=files)


def require_in_use(entry: Entry) -> None:
    """Raises:
    ValueError: the model was withdrawn.
    """
    if entry.status == "withdrawn":
        instead = f"; use {entry.superseded_by}" if entry.superseded_by else ""
        raise InputError(f"{entry.key} was withdrawn by those who published it ({entry.source}){instead}")
