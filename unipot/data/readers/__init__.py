"""Readers of foreign formats: each turns a file, folder or hub name into `Structure`s in canonical units.

Unit and sign of every label come from the caller as `LabelSource`s; a reader never guesses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from unipot.data.labels import LabelSource, SkippedItem, check_sources
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
) -> Iterator[Structure | SkippedItem]:
    """Stream the structures of a source, in its order.

    Args:
        path: a file, a folder, or the name of a dataset on the Hugging Face hub (`owner/name`).
        labels: property name -> where it is found, its unit and sign; see `LabelSource`. None: as the source says itself, which
            stores and their exports to Parquet do.
        format: one of `FORMATS`, or `auto` to tell by the name.
        group_key: info key or column that says which material or trajectory a structure belongs to.
        id_key: info key or column that holds a unique id; by default ids are made from the file and the position.
        columns: Hugging Face datasets only: geometry field -> column, where the names differ from those understood.
        split: Hugging Face datasets only: which split, where there are several.

    Yields:
        Structures, and a `SkippedItem` with the reason for each item that cannot be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, the file cannot be read, or a label key is in none of its frames.
    """
    chosen = detect_format(path) if format == "auto" else format
    if labels is None and chosen in ("ase", "aselmdb"):
        check_sources({})
    if (columns or split) and chosen in FORMATS and chosen != "huggingface":
        raise ValueError(f"{path}: columns and split are for Hugging Face datasets; this is format {chosen!r}, leave them out")
    if chosen == "unipot":
        from unipot.data.readers.unipot_store import read_store

        return read_store(path, labels=labels)
    if chosen == "ase":
        from unipot.data.readers.ase_files import read_ase_file

        return read_ase_file(path, labels=labels or {}, group_key=group_key, id_key=id_key)
    if chosen == "aselmdb":
        from unipot.data.readers.aselmdb import read_aselmdb

        return read_aselmdb(path, labels=labels or {}, group_key=group_key, id_key=id_key)
    if chosen == "huggingface":
        from unipot.data.readers.huggingface import read_huggingface

        return read_huggingface(path, labels=labels, group_key=group_key, id_key=id_key, columns=columns, split=split)
    raise ValueError(f"format {chosen!r} is not known; use one of: auto, {', '.join(FORMATS)}")


def detect_format(path: str | Path) -> str:
    """The format of `FORMATS` that the name of `path` stands for.

    Raises:
        FileNotFoundError: the path does not exist and is no hub name either.
    """
    text, file = str(path), Path(path)
    if text.startswith("hf://") or file.suffix in (".parquet", ".arrow"):
        return "huggingface"
    if file.suffix == ".aselmdb":
        return "aselmdb"
    if (file / "metadata.json").is_file():
        return "unipot"
    if file.is_dir():
        return "aselmdb" if any(file.rglob("*.aselmdb")) else "huggingface"
    if file.exists():
        return "ase"
    raise FileNotFoundError(
        f"{text}: no such file or folder; give the path of a structure file, or hf://owner/name for a dataset on the Hugging Face hub"
    )
