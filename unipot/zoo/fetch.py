"""From a registry to the cache: mirrors in their order, hashes and sizes, then everything that a model must fulfil.

The order of trust: the registry is validated first, then a file is fetched, compared with size and SHA-256, read as safetensors, and
its golden values are computed. Only a model that passes gets its name. Nothing in it is executed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from unipot.data.catalog.cards import RawFile
from unipot.data.catalog.download import CHUNK_BYTES, OFFLINE_VARIABLE, DownloadError, OfflineError, download, is_offline
from unipot.errors import UnusableFile
from unipot.zoo.cache import Cache, Installed
from unipot.zoo.card import ArtifactError, weights_path
from unipot.zoo.licences import licence_of
from unipot.zoo.pickled import is_pickled, refusal
from unipot.zoo.registry import require_in_use
from unipot.zoo.registry_schema import Entry, ModelFile

#: called with a file's name, the bytes so far and the bytes in all
Progress = Callable[[str, int, int | None], None]


def fetch_model(entry: Entry, cache: Cache, on_progress: Progress | None = None) -> Installed:
    """Bring a model of a registry into the cache.

    Raises:
        OfflineError: it would have to be fetched, and connections are forbidden.
        OSError: no mirror gives it, or it cannot be kept.
        ArtifactError: what came is not the model that the registry says, or is pickled.
        ValueError: it was withdrawn.
    """
    require_in_use(entry)
    if is_offline() and not all(_here(file) for file in entry.files):
        raise OfflineError(offline_sentence(entry.key, cache))

    def bring(file: ModelFile, folder: Path) -> None:
        _bring(entry, file, folder, on_progress or (lambda name, done, total: None))

    return cache.install(entry, bring, check_model)


def offline_sentence(name: str, cache: Cache) -> str:
    """What is missing, and the commands that bring it."""
    file = f"{name.rpartition('/')[2].partition('@')[0]}.tar"
    return (
        f"{name} is not in the cache ({cache.folder}), and ${OFFLINE_VARIABLE} forbids to fetch it; where there is internet run "
        f"`unipot zoo bundle {name} -o {file}`, copy {file} here and run `unipot zoo import {file}`"
    )


def check_model(path: Path, entry: Entry) -> None:
    """The model at `path` is one, is what the entry says of it, and gives its golden values.

    Raises:
        ArtifactError: it is not.
    """
    from unipot.zoo.checks import checked
    from unipot.zoo.loading import load_path

    try:
        weights = weights_path(path)
        if is_pickled(weights):
            raise ArtifactError(f"{weights.name} is no safetensors file: {refusal(weights)}")
        artifact = load_path(path)
        checked(artifact, path)
    except (ValueError, FileNotFoundError) as error:
        words = str(error).replace(f"{path}: ", "").replace(f"{path}{os.sep}", "").replace(str(path), "the file")
        raise ArtifactError(f"{entry.key} is not taken into the cache: {words}") from error
    levels = {name: artifact.potential.heads[name].level_of_theory for name in artifact.potential.head_names}
    if entry.heads and dict(entry.heads) != levels:
        raise ArtifactError(f"{entry.key}: {entry.source} lists the heads {dict(entry.heads)}, the model has {levels}; it is not taken")
    for what, said in (("weights", entry.weights), ("code", entry.code)):
        own = licence_of(artifact.card, what)
        if own.is_stated and said.is_stated and own.name != said.name:
            listed, stated = f"{said.name} by {entry.source}", f"{own.name} by the card of the model"
            raise ArtifactError(f"{entry.key}: the licence of the {what} is {listed} and {stated}; it is not taken")


def _here(file: ModelFile) -> bool:
    return any("://" not in url and Path(url).is_file() for url in file.urls)


def _bring(entry: Entry, file: ModelFile, folder: Path, on_progress: Progress) -> None:
    """One file: from a folder of this machine where there is one, else from the first server that gives the right one."""
    for url in file.urls:
        if "://" not in url and Path(url).is_file() and Path(url).stat().st_size == file.size:
            _copy(Path(url), folder / file.file)
            return
    remote = tuple(url for url in file.urls if "://" in url)
    if not remote:
        where = ", ".join(file.urls) or "no address"
        raise UnusableFile(f"{entry.key}: {file.file} is not at {where}, which {entry.source} names; correct the registry")
    source = RawFile(file=file.file, urls=remote, sha256=file.sha256, size=file.size)
    try:
        download(source, folder, on_progress=lambda done, total: on_progress(file.file, done, total))
    except OfflineError as error:
        raise OfflineError(offline_sentence(entry.key, Cache())) from error
    except DownloadError as error:
        raise UnusableFile(failure_sentence(entry.key, error, entry.access)) from error


def failure_sentence(name: str, error: DownloadError, access: str) -> str:
    """What each mirror did, and what is left to do."""
    problems = "; ".join(error.problems)
    if not error.denied:
        return f"{name} could not be downloaded: {problems}; run it again to continue, or bring it from elsewhere with `unipot zoo bundle`"
    how = access or f"ask for access where it is published ({error.denied[0]})"
    return (
        f"{name} is not open to everybody: {problems}; {how.rstrip('.')}; for the Hugging Face hub put your token into $HF_TOKEN; a file "
        "that you have is used by its path, checkpoint=/path/to/model.safetensors"
    )


def _copy(source: Path, target: Path) -> None:
    """Bytes alone; links, owners and times stay behind."""
    with open(source, "rb") as read, open(target, "wb") as written:
        shutil.copyfileobj(read, written, CHUNK_BYTES)
