"""Where the frames of an XYZ file begin and end: a number of atoms, a comment, that many lines; empty lines between them are nothing.

A frame is found by looking for line ends alone, so that a file of many gigabytes is searched in seconds.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from unipot.errors import InputError

SUFFIXES = (".xyz", ".extxyz")
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SCAN_BYTES = 1 << 24
_NEWLINE = 10
#: bytes of a line `H 0 0 0` and its end, and of a frame in an archive at most
_SHORTEST_LINE, _LARGEST_FRAME = 8, 1 << 32
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: lattice vectors behind the atoms, as the programs of SCM write them
_VECTOR, _MOST_VECTORS = b"VEC", 3


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame that is not yet understood.

    Attributes:
        number: of the frame, counted from where the scan began.
        line: of its number of atoms, counted from 1 likewise.
        n_atoms: stated there.
        stop: byte behind it, counted from where the scan began.
    """

    number: int
    line: int
    n_atoms: int
    stop: int
    _buffer: bytes
    _comment: int
    _atoms: int
    _vectors: int
    _end: int

    @property
    def comment(self) -> str:
        return _text(self._buffer[self._comment : self._atoms])

    @property
    def atoms(self) -> str:
        """The atom lines."""
        return _text(self._buffer[self._atoms : self._vectors])

    @property
    def vectors(self) -> str:
        """Lines `VEC1 x y z` behind the atoms; mostly none."""
        return _text(self._buffer[self._vectors : self._end])


def is_xyz(file: Path) -> bool:
    """Whether the name, also of a compressed file, is that of an XYZ file."""
    plain = file.with_suffix("") if file.suffix in COMPRESSED else file
    return plain.suffix.lower() in SUFFIXES


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed by its suffix.

    Raises:
        ValueError: the archive is damaged.
    """
    try:
        with COMPRESSED.get(file.suffix, open)(file, "rb") as stream:
            yield stream  # type: ignore[misc]
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is cut short or damaged ({error}); fetch it again") from error
    except OSError as error:
        if error.errno is not None:  # of the file system, not of the archive
            raise
        raise InputError(f"{file} is not a {file.suffix} archive or is damaged ({error}); fetch it again") from error


def scan_frames(stream: IO[bytes], size: int | None = None) -> Iterator[RawFrame]:
    """Every frame of a stream.

    Args:
        stream: begins with a frame.
        size: bytes to read; None reads to the end, of an archive.

    Raises:
        ValueError: a line that should state the number of atoms does not, or the stream ends within a frame; the message begins with
            the line. An archive raises what it runs into.
    """
    buffer, base, lines, number, wanted = b"", 0, 0, 0, _SCAN_BYTES
    while True:
        left = wanted if size is None else min(wanted, size - base - len(buffer))
        read = stream.read(left)
        last = len(read) < wanted
        buffer += read
        total = base + len(buffer)
        if last and not buffer.endswith(b"\n"):
            buffer += b"\n"  # the last line may lack its end
        ends = np.flatnonzero(np.frombuffer(buffer, dtype=np.uint8) == _NEWLINE)
        line, used = 0, 0
        while line < len(ends):
            header = buffer[used : int(ends[line])].strip()
            if not header:
                line, used = line + 1, int(ends[line]) + 1
                continue
            n_atoms = _count(header, lines + line + 1, number)
            behind = line + 2 + n_atoms  # the line behind the atoms
            if behind + _MOST_VECTORS >= len(ends) and not last and _may_follow(n_atoms, len(buffer) - used, size, base + used):
                break
            if behind > len(ends):
                raise _cut_short(lines + line + 1, number, n_atoms, len(ends) - line - 2)
            stop = _behind_vectors(buffer, ends, behind)
            cuts = (int(ends[k]) + 1 for k in (line, line + 1, behind - 1, stop - 1))
            frame = RawFrame(number, lines + line + 1, n_atoms, min(base + int(ends[stop - 1]) + 1, total), buffer, *cuts)
            line, used, number = stop, frame._end, number + 1
            yield frame
        if last:
            return
        buffer, base, lines = buffer[used:], base + used, lines + line
        wanted = _SCAN_BYTES if used else 2 * wanted  # a frame larger than what was read


def _may_follow(n_atoms: int, n_bytes: int, size: int | None, start: int) -> bool:
    """Whether a frame of so many atoms can lie in what is not read yet: a damaged number must not fill the memory."""
    return n_bytes < _LARGEST_FRAME if size is None else start + _SHORTEST_LINE * n_atoms <= size


def lines_before(file: Path, start: int) -> int:
    """Lines of a file that end before byte `start`."""
    n_lines = 0
    with open(file, "rb") as stream:
        while start > 0 and (chunk := stream.read(min(_SCAN_BYTES, start))):
            n_lines, start = n_lines + chunk.count(b"\n"), start - len(chunk)
    return n_lines


class FrameError(InputError):
    """Something is wrong at a line.

    Args:
        line: counted from 1 where the scan began.
        frame: number of the frame there.
        what: a sentence.
    """

    def __init__(self, line: int, frame: int, what: str) -> None:
        super().__init__(f"line {line}, frame {frame}: {what}")
        self.line, self.frame, self.what = line, frame, what


def _count(header: bytes, line: int, number: int) -> int:
    digits = header.removeprefix(_BYTE_ORDER_MARK) if line == 1 else header
    if not digits.isdigit() or len(digits) > 15:
        what = f"the number of atoms should stand here, but it says {_text(header[:40])!r}"
        hint = "the frame before it has more or fewer lines than it states" if number else "it is no XYZ file, or damaged"
        raise FrameError(line, number, f"{what}; {hint}")
    return int(digits)


def _cut_short(line: int, number: int, n_atoms: int, n_found: int) -> FrameError:
    found = f"{n_found} of {n_atoms} atoms" if n_found >= 0 else f"the number of atoms, {n_atoms}"
    return FrameError(line, number, f"the file ends within this frame, behind {found}; it is cut short, fetch or write it again")


def _behind_vectors(buffer: bytes, ends: np.ndarray, line: int) -> int:
    """Number of the first line from `line` on that is no lattice vector."""
    stop = line
    while stop < min(line + _MOST_VECTORS, len(ends)) and buffer[int(ends[stop - 1]) + 1 : int(ends[stop])].lstrip()[:3] == _VECTOR:
        stop += 1
    return stop


def _text(raw: bytes) -> str:
    # comments in another encoding are no damage
    return raw.decode("utf-8", errors="backslashreplace")

