"""Extended XYZ, frame by frame and column by column, for raw files of many millions of frames.

It reads what ASE writes (`Lattice`, `Properties`, quoted values, logical columns as T and F), more than twice as fast as
ASE's reader on slabs of 80 atoms; `unipot.data.readers.ase_files` reads everything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipot.structure import SYMBOLS

_KEY_VALUE = re.compile(r"""(?<!\S)([^\s=]+)=("[^"]*"|'[^']*'|\S+)""")
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
_LOGICAL = {"T": True, "True": True, "1": True, "F": False, "False": False, "0": False}


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        atomic_numbers: (n_atoms,).
        columns: per-atom columns by name, `pos` among them: (n_atoms,) or (n_atoms, n) float64, int64 or bool.
        cell: (3, 3), rows are lattice vectors; zeros without a `Lattice`.
        pbc: (3,) bool; without `pbc` true where there is a `Lattice`.
        info: the other values of the comment line, as text.
    """

    atomic_numbers: np.ndarray
    columns: dict[str, np.ndarray]
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, str]

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
            raise ValueError(f"{where}: expected a number of atoms, found {line.strip()[:40]!r} (after {number} frames)")
        n_lines = int(line) + 1
        frame = [text for _, text in zip(range(n_lines), iterator, strict=False)]
        if len(frame) < n_lines:
            raise ValueError(f"{where}: the file ends within a frame (after {number} frames); fetch it again")
        yield frame


def parse_frame(lines: list[str]) -> Frame:
    """A frame from its comment line and atom lines.

    Raises:
        ValueError: a column is missing or not of the type that `Properties` states, or an element is unknown.
    """
    info = {key: value.strip("\"'") for key, value in _KEY_VALUE.findall(lines[0])}
    cells = " ".join(lines[1:]).split()
    n_atoms = len(lines) - 1
    layout = _layout(info.pop("Properties", "species:S:1:pos:R:3"))
    width = sum(count for _, _, count in layout)
    if len(cells) != n_atoms * width:
        raise ValueError(f"its atom lines do not have the {width} columns that Properties states")
    columns: dict[str, np.ndarray] = {}
    start = 0
    for name, kind, count in layout:
        block = [_converted(name, kind, cells[k::width]) for k in range(start, start + count)]
        columns[name] = block[0] if count == 1 else np.stack(block, axis=1)
        start += count
    if "pos" not in columns or "species" not in columns:
        raise ValueError("it has no columns species and pos")
    numbers = columns.pop("species")
    cell, pbc = _cell(info)
    return Frame(numbers, columns, cell, pbc, info)


def _layout(properties: str) -> list[tuple[str, str, int]]:
    """(name, type, number of columns) of each property."""
    words = properties.split(":")
    if len(words) % 3 or not all(words[k + 2].isdigit() for k in range(0, len(words) - 2, 3)):
        raise ValueError(f"Properties={properties!r} is not of the form name:type:columns")
    return [(words[k], words[k + 1], int(words[k + 2])) for k in range(0, len(words), 3)]


def _converted(name: str, kind: str, words: list[str]) -> np.ndarray:
    try:
        if kind == "S":
            # of text columns only the element is of use
            return np.array([_NUMBERS[word] for word in words] if name == "species" else words)
        # float() and int() of Python read text faster than numpy does
        read: Callable[[str], Any] = {"R": float, "I": int, "L": _LOGICAL.__getitem__}[kind]
        return np.array(list(map(read, words)))
    except KeyError as error:
        what = "no element symbol" if kind == "S" else f"not of its type {kind}"
        raise ValueError(f"its column {name!r} holds {error.args[0]!r}, which is {what}") from error
    except ValueError as error:
        raise ValueError(f"its column {name!r} holds text where Properties states numbers") from error


def _cell(info: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    lattice, periodic = info.pop("Lattice", ""), info.pop("pbc", "").split()
    try:
        cell = np.array(lattice.split(), dtype=np.float64).reshape(3, 3) if lattice else np.zeros((3, 3))
    except ValueError as error:
        raise ValueError(f"its Lattice {lattice!r} is not nine numbers") from error
    if len(periodic) == 3:
        return cell, np.array([_LOGICAL.get(word, False) for word in periodic])
    return cell, np.full(3, bool(lattice))
