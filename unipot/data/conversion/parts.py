"""Sources of a conversion: what is read, in which units of work, and what to remember so that a change is noticed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unipot.data.catalog.raw_files import contents_size
from unipot.data.catalog.recipes import load_recipe
from unipot.data.labels import LabelSource, SkippedItem, check_sources, missing_keys_message
from unipot.data.readers import FORMATS, detect_format, read_structures
from unipot.data.readers.extxyz_pieces import SUFFIXES as EXTXYZ
from unipot.data.readers.extxyz_pieces import Piece, find_pieces
from unipot.structure import Structure

#: bytes of an extended XYZ file in one part: at least, at most; between them a file becomes this many parts
_SMALLEST_PIECE, _LARGEST_PIECE, _PIECES = 1 << 25, 1 << 30, 256
#: rows of an .aselmdb file in one part, at least
_ROWS = 5000
#: what a folder is searched for
_FRAME_FILES = (*EXTXYZ, ".traj", ".db")


class PartSource(Protocol):
    """Something that is converted; picklable, so that worker processes can read it."""

    def parts(self) -> list[str]:
        """Names of the units of work, in a fixed order."""
        ...

    def items(self, part: str) -> Iterator[Structure | SkippedItem]:
        """Stream one unit of work, always in the same order."""
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
            f"{load_recipe(self.folder, self.name).folder / 'recipe.py'} does not read it"
        )


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Structures in files of the user, or in a Hugging Face dataset.

    Attributes:
        path: a file, a folder, a pattern with `*`, or `hf://owner/name`.
        labels: property name -> where it is found, its unit and sign.
        format: one of `unipot.data.readers.FORMATS`.
        group_key, id_key, columns, split: see `unipot.data.readers.read_structures`.
    """

    path: str
    labels: Mapping[str, LabelSource]
    format: str
    group_key: str | None = None
    id_key: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None

    def __post_init__(self) -> None:
        check_sources(self.labels)
        if (self.columns or self.split) and self.format != "huggingface":
            raise ValueError(f"{self.path}: columns and split are for Hugging Face datasets, not format {self.format!r}; leave them out")

    def parts(self) -> list[str]:
        files = self._files()
        return [f"{self._name(file)}{piece}" for file in files for piece in self._pieces(file)] if files else [""]

    def _id_prefix(self, name: str) -> str:
        """The file without its suffix, unless another file differs in nothing else."""
        stem = str(Path(name).with_suffix(""))
        twins = [file for file in self._files() if str(Path(self._name(file)).with_suffix("")) == stem]
        return name if len(twins) > 1 else stem

    def items(self, part: str) -> Iterator[Structure | SkippedItem]:
        options = {"labels": self.labels, "group_key": self.group_key, "id_key": self.id_key}
        if not part:
            return read_structures(self.path, format=self.format, columns=self.columns, split=self.split, **options)
        name, numbers = _split_part(part)
        options |= {"id_prefix": self._id_prefix(name), "check_keys": False}
        if self.format == "ase":
            from unipot.data.readers.ase_files import read_ase_file

            return read_ase_file(_root(self.path) / name, piece=Piece(*numbers) if numbers else None, **options)
        if self.format == "aselmdb":
            from unipot.data.readers.aselmdb import read_aselmdb

            return read_aselmdb(_root(self.path) / name, rows=range(*numbers) if numbers else None, **options)
        if self.format == "huggingface":
            from unipot.data.readers.huggingface import read_huggingface

            del options["check_keys"]  # a table has its columns or has not
            first, last, row = numbers or (0, 0, 0)
            groups = {"row_groups": range(first, last), "first_row": row} if numbers else {}
            return read_huggingface(_root(self.path) / name, columns=self.columns, **groups, **options)
        raise ValueError(f"format {self.format!r} is not known; use one of: auto, {', '.join(FORMATS)}")

    def _files(self) -> list[Path]:
        """Files to read; none for what only the `datasets` package takes apart."""
        if self.format != "huggingface":
            return _files(self.path, self.format)
        if not Path(self.path).exists():
            return []
        from unipot.data.readers.huggingface import local_files

        return local_files(Path(self.path), self.split)

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
        files = self._files() or [file for file in Path(self.path).rglob("*") if file.is_file()]
        labels = {name: asdict(source) for name, source in self.labels.items()}
        rest = {key: getattr(self, key) for key in ("format", "group_key", "id_key", "split")}
        return {"path": self.path, "labels": labels, **rest, "columns": dict(self.columns), "files": _stamps(files)}

    def size(self) -> int:
        return sum(contents_size(file.name, file.stat().st_size) for file in self._files())

    def explain_missing(self, labels: list[str]) -> str:
        missing = {name: self.labels[name] for name in labels}
        if self.format != "ase":
            return f"{self.path}: no structure has the label key {', '.join(repr(source.key) for source in missing.values())}"
        from unipot.data.readers.ase_files import keys_of

        return missing_keys_message(self.path, missing, keys_of(_files(self.path, self.format)[0]))

    def _name(self, file: Path) -> str:
        return file.relative_to(_root(self.path)).as_posix()


