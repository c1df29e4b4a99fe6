"""Optional compression of blocks of records."""

from __future__ import annotations

from collections.abc import Callable

from unipot.data.storage.format import COMPRESSIONS, check_choice
from unipot.errors import InputError, MissingPackage

_MOST_BYTES = 1 << 30  # of a block; 13 million atoms
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
    """The inverse of `compressor`; without compression the very same memory. What it returns raises ValueError for damaged bytes.

    Raises:
        ValueError: the name is unknown.
        ImportError: the package for it is not installed.
    """
    check_choice("compression", name, COMPRESSIONS)
    if name is None:
        return lambda block: block
    zstandard = _zstandard()
    inflate = zstandard.ZstdDecompressor().decompress

    def checked(block: bytes) -> bytes:
        try:
            size = zstandard.frame_content_size(block)
            if not 0 <= size <= _MOST_BYTES:  # it would be allocated before the block is looked at
                raise InputError(f"a block of {size} bytes is not possible")
            return inflate(block)
        except zstandard.ZstdError as error:
            raise InputError(f"a block cannot be inflated: {error}") from error

    return checked


def _zstandard():  # type: ignore[no-untyped-def]
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackage("compressed stores need the package zstandard; install it with: pip install 'unipot[compression]'") from error
    return zstandard
