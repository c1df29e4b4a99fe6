"""Checksums of exports: `SHA256SUMS` beside the files, as `sha256sum --check` reads it, and checksums of pages within them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from unipot.data.conversion.source_description import SourceDescription
from unipot.data.parquet.table import METADATA_KEY, schema_of
from unipot.errors import InputError

FILE_NAME = "SHA256SUMS"
#: key of the schema's metadata for the hash of what stands under `METADATA_KEY`
DESCRIPTION_HASH_KEY = METADATA_KEY + b"_sha256"
_LINE = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>.+)")
#: files whose soundness a process remembers
_REMEMBERED = 4096


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` of every file below `folder`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != FILE_NAME)
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / FILE_NAME).write_text("".join(lines), encoding="utf-8")


def require_sound(files: Iterable[Path]) -> None:
    """Compare Parquet files with the `SHA256SUMS` of their folder or the one above; without one, pages with their checksums.

    Files of other makers that have neither pass. A file that did not change is looked at once per process.

    Raises:
        ValueError: a file differs, or cannot be read.
    """
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} cannot be read as a dataset (it is not a regular file); give a .parquet file or a folder of them")
        stat = file.stat()
        _look_at(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=_REMEMBERED)
def _look_at(file: Path, size: int, changed: int) -> None:
    recorded = _recorded(file)
    if recorded is None:
        _check_pages(file)
    elif _sha256(file) != recorded:
        raise InputError(f"{file} does not match {FILE_NAME}, it was damaged or altered; fetch it again, or export it again")


def _recorded(file: Path) -> str | None:
    """The hash that stands in `SHA256SUMS` for a file; None where there is none."""
    for folder in (file.parent, file.parent.parent):
        listed = folder / FILE_NAME
        if not listed.is_file():
            continue
        lines = [_LINE.fullmatch(line) for line in listed.read_text(encoding="utf-8", errors="replace").splitlines()]
        hashes = {line["name"]: line["hash"] for line in lines if line}
        if (name := file.relative_to(folder).as_posix()) in hashes:
            return hashes[name]
    return None


def _check_pages(file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
        metadata = schema.metadata or {}
        text = metadata.get(METADATA_KEY)
        if text is None:
            return
        if DESCRIPTION_HASH_KEY in metadata and hashlib.sha256(text).hexdigest().encode() != metadata[DESCRIPTION_HASH_KEY]:
            raise InputError("what it says of itself does not match its hash")
        described = SourceDescription.from_json(text, str(file))
        if not schema.equals(schema_of(tuple(described.labels), described.precision)):
            raise InputError("its columns are not those of an export")
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as content:
            for _ in content.iter_batches():
                pass
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{file} cannot be read as a dataset ({reason}); the file may be damaged, fetch or export it again") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