def first_file(path: str, format: str) -> Path:
    """The file that is read first of a file, folder or pattern.

    Raises:
        FileNotFoundError: there is none.
    """
    return _files(path, format)[0]


def _row_group_pieces(file: Path) -> list[str]:
    """`#<first group>-<group behind the last>-<first row>` of consecutive row groups."""
    from unipot.data.parquet.checksums import require_sound
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
        FileNotFoundError: there is no such file.
        ValueError: the files of a pattern are of several formats.
    """
    if Path(path).is_dir():
        files = [file for file in Path(path).rglob("*") if file.is_file()]
        kinds = {"ase": _FRAME_FILES, "aselmdb": (".aselmdb",), "huggingface": (".parquet", ".arrow")}
        present = [kind for kind, suffixes in kinds.items() if any(_ends_with(file, suffixes) for file in files)]
        if len(present) > 1:
            raise ValueError(
                f"{path} holds files of several formats ({', '.join(present)}); state format=, or give a pattern such as {path}/*.extxyz"
            )
        if present == ["ase"]:
            return "ase"
    if "*" in path and not Path(path).exists():
        files = sorted(glob.glob(path, recursive=True))
        formats = sorted({detect_format(file) for file in files})
        if len(formats) > 1:
            raise ValueError(f"{path} stands for files of several formats ({', '.join(formats)}); convert those of one format at a time")
        if formats:
            return formats[0]
    return detect_format(path)


def _root(path: str) -> Path:
    """Folder that part names count from."""
    if "*" in path and not Path(path).exists():
        return Path(path.partition("*")[0] + "x").parent
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _files(path: str, format: str) -> list[Path]:
    """Files behind `path`, sorted.

    Raises:
        FileNotFoundError: there are none.
    """
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        suffixes = {"ase": _FRAME_FILES, "aselmdb": (".aselmdb",)}.get(format, (".parquet", ".arrow"))
        files = sorted(file for file in Path(path).rglob("*") if _ends_with(file, suffixes))
    else:
        files = sorted(Path(name) for name in glob.glob(path, recursive=True) if Path(name).is_file())
    if not files:
        raise FileNotFoundError(f"{path}: no such file, or no file of format {format!r} in it; give the path of a structure file")
    return files


def _ends_with(file: Path, suffixes: tuple[str, ...]) -> bool:
    plain = file.with_suffix("") if file.suffix in (".gz", ".bz2", ".xz") else file
    return plain.suffix in suffixes and file.is_file() and not file.name.startswith(".")


def _stamps(files: list[Path]) -> dict[str, list[int]]:
    """File -> size and time of change, for those that are there."""
    found = {str(file): file.stat() for file in files if file.exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(found.items())}
