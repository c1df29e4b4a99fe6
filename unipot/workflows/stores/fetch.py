"""The download phase of `unipot prepare recipe=…`, with a progress bar per file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from unipot.data.catalog.cards import RawFile
from unipot.data.catalog.raw_files import RawFolder, fetch_all, use_existing


def fetch_raw_files(sources: Sequence[RawFile], folder: Path, *, verify: bool, console: Console) -> RawFolder:
    """Download what is missing, verify and unpack; see `unipot.data.catalog.raw_files.fetch_all`."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total)
            progress.update(tasks[file], completed=done, total=total)

        found = fetch_all(sources, folder, show, verify=verify)
    _say_what_was_verified(sources, verify, console)
    return found


def find_raw_files(sources: Sequence[RawFile], folder: Path, *, verify: bool, allow_missing: bool, console: Console) -> RawFolder:
    """Use the files of a folder; see `unipot.data.catalog.raw_files.use_existing`."""
    found = use_existing(sources, folder, verify=verify, allow_missing=allow_missing)
    for file in found.missing:
        console.print(f"  {file} is missing and left out", highlight=False, soft_wrap=True)
    _say_what_was_verified(sources, verify, console)
    return found


def _say_what_was_verified(sources: Sequence[RawFile], verify: bool, console: Console) -> None:
    if not verify:
        console.print("  sizes and hashes of the raw files are not compared with the card (verify=false)", highlight=False)
        return
    unknown = [source.file for source in sources if source.sha256 is None and source.md5 is None]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        console.print(f"  the card has no hash of {unknown[0]}{more}: not verified", highlight=False, soft_wrap=True)
