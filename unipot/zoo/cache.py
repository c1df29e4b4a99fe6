"""Models on this machine: contents under their hash, names that point to them, and nothing half-installed.

    <cache>/zoo/content/<digest>/   files of one model, complete and verified
    <cache>/zoo/models/<name@version>.json   a registry of that one model, which was fetched
    <cache>/zoo/partial/<digest>/   downloads that were interrupted
    <cache>/zoo/locks/              one process brings a model, the others wait for it

The cache is `$UNIPOT_CACHE`, else `~/.cache/unipot` (below `$XDG_CACHE_HOME`). One that cannot be written to serves what is in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from unipot.data.conversion.disk import DiskError, existing_parent, in_words, writing_to
from unipot.errors import MissingFile
from unipot.zoo.card import ArtifactError
from unipot.zoo.registry import read_registry_file
from unipot.zoo.registry_schema import Entry, ModelFile, RegistryError, text_of_entries

#: environment variable: the folder of the cache
CACHE_VARIABLE = "UNIPOT_CACHE"
#: what a file system says that has no locks
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_BLOCK = 1 << 20
#: puts one file of a model, with the right contents, into a folder
Bring = Callable[[ModelFile, Path], None]
#: says what is wrong with the model at a path, by raising it
Check = Callable[[Path, Entry], None]


@dataclass(frozen=True)
class Installed:
    """A model in the cache.

    Attributes:
        entry: as it was when the model was fetched.
        folder: of its files.
    """

    entry: Entry
    folder: Path

    @property
    def path(self) -> Path:
        """What `load_artifact` takes: the file, or the folder of a model of two files."""
        return model_of(self.folder, self.entry)


def model_of(folder: Path, entry: Entry) -> Path:
    """The artifact in a folder that holds the files of a model."""
    return folder / entry.files[0].file if len(entry.files) == 1 else folder


def cache_folder() -> Path:
    """Of all that unipot keeps: `$UNIPOT_CACHE`, else `unipot` in the user's cache."""
    root = os.environ.get(CACHE_VARIABLE)
    if root:
        return Path(root).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache").absolute() / "unipot"


