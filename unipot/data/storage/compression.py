"""Optional compression of blocks of records."""

from __future__ import annotations

from collections.abc import Callable

from unipot.data.storage.format import COMPRESSIONS, check_choice

_LEVEL = 3  # beyond it positions and forces, nearly random bits, shrink by less than 2 %


def compressor(name: str | None) -> Callable[[bytes], bytes]:
    """bytes -> bytes.

    Raises:
        ValueError: the name is unknown.
        ImportError: the package for it is not installed.
    """
    check_choice("compression", name, COMPRESSIONS)
    if name is None:
        return bytes
    return _zstandard().ZstdCompressor(level=_LEVEL).compress


def decompressor(name: str | None) -> Callable[[bytes], bytes | memoryview]:
    """The inverse of `compressor`; without compression the very same memory.

    Raises:
        ValueError: the name is unknown.
        ImportError: the package for it is not installed.
    """
    check_choice("compression", name, COMPRESSIONS)
    if name is None:
        return lambda block: block
    return _zstandard().ZstdDecompressor().decompress


def _zstandard():  # type: ignore[no-untyped-def]
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("compressed stores need the package zstandard; install it with: pip install 'unipot[compression]'") from error
    return zstandard
