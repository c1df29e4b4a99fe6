"""Plain extended XYZ files cut at frame boundaries, so that several processes read one file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

SUFFIXES = (".xyz", ".extxyz")
_SCAN_BYTES = 1 << 24
#: lines given to ASE at a time
_LINES_AT_A_TIME = 20_000
_NEWLINE = 10


@dataclass(frozen=True, order=True)
class Piece:
    """Whole frames of a file.

    Attributes:
        start: byte at which the first frame begins.
        stop: byte behind the last frame.
        first_frame: number of the first frame in the file.
    """

    start: int
    stop: int
    first_frame: int


def find_pieces(file: Path, piece_bytes: int) -> list[Piece] | None:
    """Cut `file` into pieces of about `piece_bytes`, or None where its lines do not follow the format.

    Every frame is looked at: a number of atoms, a comment, that many lines, and nothing between the frames.

    Raises:
        OSError: the file cannot be read.
    """
    pieces: list[Piece] = []
    start, first, n_frames, place = 0, 0, 0, 0
    for end in _frame_ends(file):
        if end is None:
            return None
        n_frames, place = n_frames + 1, end
        if place - start >= piece_bytes:
            pieces.append(Piece(start, place, first))
            start, first = place, n_frames
    if place > start:
        pieces.append(Piece(start, place, first))
    return pieces or None


def read_piece(file: Path, piece: Piece) -> Iterator[Atoms]:
    """The frames of `piece`, one after the other, a few thousand lines in memory.

    Raises:
        ValueError: a frame does not begin with its number of atoms; ASE raises what its parser runs into.
    """
    from ase.io import iread

    with open(file, "rb") as lines:
        lines.seek(piece.start)
        while lines.tell() < piece.stop:
            block: list[bytes] = []
            while len(block) < _LINES_AT_A_TIME and lines.tell() < piece.stop:
                header = lines.readline()
                block += [header, *islice(iter(lines.readline, b""), int(header) + 1)]
            yield from iread(io.StringIO(b"".join(block).decode()), index=":", format="extxyz")


def _frame_ends(file: Path) -> Iterator[int | None]:
    """Byte behind each frame; None, and no more, where something is not a frame."""
    base, rest, wanted = 0, b"", _SCAN_BYTES
    with open(file, "rb") as source:
        while True:
            read = source.read(wanted)
            buffer, last = rest + read, len(read) < wanted
            size = base + len(buffer)
            if last and buffer and not buffer.endswith(b"\n"):
                buffer += b"\n"  # the last line may lack its end
            ends = np.flatnonzero(np.frombuffer(buffer, dtype=np.uint8) == _NEWLINE)
            line, used = 0, 0
            while line < len(ends):
                n_atoms = _number(buffer[used : int(ends[line])])
                if n_atoms is None:
                    if not (last and not buffer[used:].strip()):  # empty lines at the end are harmless
                        yield None
                    return
                if line + 1 + n_atoms >= len(ends):
                    break
                line += n_atoms + 2
                used = int(ends[line - 1]) + 1
                yield min(base + used, size)
            if last:
                if buffer[used:].strip():
                    yield None  # the last frame is cut short
                return
            base, rest = base + used, buffer[used:]
            wanted = _SCAN_BYTES if used else 2 * wanted  # a frame larger than what was read


def _number(line: bytes) -> int | None:
    try:
        return int(line)
    except ValueError:
        return None
