"""Which files of a folder hold labelled structures that ASE reads, and why each of the others is left out."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from unipot.data.readers.xyz_frames import COMPRESSED, is_xyz
from unipot.errors import InputError

#: formats of ASE whose readers give energies or forces; `xyz` and `extxyz` are read by ourselves
LABELLED = frozenset(
    "extxyz xyz traj db json abinit-gsr abinit-out acemolecule-out aims-output castep-castep castep-geom castep-md dacapo-text dlp-history "
    "espresso-out gamess-us-out gamess-us-punch gaussian-out gpaw-out gpw lammps-dump-text nwchem-out onetep-out orca-output qbox res "
    "runnerdata turbomole-gradient vasp-out vasp-xml xsf".split()
)
#: suffixes that say enough by themselves
_SURE_SUFFIXES = {".traj": "traj"}
TABLES = {".aselmdb": "aselmdb", ".parquet": "huggingface", ".arrow": "huggingface"}
_ASE_JSON = re.compile(rb'\s*\{\s*"\d+"\s*:\s*\{')
_PEEK = 50_000

EMPTY = "they are empty"
UNKNOWN = "ASE does not read their format"
NO_LABELS = "their format holds no energies and forces"
SAME_RUN = "another file beside them holds the same calculation"
NOT_FOLLOWED = "links to folders are not followed, and only plain files are read"
STORES = "they are unipot stores, which are read one by one"
UNREADABLE = "ASE cannot read their first structure"


@dataclass(frozen=True)
class FoundFiles:
    """What a search found.

    Attributes:
        by_kind: `ase`, `aselmdb` or `huggingface` -> files, sorted.
        left_out: reason -> files and folders, sorted.
    """

    by_kind: dict[str, list[Path]] = field(default_factory=dict)
    left_out: dict[str, list[Path]] = field(default_factory=dict)


def search(folder: Path) -> FoundFiles:
    """Everything below a folder; names that begin with a dot are not looked at.

    Raises:
        OSError: a file cannot be opened.
    """
    files: list[Path] = []
    left_out: dict[str, list[Path]] = {}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        for name in sorted(folders):
            if name.startswith(".") or (here / name / "metadata.json").is_file() or (here / name).is_symlink():
                folders.remove(name)
                if not name.startswith("."):
                    left_out.setdefault(NOT_FOLLOWED if (here / name).is_symlink() else STORES, []).append(here / name)
        files += [here / name for name in names if not name.startswith(".")]
    return sorted_out(files, left_out)


def sorted_out(files: Iterable[Path], left_out: dict[str, list[Path]] | None = None) -> FoundFiles:
    """Files by what reads them.

    Args:
        files: existing ones.
        left_out: what was left out before, which is added to.

    Raises:
        OSError: a file cannot be opened.
    """
    by_kind: dict[str, list[Path]] = {}
    reasons = dict(left_out or {})
    formats: dict[Path, str] = {}
    for file in sorted(files):
        kind, reason = kind_of(file)
        if kind in LABELLED:
            formats[file] = kind
        elif kind:
            by_kind.setdefault(kind, []).append(file)
        else:
            reasons.setdefault(reason, []).append(file)
    same = _told_elsewhere(formats)
    if same:
        reasons[SAME_RUN] = sorted(same)
    if len(formats) > len(same):
        by_kind["ase"] = [file for file in formats if file not in same]
    return FoundFiles(by_kind, {reason: sorted(found) for reason, found in reasons.items()})


def ase_format(file: Path) -> str:
    """The name of the format that ASE, or the reader of XYZ files, reads a file in.

    Raises:
        ValueError: it is none.
    """
    if is_xyz(file):
        return "extxyz"
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        found = filetype(str(file))
    except UnknownFileTypeError as error:
        raise InputError(f"{file} cannot be read by ASE ({error}); the file is damaged or of an unknown format") from error
    if found not in ioformats or not ioformats[found].can_read:
        raise InputError(f"{file} cannot be read by ASE, which does not know the format {found!r}; the file is of an unknown format")
    if found == "db":
        require_ase_database(file)
    return found


def require_ase_database(file: Path) -> None:
    """Look before ASE opens a file: it makes its tables in any SQLite file that lacks them.

    Raises:
        ValueError: it is not a database of ASE's.
    """
    import sqlite3
    from urllib.parse import quote

    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
    except sqlite3.Error as error:
        raise InputError(f"{file} cannot be read by ASE, it is no database ({error})") from error
    if not found:
        raise InputError(f"{file} cannot be read by ASE, it is a database of something else (it has no table 'systems')")


def kind_of(file: Path) -> tuple[str, str]:
    """A format of `LABELLED`, or `aselmdb` or `huggingface`; else "" and the reason for leaving the file out."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        return "", NOT_FOLLOWED
    return _kind_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _kind_of(file: Path, size: int, changed: int) -> tuple[str, str]:
    if file.suffix in TABLES:
        return TABLES[file.suffix], ""
    if is_xyz(file):
        return "extxyz", ""
    if size == 0:
        return "", EMPTY
    plain = file.with_suffix("") if file.suffix in COMPRESSED else file
    if plain.suffix in _SURE_SUFFIXES:
        return _SURE_SUFFIXES[plain.suffix], ""
    found, doubtful = _recognised(file, plain.name)
    if found == "json" and not _is_ase_json(file):
        return "", UNKNOWN
    if found not in LABELLED:
        return "", NO_LABELS if found else UNKNOWN
    if doubtful and not _first_frame_reads(file, found):
        return "", UNREADABLE
    return found, ""


