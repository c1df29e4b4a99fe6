"""Models in one file, for machines without internet: a plain tar archive that is read member by member and never unpacked.

    zoo.json                    a registry of the models in the archive
    <digest>/<file>             their files

Names of members are compared with those that the registry gives; no name out of the archive becomes a path.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unipot.data.conversion.disk import writing_to
from unipot.errors import FileInTheWay, InputError, MissingFile
from unipot.zoo.cache import Bring, Cache, Installed
from unipot.zoo.card import ArtifactError
from unipot.zoo.fetch import check_model
from unipot.zoo.registry_schema import MAX_BYTES, Entry, ModelFile, entries_of_text, text_of_entries

SUFFIX = ".tar"
REGISTRY = "zoo.json"
_BLOCK, _CHUNK = 512, 1 << 20
#: of the digest, in names of members: a tar header has room for 100 characters
_DIGITS = 32
_KINDS = {
    tarfile.LNKTYPE: "a link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder", tarfile.FIFOTYPE: "a pipe",
}  # fmt: skip


class BundleError(InputError):
    """A bundle that is damaged, or is none."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    content: IO[bytes]


def write_bundle(models: Sequence[Installed], path: Path) -> Path:
    """Put models of the cache into one file.

    Raises:
        ValueError: the name of the file does not end in `.tar`.
        FileExistsError: it is there already.
        DiskError: it cannot be written.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: the name of a bundle ends in {SUFFIX}")
    if path.exists():
        raise FileInTheWay(f"{path} exists already; choose another name with -o, or delete it")
    models = list({item.entry.key: item for item in models}.values())
    files = {_member_name(item.entry, file): item.folder / file.file for item in models for file in item.entry.files}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing_to(path, f"writing {path}"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
                registry = text_of_entries([item.entry for item in models]).encode()
                archive.addfile(_header(REGISTRY, len(registry)), io.BytesIO(registry))
                for name, file in files.items():
                    with open(file, "rb") as content:
                        archive.addfile(_header(name, file.stat().st_size), content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def import_bundle(path: Path, cache: Cache) -> list[Installed]:
    """Bring the models of a bundle into the cache, verified as if they had been fetched; nothing else is written.

    Raises:
        FileNotFoundError: there is no bundle.
        BundleError: it is damaged, or has members that no bundle has; models that came before are kept, each is whole.
        ArtifactError: a model in it is not what the bundle says, or another one of its name and version is in the cache.
        DiskError: there is no room, or the cache cannot be written to.
    """
    if not path.is_file():
        raise MissingFile(f"{path} is not there, or no file; give a bundle that `unipot zoo bundle` wrote")
    with open(path, "rb") as file:
        members = _members(path, file)
        first = next(members, None)
        if first is None or first.name != REGISTRY:
            raise BundleError(f"{path} does not begin with {REGISTRY}, so it is no bundle of models")
        entries = _entries(path, first)
        for entry in entries:
            _require_same(entry, cache)
        return _installed(path, entries, members, cache)


def _entries(path: Path, member: _Member) -> list[Entry]:
    if member.size > MAX_BYTES:
        raise BundleError(f"{path}: {REGISTRY} has {member.size:,} bytes, at most {MAX_BYTES:,} are read")
    try:
        text = member.content.read().decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: {REGISTRY} is not text in UTF-8 ({error}); copy the bundle again") from error
    entries = entries_of_text(text, f"{path}: {REGISTRY}", None)
    if not entries:
        raise BundleError(f"{path} holds no model")
    return entries


def _require_same(entry: Entry, cache: Cache) -> None:
    found = cache.find(entry.key)
    if found is not None and found.entry.digest != entry.digest:
        raise ArtifactError(
            f"{entry.key} is in the cache with other contents (SHA-256 {found.entry.digest[:12]}…, in the bundle {entry.digest[:12]}…), "
            f"and a version never changes; `unipot zoo remove {entry.key}` first if the one in the bundle is right"
        )


def _installed(path: Path, entries: list[Entry], members: Iterator[_Member], cache: Cache) -> list[Installed]:
    """Each model as soon as its files have been read; two models may share contents."""
    wanted = {_member_name(entry, file): (entry, file) for entry in entries for file in entry.files}
    with writing_to(cache.folder, f"importing {path}"):
        (cache.folder / "partial").mkdir(parents=True, exist_ok=True)
        waiting = Path(tempfile.mkdtemp(prefix="bundle-", dir=cache.folder / "partial"))
        try:
            for member in members:
                if member.name not in wanted:
                    raise BundleError(f"{path} has the member {member.name[:100]!r}, which its {REGISTRY} does not list, or has it twice")
                entry, file = wanted.pop(member.name)
                if member.size != file.size:
                    raise BundleError(f"{path}: {member.name} has {member.size:,} bytes, {REGISTRY} says {file.size:,}; copy it again")
                target = waiting / entry.digest / file.file
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    shutil.copyfileobj(member.content, out, _CHUNK)
            if wanted:
                raise BundleError(f"{path} ends without {next(iter(wanted))}; it is cut short, copy it again")
            return [cache.install(entry, _bring_from(waiting / entry.digest), check_model) for entry in entries]
        finally:
            shutil.rmtree(waiting, ignore_errors=True)


def _bring_from(folder: Path) -> Bring:
    def bring(file: ModelFile, target: Path) -> None:
        os.replace(folder / file.file, target / file.file)

    return bring


def _member_name(entry: Entry, file: ModelFile) -> str:
    return f"{entry.digest[:_DIGITS]}/{file.file}"


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # owner, times and mode say nothing of this machine
    header.size, header.mode = size, 0o644
    return header


def _members(path: Path, file: IO[bytes]) -> Iterator[_Member]:
    """Headers one by one: plain files alone, none of the extensions of the format, no size beyond the end of the file."""
    size = path.stat().st_size
    while True:
        block = file.read(_BLOCK)
        if block == b"\0" * _BLOCK:
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise BundleError(f"{path} is cut short or no bundle of models ({error}); copy it again") from error
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(header.type, f"of kind {header.type!r}")
            raise BundleError(f"{path}: the member {header.name[:120]!r} is {kind}, which no bundle has; it is refused")
        start = file.tell()
        if header.size < 0 or start + header.size > size:
            raise BundleError(f"{path}: {header.name[:120]!r} claims {header.size:,} bytes, more than the file holds; copy it again")
        yield _Member(header.name, header.size, _Part(file, header.size))
        file.seek(start + header.size + -header.size % _BLOCK)


class _Part(io.RawIOBase):
    """So many bytes of an open file, read once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        content = self._file.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)
