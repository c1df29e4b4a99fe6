"""Extended XYZ, frame by frame and column by column.

It reads what ASE writes (`Lattice`, `Properties`, quoted values, logical columns as T and F) and refuses what it cannot read whole: a
line with too few or too many columns, a word where a number should stand, a periodicity that is neither T nor F. ASE's own reader
ends at the first empty line, and leaves columns out that `Properties` does not name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from unipot.data.readers.comment_line import key_values
from unipot.errors import InputError
from unipot.structure import ISOTOPES, SYMBOLS

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)} | {symbol: number for symbol, (number, _) in ISOTOPES.items()}
_ISOTOPES = {spelling for symbol in ISOTOPES for spelling in (symbol, symbol.lower())}
_LOGICAL = {word: value for value, words in ((True, "T True true TRUE 1"), (False, "F False false FALSE 0")) for word in words.split()}
#: what ASE calls the columns of elements and places
_COLUMN_NAMES = {"positions": "pos", "symbols": "species", "numbers": "Z"}
_PLAIN = "species:S:1:pos:R:3"
#: keys of the comment line that are not information but format
_FORMAT_KEYS = ("Properties", "Lattice", "pbc")


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        atomic_numbers: (n_atoms,).
        columns: per-atom columns by name, `pos` among them: (n_atoms,) or (n_atoms, n) float64, int64, bool or text.
        cell: (3, 3), rows are lattice vectors; zeros without a `Lattice`.
        pbc: (3,) bool; without `pbc` true where there is a `Lattice`.
        info: the other values of the comment line, as text.
        isotopes: positions of the atoms that are called D or T, with their masses in u.
        n_unnamed: columns behind those that `Properties` names.
    """

    atomic_numbers: np.ndarray
    columns: dict[str, np.ndarray]
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, str]
    isotopes: tuple[tuple[int, float], ...] = ()
    n_unnamed: int = 0

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def energy(self) -> float | None:
        """The value of `energy`, or None.

        Raises:
            ValueError: it is not a number.
        """
        return None if "energy" not in self.info else float(self.info["energy"])


class AtomLineError(InputError):
    """An atom line cannot be read.

    Args:
        atom: number of the line among those of the frame, from 0; -1 where it is not known.
        what: a sentence.
    """

    def __init__(self, atom: int, what: str) -> None:
        super().__init__(what)
        self.atom = atom


def frame_texts(lines: Iterable[str], where: str) -> Iterator[list[str]]:
    """Comment line and atom lines of each frame, unparsed: frames that are not needed cost little.

    Raises:
        ValueError: a frame does not begin with the number of its atoms, or the file ends within one.
    """
    iterator = iter(lines)
    for number, line in enumerate(iterator):
        if not line.strip():
            continue  # empty lines at the end of a file
        if not line.strip().isdigit():
            raise InputError(f"{where}: expected a number of atoms, found {line.strip()[:40]!r} (after {number} frames)")
        n_lines = int(line) + 1
        frame = [text for _, text in zip(range(n_lines), iterator, strict=False)]
        if len(frame) < n_lines:
            raise InputError(f"{where}: the file ends within a frame (after {number} frames); fetch it again")
        yield frame


def parse_frame(lines: list[str]) -> Frame:
    """`parse` of a comment line and atom lines, without columns that `Properties` does not name.

    Raises:
        ValueError: see `parse`; or there are such columns.
    """
    frame = parse(lines[0], "\n".join(line.strip() for line in lines[1:]), len(lines) - 1)
    if frame.n_unnamed:
        raise InputError(f"its atom lines have {frame.n_unnamed} columns more than Properties states")
    return frame


