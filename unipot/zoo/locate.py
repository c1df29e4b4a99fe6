"""The one place where a text becomes the path of a model: whatever takes a checkpoint asks here."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from unipot.data.catalog.cards import RawFile
from unipot.data.catalog.download import DownloadError, OfflineError, download, is_offline
from unipot.data.conversion.disk import writing_to
from unipot.errors import InputError, UnusableFile
from unipot.zoo.cache import Cache, Installed, sha256_of
from unipot.zoo.card import ArtifactError
from unipot.zoo.fetch import Progress, check_model, failure_sentence, fetch_model, offline_sentence
from unipot.zoo.licences import NOT_STATED, Licence
from unipot.zoo.names import Address, HubName, ZooName, parse_name, version_order
from unipot.zoo.pickled import PICKLED_SUFFIXES
from unipot.zoo.registry import Registry, read_registry
from unipot.zoo.registry_schema import MAX_FILE_BYTES, Entry, ModelFile


def model_path(model: str | os.PathLike[str]) -> Path:
    """Where the model is on this machine; what the cache does not have is fetched, what it has is never looked for elsewhere.

    Args:
        model: a path, or as a text also a name, see `unipot.zoo.names`. Of a name without a version the newest one in the cache is
            taken, without any there the newest of the registries.

    Raises:
        FileNotFoundError: it is neither a path that is there nor a name that is known. A path that is not there comes back as it is.
        OSError: it cannot be fetched, or not be kept.
        ArtifactError, RegistryError: what is there or comes is not what it should be.
    """
    name = parse_name(model)
    if isinstance(name, Path):
        there = name.expanduser()
        return there if there.exists() else name
    return get_model(name).path


def is_model_name(model: str | os.PathLike[str]) -> bool:
    """Whether it is the name of a model rather than a path."""
    return not isinstance(parse_name(model), Path)


def require_known(model: str) -> None:
    """Look a name up without fetching anything.

    Raises:
        FileNotFoundError: it is the name of no model.
        RegistryError: a registry cannot be read.
    """
    name = parse_name(model)
    if isinstance(name, ZooName) and cached(name, Cache()) is None:
        read_registry().find(name)


def get_model(name: ZooName | HubName | Address, on_progress: Progress | None = None, *, newest: bool = False) -> Installed:
    """A model of the cache, brought there where it is not.

    Args:
        name: of it.
        on_progress: told while something is fetched.
        newest: of a name without a version, the newest of the registries, whatever the cache has.

    Raises:
        FileNotFoundError: no model has this name.
        OSError: it cannot be fetched, or not be kept.
        ArtifactError, RegistryError: what is there or comes is not what it should be.
    """
    cache = Cache()
    if isinstance(name, Address):
        return _from_address(name, cache, on_progress)
    if isinstance(name, HubName):
        raise InputError(f"{name}: models of the hub are not fetched by their names yet; download the file and give its path")
    registry = read_registry()
    if newest and name.version is None and registry.versions(name.name):
        name = ZooName(name.name, registry.find(name).version)
    found = cached(name, cache)
    if found is not None:
        require_as_published(found, registry)
        return found
    return fetch_model(registry.find(name), cache, on_progress)


def cached(name: ZooName, cache: Cache) -> Installed | None:
    """A model of the cache; of a name without a version the newest."""
    versions = [item.entry for item in cache.installed() if item.entry.name == name.name]
    if name.version is not None:
        versions = [entry for entry in versions if version_order(entry.version) == version_order(name.version)]
    return cache.find(max(versions, key=lambda entry: version_order(entry.version)).key) if versions else None


def require_as_published(found: Installed, registry: Registry) -> None:
    """A version in the cache is still the one that the registries mean by it.

    Raises:
        ArtifactError: it was published again with other contents.
    """
    published = registry.entries.get(found.entry.key)
    if published is not None and published.digest != found.entry.digest:
        raise ArtifactError(
            f"{found.entry.key} is another model in {published.source} than the one in the cache (SHA-256 {published.digest[:12]}… and "
            f"{found.entry.digest[:12]}…), and a version never changes; ask those who publish it, and take theirs with "
            f"`unipot zoo remove {found.entry.key}` and `unipot zoo get {found.entry.key}`"
        )


def _from_address(address: Address, cache: Cache, on_progress: Progress | None) -> Installed:
    """One file of a server. Without a hash in the address, what came first is what the address means from then on."""
    file = address.url.partition("?")[0].rpartition("/")[2]
    if not file.endswith(".safetensors"):
        pickled = " (its weights are pickled, and opening a pickle runs code)" if file.endswith(PICKLED_SUFFIXES) else ""
        raise InputError(f"{address} is not the address of a .safetensors file{pickled}, so it is not fetched")
    key = f"address-{hashlib.sha256(address.url.encode()).hexdigest()[:32]}@0"
    found = cache.find(key)
    if found is None:
        if is_offline():
            raise OfflineError(offline_sentence(str(address), cache))
        with writing_to(cache.folder, f"keeping {address.url}"), cache.locked(key):
            return cache.find(key) or _fetched(address, key, cache, on_progress)
    if address.sha256 not in (None, found.entry.files[0].sha256):
        raise ArtifactError(
            f"{address.url} was fetched before with SHA-256 {found.entry.files[0].sha256}, the address says {address.sha256}; "
            f"`unipot zoo remove {key}` forgets what was fetched"
        )
    return found


def _fetched(address: Address, key: str, cache: Cache, on_progress: Progress | None) -> Installed:
    name, _, version = key.partition("@")
    folder = cache.folder / "partial" / name
    source = RawFile(file="model.safetensors", urls=(address.url,), sha256=address.sha256)
    report = on_progress or (lambda file, done, total: None)
    try:
        path = download(source, folder, on_progress=partial(report, source.file), max_bytes=MAX_FILE_BYTES).path
    except DownloadError as error:
        raise UnusableFile(failure_sentence(str(address), error, "")) from error
    file = ModelFile(file=source.file, size=path.stat().st_size, sha256=sha256_of(path), urls=(address.url,))
    unknown = Licence(name=NOT_STATED)
    entry = Entry(name=name, version=version, files=(file,), code=unknown, weights=unknown, source=address.url)
    try:
        return cache.install(entry, lambda wanted, target: os.replace(path, target / wanted.file), check_model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