def _recognised(file: Path, name: str) -> tuple[str, bool]:
    """Name of ASE's format, "" for none, and whether only the end of the name speaks for it."""
    from ase.io.formats import UnknownFileTypeError, extension2format, ioformats, match_magic, open_with_compression

    by_name = next((known.name for known in ioformats.values() if known.match_name(name)), None)
    if by_name is not None:
        return by_name, False
    try:
        with open_with_compression(str(file), "rb") as stream:
            return match_magic(stream.read(_PEEK)).name, False
    except UnknownFileTypeError:
        pass
    except (EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        return "", False
    suffix = Path(name).suffix.lower().removeprefix(".")
    known = extension2format.get(suffix) or ioformats.get(suffix)
    return ("", False) if known is None or not known.can_read else (known.name, True)


def _is_ase_json(file: Path) -> bool:
    """Whether a JSON file begins as ASE's databases do; others may be of any size and are not parsed."""
    from ase.io.formats import open_with_compression

    with open_with_compression(str(file), "rb") as stream:
        return _ASE_JSON.match(stream.read(200)) is not None


def _first_frame_reads(file: Path, format: str) -> bool:
    from ase.io import iread

    try:
        if format == "db":
            require_ase_database(file)
        first = next(iter(iread(str(file), index=0, format=format, do_not_split_by_at_sign=True)), None)
    except Exception as error:  # ASE's parsers raise whatever their code runs into
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return False
    return first is not None  # some parsers find no frame in a text of another kind, such as README.md for castep-md


def _told_elsewhere(formats: dict[Path, str]) -> set[Path]:
    """Files whose calculation another one of the same folder tells with more digits or more steps."""
    told = {(file.parent, _run_name(file)) for file, format in formats.items() if format in ("vasp-xml", "gpaw-out")}
    return {file for file, format in formats.items() if format in ("vasp-out", "gpw") and (file.parent, _run_name(file)) in told}


def _run_name(file: Path) -> str:
    """What tells two runs of one folder apart: `.relax1` of `OUTCAR.relax1.gz` and of `vasprun.relax1.xml`, the stem elsewhere."""
    name = file.name.removesuffix(file.suffix) if file.suffix in COMPRESSED else file.name
    if re.search("OUTCAR|vasp", name):
        return re.sub(r"OUTCAR|vasprun|\.xml", "", name).strip("._-")
    return Path(name).stem


def id_prefixes(files: list[Path], root: Path) -> dict[Path, str]:
    """File -> what the ids of its frames begin with: its path below `root` without the suffix, unless another differs in nothing else."""
    names = {file: file.relative_to(root).as_posix() for file in files}
    stems = {file: str(Path(name).with_suffix("")) for file, name in names.items()}
    twins = Counter(stems.values())
    return {file: stem if twins[stem] == 1 else names[file] for file, stem in stems.items()}


def left_out_in_words(left_out: dict[str, list[Path]]) -> list[str]:
    """A sentence for each reason, with the names of the files and how often each occurs."""
    sentences = []
    for reason, files in left_out.items():
        names = Counter(file.name for file in files)
        shown = [name if n == 1 else f"{name} ({n})" for name, n in names.most_common(8)]
        more = f" and {len(names) - len(shown)} other names" if len(names) > len(shown) else ""
        sentences.append(f"left out: {', '.join(shown)}{more}; {reason}")
    return sentences
