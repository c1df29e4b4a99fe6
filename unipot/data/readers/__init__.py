"""Readers of foreign formats: each turns a file, folder or hub name into `Structure`s in canonical units.

Unit and sign of every label come from the caller as `LabelSource`s; a reader never guesses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem, check_sources
from unipot.data.readers.folder_search import TABLES, left_out_in_words, search
from unipot.data.unread_keys import UnreadKey
from unipot.errors import InputError
from unipot.structure import Structure

__all__ = ["FORMATS", "LabelSource", "SkippedItem", "detect_format", "read_structures"]

FORMATS = ("ase", "aselmdb", "huggingface", "unipot")


def read_structures(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource] | None = None,
    format: str = "auto",
    group_key: str | None = None,
    id_key: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_unread: Callable[[UnreadKey], None] | None = None,
) -> Iterator[Structure | SkippedItem]:
    """Stream the structures of a source, in its order.

    Args:
        path: a file, a folder, or the name of a dataset on the Hugging Face hub (`owner/name`). Of a folder of structure files each
            file is a group of its own, unless `group_key` says otherwise.
        labels: property name -> where it is found, its unit and sign; see `LabelSource`. None: as the source says itself, which
            stores and their exports to Parquet do.
        format: one of `FORMATS`, or `auto` to tell by the name.
        group_key: info key or column that says which material or trajectory a structure belongs to; "" lets structures stand alone.
        id_key: info key or column that holds a unique id; by default ids are made from the file and the position.
        columns: geometry field -> column of a Hugging Face dataset, where the names differ from those understood; of other files
            `total_charge`, `spin_multiplicity` or `fixed` -> key.
        split: Hugging Face datasets only: which split, where there are several.
        on_unread: told once of every key and column that nothing reads.

    Yields:
        Structures, and a `SkippedItem` with the reason for each item that cannot be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, the file cannot be read, or a label key is in none of its frames.
    """
    chosen = detect_format(path) if format == "auto" else format
    if labels is None and chosen in ("ase", "aselmdb"):
        check_sources({})
    if split and chosen in FORMATS and chosen != "huggingface":
        raise InputError(f"{path}: split is for Hugging Face datasets; this is format {chosen!r}, leave it out")
    if chosen == "unipot":
        if columns:
            raise InputError(f"{path}: columns are for files; this is a store, leave them out")
        from unipot.data.readers.unipot_store import read_store

        return read_store(path, labels=labels)
    if chosen == "ase":
        from unipot.data.readers.ase_files import read_ase_file, read_ase_folder

        read = read_ase_folder if Path(path).is_dir() else read_ase_file
        return read(path, labels=labels or {}, group_key=group_key, id_key=id_key, columns=columns, on_unread=on_unread)
    if chosen == "aselmdb":
        from unipot.data.readers.aselmdb import read_aselmdb

        return read_aselmdb(path, labels=labels or {}, group_key=group_key or None, id_key=id_key, columns=columns, on_unread=on_unread)
    if chosen == "huggingface":
        from unipot.data.readers.huggingface import read_huggingface

        return read_huggingface(
            path, labels=labels, group_key=group_key or None, id_key=id_key, columns=columns, split=split, on_unread=on_unread
        )
    raise InputError(f"format {chosen!r} is not known; use one of: auto, {', '.join(FORMATS)}")


def detect_format(path: str | Path) -> str:
    """The format of `FORMATS` that the name of `path`, or what is in a folder, stands for.

    Raises:
        FileNotFoundError: the path does not exist and is no hub name either, or a folder holds nothing that can be read.
        ValueError: a folder holds files of several formats.
    """
    text, file = str(path), Path(path)
    if text.startswith("hf://"):
        return "huggingface"
    if (file / "metadata.json").is_file():
        return "unipot"
    if file.is_dir():
        return _format_of_folder(file)
    if file.suffix in TABLES:
        return TABLES[file.suffix]
    if file.exists():
        return "ase"
    raise FileNotFoundError(
        f"{text}: no such file or folder; give the path of a structure file, or hf://owner/name for a dataset on the Hugging Face hub"
    )


def _format_of_folder(folder: Path) -> str:
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):  # of `save_to_disk`
        return "huggingface"
    found = search(folder)
    if len(found.by_kind) == 1:
        return next(iter(found.by_kind))
    if found.by_kind:
        raise InputError(
            f"{folder} holds files of several formats ({', '.join(sorted(found.by_kind))}); state format=, or give a pattern such as "
            f"{folder}/*.extxyz"
        )
    what = "; ".join(left_out_in_words(found.left_out)) or "it is empty"
    raise FileNotFoundError(f"{folder}: the folder holds nothing with labels that can be read; {what}")
