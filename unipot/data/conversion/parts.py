"""Sources of a conversion: what is read, in which units of work, and what to remember so that a change is noticed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from unipot.data.catalog.raw_files import contents_size
from unipot.data.catalog.recipes import load_recipe
from unipot.data.labels import LabelSource, SkippedItem, check_sources, missing_keys_message
from unipot.data.readers import FORMATS, detect_format, read_structures
from unipot.data.readers.ase_files import STATE_FIELDS
from unipot.data.readers.extxyz_pieces import Piece, find_pieces
from unipot.data.readers.folder_search import FoundFiles, id_prefixes, left_out_in_words, search, sorted_out
from unipot.data.readers.xyz_frames import SUFFIXES as EXTXYZ
from unipot.data.unread_keys import UnreadKey
from unipot.errors import InputError
from unipot.structure import Structure

#: bytes of an extended XYZ file in one part: at least, at most; between them a file becomes this many parts
_SMALLEST_PIECE, _LARGEST_PIECE, _PIECES = 1 << 25, 1 << 30, 256
#: rows of an .aselmdb file in one part, at least
_ROWS = 5000
#: bytes of small files that become one part, at least
_SMALLEST_BUNDLE = 1 << 22
#: files whose keys are listed where a label is in none
_FILES_IN_MESSAGES = 20


class PartSource(Protocol):
    """Something that is converted; picklable, so that worker processes can read it."""

    def parts(self) -> list[str]:
        """Names of the units of work, in a fixed order."""
        ...

    def items(self, part: str) -> Iterator[Structure | SkippedItem | UnreadKey]:
        """Stream one unit of work, always in the same order; keys that nothing reads come before the structure that has them."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able; equal fingerprints give equal structures."""
        ...

    def size(self) -> int:
        """Bytes of the files that are read, compressed ones as what they are taken to hold; 0 where it is not known."""
        ...

    def explain_missing(self, labels: list[str]) -> str:
        """The sentence for declared labels that no structure carries."""
        ...


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """The structures of a recipe.

    Attributes:
        folder: that holds the recipes.
        name: of the recipe.
        raw: its raw files; None for a recipe that reads none.
        options: of the recipe.
    """

    folder: Path
    name: str
    raw: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> list[str]:
        recipe = load_recipe(self.folder, self.name)
        return recipe.parts(self.raw or Path(), **self.options)

    def items(self, part: str) -> Iterator[Structure | SkippedItem]:
        return load_recipe(self.folder, self.name).structures(self.raw, part, **self.options)

    def fingerprint(self) -> dict[str, Any]:
        recipe = load_recipe(self.folder, self.name)
        files = [] if self.raw is None else [self.raw / source.file for source in recipe.needed_files(self.options)]
        if self.raw is not None:
            files += [self.raw / part.partition("#")[0] for part in self.parts()]
        return {"recipe": self.name, "code": recipe.digest, "options": dict(self.options), "files": _stamps(files)}

    def size(self) -> int:
        if self.raw is None:
            return 0
        files = {self.raw / part.partition("#")[0] for part in self.parts()}
        return sum(contents_size(file.name, file.stat().st_size) for file in files if file.is_file())

    def explain_missing(self, labels: list[str]) -> str:
        return (
            f"recipe {self.name!r}: no structure carries the label {labels[0]!r} that its card declares; the raw files lack it, or "
            f"{load_recipe(self.folder, self.name).program} does not read it"
        )


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Structures in files of the user, or in a Hugging Face dataset.

    Attributes:
        path: a file, a folder, a pattern with `*`, or `hf://owner/name`.
        labels: property name -> where it is found, its unit and sign.
        format: one of `unipot.data.readers.FORMATS`.
        group_key, id_key, columns, split: see `unipot.data.readers.read_structures`.
        keep_unconverged: read frames whose electrons did not converge too.
    """

    path: str
    labels: Mapping[str, LabelSource]
    format: str
    group_key: str | None = None
    id_key: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    keep_unconverged: bool = False

    def __post_init__(self) -> None:
        check_sources(self.labels)
        if self.split and self.format != "huggingface":
            raise InputError(f"{self.path}: split is for Hugging Face datasets, not format {self.format!r}; leave it out")
        unknown = [name for name in self.columns if self.format != "huggingface" and name not in STATE_FIELDS]
        if unknown:
            raise InputError(
                f"{self.path}: columns.{unknown[0]} is for Hugging Face datasets, not format {self.format!r}; there columns may name "
                f"{', '.join(STATE_FIELDS)}"
            )

    def parts(self) -> list[str]:
        if self.format != "ase" or len(self._files) == 1:
            return [f"{self._name(file)}{piece}" for file in self._files for piece in self._pieces(file)] if self._files else [""]
        found, first, n_bytes = [], 0, 0
        sizes = [file.stat().st_size for file in self._files]
        enough = max(sum(sizes) // _PIECES, _SMALLEST_BUNDLE)
        for number, (file, size) in enumerate(zip(self._files, sizes, strict=True)):
            pieces = self._pieces(file)
            n_bytes += size
            if len(pieces) > 1 or n_bytes >= enough or number + 1 == len(sizes):
                last = number if len(pieces) > 1 else number + 1  # a file in pieces is no part of a bundle
                found += _bundle(first, last) + [f"{self._name(file)}{piece}" for piece in pieces if len(pieces) > 1]
                first, n_bytes = number + 1, 0
        return found

    def items(self, part: str) -> Iterator[Structure | SkippedItem | UnreadKey]:
        unread: list[UnreadKey] = []
        for item in self._structures(part, unread):
            yield from unread
            unread.clear()
            yield item
        yield from unread

    def remarks(self) -> list[str]:
        """Sentences on the files of a folder or pattern: what is left out and why, and what is a group."""
        if not self._files:
            return []
        kinds = self._found.by_kind
        others = {f"they are of another format, read with format={kind}": files for kind, files in kinds.items() if kind != self.format}
        said = left_out_in_words({**self._found.left_out, **others})
        if self.format == "ase" and len(self._files) > 1 and self.group_key is None:
            said.append(f"the frames of each of the {len(self._files):,} files are a group, held out together; group_key=... states others")
        return said

    def files(self) -> list[Path]:
        """What is read; none for what only the `datasets` package takes apart.

        Raises:
            FileNotFoundError: there are none.
        """
        return list(self._files)

    def _structures(self, part: str, unread: list[UnreadKey]) -> Iterator[Structure | SkippedItem]:
        options: dict[str, Any] = {"labels": self.labels, "group_key": self.group_key or None, "id_key": self.id_key}
        options |= {"columns": self.columns, "on_unread": unread.append}
        if not part:
            return read_structures(self.path, format=self.format, split=self.split, **options)
        bundle = re.fullmatch(r"files (\d+) to (\d+)", part)
        if bundle and self.format == "ase" and len(self._files) > 1:
            return (item for file in self._files[int(bundle[1]) - 1 : int(bundle[2])] for item in self._of_file(file, [], options))
        name, numbers = _split_part(part)
        return self._of_file(_root(self.path) / name, numbers, options)

    def _of_file(self, file: Path, numbers: list[int], options: dict[str, Any]) -> Iterator[Structure | SkippedItem]:
        prefix = self._prefixes[file]
        options = options | {"id_prefix": prefix, "check_keys": False}
        if self.format == "ase":
            from unipot.data.readers.ase_files import read_ase_file, read_one_of_many

            several = len(self._files) > 1
            read = read_one_of_many if several else read_ase_file
            group = prefix if several and self.group_key is None else ""
            options |= {"keep_unconverged": self.keep_unconverged}
            return read(file, piece=Piece(*numbers) if numbers else None, group=group, **options)
        if self.format == "aselmdb":
            from unipot.data.readers.aselmdb import read_aselmdb

            return read_aselmdb(file, rows=range(*numbers) if numbers else None, **options)
        if self.format == "huggingface":
            from unipot.data.readers.huggingface import read_huggingface

            del options["check_keys"]  # a table has its columns or has not
            first, last, row = numbers or (0, 0, 0)
            groups = {"row_groups": range(first, last), "first_row": row} if numbers else {}
            return read_huggingface(file, **groups, **options)
        raise InputError(f"format {self.format!r} is not known; use one of: auto, {', '.join(FORMATS)}")

    @cached_property
    def _found(self) -> FoundFiles:
        return find_files(self.path, self.format)

    @cached_property
    def _files(self) -> list[Path]:
        """Files to read; none for what only the `datasets` package takes apart."""
        if self.format != "huggingface":
            return self._found.by_kind[self.format]
        if not Path(self.path).exists():
            return []
        from unipot.data.readers.huggingface import local_files

        return local_files(Path(self.path), self.split)

    @cached_property
    def _prefixes(self) -> dict[Path, str]:
        """File -> what its ids begin with."""
        return id_prefixes(self._files, _root(self.path))

    def _pieces(self, file: Path) -> list[str]:
        """What is added to the file's name in the names of its parts."""
        if self.format == "aselmdb":
            from unipot.data.readers.aselmdb import last_row_id

            last = last_row_id(file)
            step = max(_ROWS, -(-last // _PIECES))
            return [f"#{k}-{min(k + step, last + 1)}" for k in range(1, last + 1, step)] if last > step else [""]
        if file.suffix == ".parquet":
            return _row_group_pieces(file)
        size = file.stat().st_size
        wanted = min(max(size // _PIECES, _SMALLEST_PIECE), _LARGEST_PIECE)
        if self.format != "ase" or file.suffix not in EXTXYZ or size <= wanted:
            return [""]
        # None: one part, and ASE says what it thinks of the file
        return [f"#{p.start}-{p.stop}-{p.first_frame}" for p in find_pieces(file, wanted) or []] or [""]

    def fingerprint(self) -> dict[str, Any]:
        files = self._files or [file for file in Path(self.path).rglob("*") if file.is_file()]
        labels = {name: source.to_dict() for name, source in self.labels.items()}
        rest = {key: getattr(self, key) for key in ("format", "group_key", "id_key", "split")}
        rest |= {"keep_unconverged": True} if self.keep_unconverged else {}
        return {"path": self.path, "labels": labels, **rest, "columns": dict(self.columns), "files": _stamps(files)}

    def size(self) -> int:
        return sum(contents_size(file.name, file.stat().st_size) for file in self._files)

    def explain_missing(self, labels: list[str]) -> str:
        missing = {name: self.labels[name] for name in labels}
        if self.format != "ase":
            return f"{self.path}: no structure has the label key {', '.join(repr(source.key) for source in missing.values())}"
        from unipot.data.readers.assumed_labels import keys_of

        return missing_keys_message(self.path, missing, set().union(*map(keys_of, self._files[:_FILES_IN_MESSAGES])))

    def _name(self, file: Path) -> str:
        return file.relative_to(_root(self.path)).as_posix()


def _bundle(first: int, last: int) -> list[str]:
    """The name of the part that holds files `first` to `last` - 1, which people count from 1; none without any."""
    return [f"files {first + 1} to {last}"] if last > first else []


def _row_group_pieces(file: Path) -> list[str]:
    """`#<first group>-<group behind the last>-<first row>` of consecutive row groups."""
    from unipot.data.parquet.export_checksums import require_sound
    from unipot.data.readers.huggingface import rows_of_groups

    require_sound([file])
    counts = rows_of_groups(file)
    wanted = max(_ROWS, sum(counts) // _PIECES)
    pieces, first, row, rows = [], 0, 0, 0
    for group, count in enumerate(counts, start=1):
        rows += count
        if rows >= wanted or group == len(counts):
            pieces.append(f"#{first}-{group}-{row}")
            first, row, rows = group, row + rows, 0
    return pieces if len(pieces) > 1 else [""]


def _split_part(part: str) -> tuple[str, list[int]]:
    """File and numbers of the piece, which `#` divides; a file's own name may hold a `#` too."""
    found = re.fullmatch(r"(.*)#(\d+(?:-\d+)+)", part)
    return (found[1], [int(number) for number in found[2].split("-")]) if found else (part, [])


def format_of(path: str) -> str:
    """The format that the name of a file, the files of a folder or of a pattern stand for.

    Raises:
        FileNotFoundError: there is no such file, or none that can be read.
        ValueError: the files of a folder or pattern are of several formats.
    """
    files = _matches(path)
    formats = sorted(sorted_out(files).by_kind) if files else []
    if len(formats) > 1:
        raise InputError(f"{path} stands for files of several formats ({', '.join(formats)}); convert those of one format at a time")
    return formats[0] if formats else detect_format(files[0] if files else path)


def find_files(path: str, format: str) -> FoundFiles:
    """The files behind `path`, with those of `format` in `by_kind`, and what is left out.

    Args:
        path: a file, a folder or a pattern.
        format: of `unipot.data.readers.FORMATS`.

    Raises:
        FileNotFoundError: there are none of that format.
    """
    if Path(path).is_file():
        return FoundFiles({format: [Path(path)]})
    if Path(path).is_dir():
        found = search(Path(path))
    else:
        files = _matches(path)
        found = FoundFiles({format: files}) if len(files) == 1 else sorted_out(files)
    if format not in found.by_kind:
        why = "".join(f"; {sentence}" for sentence in left_out_in_words(found.left_out))
        raise FileNotFoundError(f"{path}: no such file, or no file of format {format!r} in it; give the path of a structure file{why}")
    return found


def _matches(path: str) -> list[Path]:
    """Files that a pattern stands for; none where it is a file or folder itself."""
    if "*" not in path or Path(path).exists():
        return []
    return sorted(Path(name) for name in glob.glob(path, recursive=True) if Path(name).is_file())


def _root(path: str) -> Path:
    """Folder that part names count from."""
    if "*" in path and not Path(path).exists():
        return Path(path.partition("*")[0] + "x").parent
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _stamps(files: list[Path]) -> dict[str, list[int]]:
    """File -> size and time of change, for those that are there."""
    found = {str(file): file.stat() for file in files if file.exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(found.items())}
