"""`unipot prepare … to=parquet`: a store as a folder for Hugging Face `datasets`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unipot.data.conversion.disk import in_words, require_space
from unipot.data.parquet.export import export_parquet
from unipot.data.store import Store


def export_store(store: Store, folder: Path, *, name: str | None, overwrite: bool, check_disk: bool, console: Console) -> Path:
    """Export with a progress bar, and say where the result is.

    Args:
        store: what is exported, whole, as the split `train`.
        folder: to make.
        name: of the dataset; None: the store's.
        overwrite: replace a folder that is there.
        check_disk: stop before the work when free space will not do.
        console: where progress goes.

    Raises:
        FileExistsError: the folder is there already and `overwrite` is false.
        OSError: the disk is full, or writing is not allowed.
    """
    if check_disk:
        n_bytes = sum(shard["data_bytes"] for shard in store.metadata["shards"])
        require_space({folder.parent: n_bytes}, f"exporting {store.path} to {folder}")
    bar = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task(f"exporting {store.name}", total=len(store))
        export_parquet(store, folder, name=name, overwrite=overwrite, on_progress=lambda n: progress.advance(task, n))
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = in_words(sum(file.stat().st_size for file in files))
    console.print(
        f"wrote {folder}: {len(store):,} structures in {len(files) - 1:,} Parquet file(s) with a dataset card, {size}; "
        f'read with datasets.load_dataset("{folder}") or path={folder}',
        highlight=False,
        soft_wrap=True,
    )
    return folder
