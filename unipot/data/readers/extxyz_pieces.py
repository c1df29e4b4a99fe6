"""Plain XYZ files cut at frame boundaries, so that several processes read one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unipot.data.readers.xyz_frames import FrameError, scan_frames


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

    Every frame is looked at: a number of atoms, a comment, that many lines, and nothing but empty lines between the frames.

    Raises:
        OSError: the file cannot be read.
    """
    pieces: list[Piece] = []
    start, first, n_frames, place = 0, 0, 0, 0
    try:
        with open(file, "rb") as stream:
            for frame in scan_frames(stream, file.stat().st_size):
                n_frames, place = n_frames + 1, frame.stop
                if place - start >= piece_bytes:
                    pieces.append(Piece(start, place, first))
                    start, first = place, n_frames
    except FrameError:
        return None  # whoever reads the file says what is wrong
    if place > start:
        pieces.append(Piece(start, place, first))
    return pieces or None