class Cache:
    """The models of one cache folder.

    Args:
        folder: by default `zoo` in `cache_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() / "zoo" if folder is None else folder

    def find(self, key: str) -> Installed | None:
        """The model of a name and version, None where it is not here; its files are compared with their hashes once in a process.

        Raises:
            ArtifactError: its files are not those that were fetched.
        """
        record = self._record(key)
        if not record.is_file():
            return None
        found = self._read(record)
        for file in found.entry.files:
            if problem := problem_of(found.folder / file.file, file):
                raise ArtifactError(
                    f"{found.folder / file.file}: the copy of {key} in the cache {problem}; `unipot zoo remove {key}` and "
                    f"`unipot zoo get {key}` bring it again"
                )
        return found

    def installed(self) -> list[Installed]:
        """All models with a name, sorted by it; their files are not looked at."""
        return [self._read(record) for record in sorted((self.folder / "models").glob("*.json"))]

    def install(self, entry: Entry, bring: Bring, check: Check) -> Installed:
        """Make `entry` a model of the cache, if it is not one already; of many processes one does the work.

        Args:
            entry: with hashes and sizes of all files.
            bring: called for each file that is not there yet.
            check: called with the complete model before it gets its name.

        Raises:
            DiskError: there is no room, or the cache cannot be written to.
            ArtifactError: a file is not what the entry says, or the model does not pass `check`.
        """
        with writing_to(self.folder, f"keeping {entry.key} (${CACHE_VARIABLE} says where)"), self.locked(entry.digest) as own:
            content = self._content(entry)
            if not all(problem_of(content / file.file, file) == "" for file in entry.files):
                self._require_room(entry)
                partial = self.folder / "partial" / (entry.digest if own else f"{entry.digest}-{os.getpid()}")
                self._complete(entry, partial, bring)
                self._move(entry, partial, content, check)
            record = self._record(entry.key)
            record.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(record, text_of_entries([entry]))
        return Installed(entry, content)

    def remove(self, key: str) -> int:
        """Forget a model, and its files where no other name means them.

        Returns:
            Bytes that are free now.

        Raises:
            FileNotFoundError: it is not in the cache.
        """
        record = self._record(key)
        if not record.is_file():
            raise MissingFile(f"{key} is not in the cache ({self.folder})")
        with writing_to(self.folder, f"removing {key}"):
            try:
                digests = [self._read(record).entry.digest]
            except RegistryError:  # damaged, so that nothing says what its files are: those that no other name means
                digests = self.unnamed()
            record.unlink()
            return sum(self._drop(digest) for digest in digests)

    def unnamed(self) -> list[str]:
        """Contents that no name means."""
        content = self.folder / "content"
        named = {item.entry.digest for item in self.installed()}
        return [path.name for path in sorted(content.iterdir()) if path.name not in named] if content.is_dir() else []

    def unfinished(self) -> int:
        """Bytes of downloads that were interrupted."""
        return _bytes_below(self.folder / "partial")

    def remove_unfinished(self) -> int:
        """Forget downloads that were interrupted, and contents without a name; bytes that are free now."""
        with writing_to(self.folder, "removing unfinished downloads"):
            n_bytes = self.unfinished()
            shutil.rmtree(self.folder / "partial", ignore_errors=True)
            return n_bytes + sum(self._drop(digest) for digest in self.unnamed())

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Wait until nobody else is at work on something; yields False on a file system without locks, where nobody knows."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire()
        except NotImplementedError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _drop(self, digest: str) -> int:
        content = self.folder / "content" / digest
        if not content.is_dir() or digest in {item.entry.digest for item in self.installed()}:
            return 0
        n_bytes = _bytes_below(content)
        gone = content.with_name(f".{digest}.{os.getpid()}")
        os.replace(content, gone)  # whoever looks sees all of it or nothing
        shutil.rmtree(gone)
        return n_bytes

    def _read(self, record: Path) -> Installed:
        entries = read_registry_file(record)
        if len(entries) != 1 or entries[0].key != record.stem:
            raise RegistryError(f"{record} is not the record of {record.stem}; `unipot zoo remove {record.stem}` takes it away")
        entry = replace(entries[0], source="the cache")
        return Installed(entry, self._content(entry))

    def _record(self, key: str) -> Path:
        return self.folder / "models" / f"{key}.json"

    def _content(self, entry: Entry) -> Path:
        return self.folder / "content" / entry.digest

    def _complete(self, entry: Entry, partial: Path, bring: Bring) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        for file in entry.files:
            if problem_of(partial / file.file, file):
                bring(file, partial)
            if problem := problem_of(partial / file.file, file):
                (partial / file.file).unlink(missing_ok=True)
                raise ArtifactError(f"{entry.key}: {file.file} {problem}, so it is not what {entry.source or 'the registry'} says")

    def _move(self, entry: Entry, partial: Path, content: Path, check: Check) -> None:
        """Give the contents their place when they pass; what does not pass is not kept."""
        complete = content.with_name(f".{entry.digest}.{os.getpid()}.new")
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir(parents=True)
        try:
            for file in entry.files:
                os.replace(partial / file.file, complete / file.file)
            check(model_of(complete, entry), entry)
            shutil.rmtree(content, ignore_errors=True)  # damaged, else nothing would have been brought
            os.replace(complete, content)
        finally:
            shutil.rmtree(complete, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)

    def _require_room(self, entry: Entry) -> None:
        free = shutil.disk_usage(existing_parent(self.folder)).free
        if entry.size > free:
            raise DiskError(
                f"{entry.key} has {in_words(entry.size)}, and {in_words(free)} are free at {self.folder}; make room, or say with "
                f"${CACHE_VARIABLE} where there is some"
            )


def problem_of(path: Path, file: ModelFile) -> str:
    """What is wrong with a file, as the end of a sentence; "" when it has the size and hash that it should have."""
    if not path.is_file():
        return "is missing"
    stat = path.stat()
    if stat.st_size != file.size:
        return f"has {stat.st_size:,} bytes instead of {file.size:,}"
    found = _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return "" if found == file.sha256 else f"has SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int, inode: int) -> str:
    return sha256_of(path)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