def parse(comment: str, atoms: str, n_atoms: int) -> Frame:
    """A frame.

    Args:
        comment: its comment line.
        atoms: its atom lines.
        n_atoms: that it states.

    Raises:
        ValueError: a column is missing or not of the type that `Properties` states, or an element is unknown; an `AtomLineError`
            where one line is at fault.
    """
    info = _with_format_keys(key_values(comment))
    layout = _layout(info.pop("Properties", _PLAIN))
    width = sum(count for _, _, count in layout)
    cells, n_unnamed = _cells(atoms, n_atoms, width)
    columns: dict[str, np.ndarray] = {}
    words: list[str] = []
    start, stride = 0, width + n_unnamed
    for name, kind, count in layout:
        if name == "species":
            words = cells[start::stride]
            columns[name] = _elements(words)
        else:
            block = [_converted(name, kind, cells[k::stride]) for k in range(start, start + count)]
            columns[name] = block[0] if count == 1 else np.stack(block, axis=1)
        start += count
    isotopes = () if _ISOTOPES.isdisjoint(words) else tuple((k, ISOTOPES[w.upper()][1]) for k, w in enumerate(words) if w in _ISOTOPES)
    numbers = _numbers(columns)
    cell, pbc = _cell(info)
    return Frame(numbers, columns, cell, pbc, info, isotopes, n_unnamed)


def _with_format_keys(info: dict[str, str]) -> dict[str, str]:
    """`info` with the format's own keys spelled as the format does: `lattice` left alone would be a cell that is lost."""
    for key in [key for key in info if key.lower() in ("properties", "lattice", "pbc") and key not in _FORMAT_KEYS]:
        proper = next(name for name in _FORMAT_KEYS if name.lower() == key.lower())
        if info.setdefault(proper, info[key]) != info[key]:
            raise InputError(f"its comment line states both {proper} and {key}, which differ")
        del info[key]
    return info


@lru_cache(maxsize=256)
def _layout(properties: str) -> list[tuple[str, str, int]]:
    """(name, type, number of columns) of each property."""
    words = properties.split(":")
    if len(words) % 3 or not all(words[k + 2].isdigit() for k in range(0, len(words) - 2, 3)):
        raise InputError(f"Properties={properties!r} is not of the form name:type:columns")
    layout = [(_COLUMN_NAMES.get(words[k], words[k]), words[k + 1], int(words[k + 2])) for k in range(0, len(words), 3)]
    names = [name for name, _, _ in layout]
    widths = {name: count for name, _, count in layout}
    if len(widths) < len(names):
        raise InputError(f"Properties={properties!r} names a column twice")
    if widths.get("pos") != 3 or not {"species", "Z"} & set(names) or any(widths.get(name, 1) != 1 for name in ("species", "Z")):
        raise InputError(f"Properties={properties!r}: it has no columns species and pos, of one and three words")
    if unknown := [kind for _, kind, _ in layout if kind not in "RISL" or len(kind) != 1]:
        raise InputError(f"Properties={properties!r}: the type {unknown[0]!r} is none of R, I, S and L")
    return layout


def _cells(atoms: str, n_atoms: int, width: int) -> tuple[list[str], int]:
    """The words of the atom lines, and how many words behind the first `width` every line has."""
    cells = atoms.split()
    if len(cells) == n_atoms * width:
        return cells, 0
    rows = [line.split() for line in atoms.split("\n")[:n_atoms]]
    wrong = next((k for k, row in enumerate(rows) if len(row) < width), None)
    if wrong is None and len(rows) == n_atoms and len({len(row) for row in rows}) == 1:
        return cells, len(rows[0]) - width
    if wrong is None:
        wrong = next((k for k, row in enumerate(rows) if len(row) != len(rows[0])), 0)
    n_found = len(rows[wrong]) if wrong < len(rows) else 0
    raise AtomLineError(wrong, f"its atom lines do not have the {width} columns that Properties states: one has {n_found}")


