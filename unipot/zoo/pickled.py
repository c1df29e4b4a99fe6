"""Weights that are pickled: told by their first bytes, and refused with the names that opening them would call.

A pickle is a program. Its operations are listed here and none is carried out, so that the list costs nothing but time.
"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
import zlib
from pathlib import Path

#: endings of files whose weights are pickled
PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".model", ".bin", ".tar.gz", ".pth.tar")
#: of a pickle that is looked at, and of the names that a message has
_MAX_BYTES, _MAX_NAMES = 64_000_000, 12
#: pickles one behind the other, as torch wrote them before it made archives
_MAX_STREAMS = 8
#: operations that push a text, and those that take one out of what was kept
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
_KEPT, _TAKEN = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def is_pickled(path: Path) -> bool:
    """Whether the file at `path` is a pickle, or an archive as torch makes it around one."""
    with open(path, "rb") as file:
        first = file.read(4)
    # protocol 2 and later say their number; torch's oldest files begin so too
    return first.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", first) is not None


def names_called(path: Path) -> list[str]:
    """Classes and functions that opening the file at `path` would look up, `module.name`, each once and sorted.

    What cannot be followed to its end is listed as far as it goes.
    """
    found: set[str] = set()
    for content in _streams(path):
        found |= _names(content)
    return sorted(found)


def refusal(path: Path) -> str:
    """The end of a sentence about the pickled file at `path`: what it would call, and what to do."""
    names = names_called(path)
    listed = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
    called = f"it would call {listed}" if names else "what it would call cannot be read"
    return f"its weights are pickled, and opening a pickle runs code ({called}); ask for the model as a .safetensors file"


def _streams(path: Path) -> list[bytes]:
    """The pickles in a file, each no longer than is looked at."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [item for item in archive.infolist() if item.filename.endswith(".pkl")]
                return [archive.open(item).read(_MAX_BYTES) for item in members[:_MAX_STREAMS]]
        with open(path, "rb") as file:
            return [file.read(_MAX_BYTES)]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error, zlib.error):
        return []


def _names(content: bytes) -> set[str]:
    found: set[str] = set()
    position = 0
    for _ in range(_MAX_STREAMS):
        texts: list[str] = []
        kept: dict[int, str] = {}
        n_kept, end = 0, 0
        try:
            for operation, argument, place in pickletools.genops(content[position:]):
                name = operation.name
                if name in _TEXTS:
                    texts.append(str(argument))
                elif name == "MEMOIZE":
                    kept[n_kept] = texts[-1] if texts else ""
                    n_kept += 1
                elif name in _KEPT:
                    kept[int(argument)] = texts[-1] if texts else ""
                elif name in _TAKEN and int(argument) in kept:
                    texts.append(kept[int(argument)])
                elif name in ("GLOBAL", "INST"):
                    found.add(str(argument).replace(" ", "."))
                elif name == "STACK_GLOBAL":
                    found.add(".".join(texts[-2:]))
                end = int(place or 0) + 1
        except (ValueError, IndexError, KeyError, UnicodeError, struct.error, OverflowError):
            return found
        position += end
        if not content[position : position + 1] == b"\x80":
            return found
    return found