def _elements(words: list[str]) -> np.ndarray:
    try:
        return np.array([_NUMBERS[word] for word in words], dtype=np.int64)
    except KeyError:
        known = [_NUMBERS.get(word.capitalize()) for word in words]
    if None in known:
        wrong = known.index(None)
        remedy = "; a column of atomic numbers is called Z:I:1 in Properties" if words[wrong].isdigit() else ""
        raise AtomLineError(wrong, f"its column 'species' holds {words[wrong]!r}, which is no element symbol{remedy}")
    return np.array(known, dtype=np.int64)


def _numbers(columns: dict[str, np.ndarray]) -> np.ndarray:
    """(n_atoms,) atomic numbers, taken out of `columns`."""
    found = [columns.pop(name) for name in ("Z", "species") if name in columns]
    if found[0].dtype.kind != "i":
        raise InputError("its column 'Z' does not hold whole numbers")
    if len(found) == 2 and not np.array_equal(*found):
        raise AtomLineError(int(np.flatnonzero(found[0] != found[1])[0]), "its columns 'Z' and 'species' name different elements")
    return found[0]


def _converted(name: str, kind: str, words: list[str]) -> np.ndarray:
    if kind == "S":
        return np.array(words)
    # float() and int() of Python read text faster than numpy does
    read: Callable[[str], Any] = {"R": float, "I": int, "L": _LOGICAL.__getitem__}[kind]
    try:
        if "_" in "".join(words):  # Python reads 1_0 as 10
            raise ValueError
        return np.array(list(map(read, words)), dtype={"R": np.float64, "I": np.int64, "L": bool}[kind])
    except (KeyError, ValueError, OverflowError):
        wrong = next(k for k, word in enumerate(words) if not _readable(read, word))
        what = {"R": "no number", "I": "no whole number", "L": "neither T nor F"}[kind]
        raise AtomLineError(wrong, f"its column {name!r} holds {words[wrong]!r}, which is {what}") from None


def _readable(read: Callable[[str], Any], word: str) -> bool:
    try:
        value = read(word)
    except (KeyError, ValueError):
        return False
    return "_" not in word and abs(value) < 2**63 if isinstance(value, int) else "_" not in word


def _cell(info: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    lattice, periodic = info.pop("Lattice", ""), info.pop("pbc", "").replace(",", " ").split()
    try:
        cell = np.array([float(word) for word in lattice.replace(",", " ").split()]).reshape(3, 3) if lattice else np.zeros((3, 3))
    except ValueError as error:
        raise InputError(f"its Lattice {lattice!r} is not nine numbers") from error
    if not periodic:
        return cell, np.full(3, bool(lattice))
    if len(periodic) not in (1, 3) or not all(word in _LOGICAL for word in periodic):
        raise InputError(f"its pbc {' '.join(periodic)!r} is not three of T and F")
    return cell, np.array([_LOGICAL[word] for word in periodic] * (3 // len(periodic)))


def lattice_of(vectors: str) -> tuple[np.ndarray, np.ndarray]:
    """Cell (3, 3) and periodic axes (3,) from lines `VEC1 x y z` behind the atoms.

    Raises:
        ValueError: a line is none of these.
    """
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    for axis, line in enumerate(vectors.strip().splitlines()):
        found = re.fullmatch(rf"\s*VEC{axis + 1}\s+(\S+)\s+(\S+)\s+(\S+)\s*", line)
        if found is None:
            raise InputError(f"behind its atoms stands {line.strip()[:40]!r}, which is not VEC{axis + 1} and three numbers")
        cell[axis], pbc[axis] = [float(word) for word in found.groups()], True
    return cell, pbc


def columns_of(properties: str) -> list[tuple[str, int]]:
    """Per-atom columns besides element and place that a `Properties` names, and how many numbers each has; text counts 0."""
    try:
        layout = _layout(properties or _PLAIN)
    except ValueError:
        return []  # whoever reads the frame says what is wrong
    return [(name, count if kind in "RI" else 0) for name, kind, count in layout if name not in ("pos", "species", "Z")]
