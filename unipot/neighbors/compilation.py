"""How the kernels are compiled: when they are first imported, without the interpreter lock, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import njit, types

#: numba renews what it kept when the file of a function changes, not when a file it calls does; so all kernels share this
_SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("compil*.py")))
_DIGEST = blake2b(_SOURCES, digest_size=6).hexdigest()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code for the types it is called with by other kernels."""
    return _compiled(function, None)


def compiled_for(*signatures: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a kernel that Python calls: machine code for these argument types only, made when the module is imported.

    Types are stated because numba would compile again, for seconds, for arrays that are read-only.
    """
    return lambda function: _compiled(function, list(signatures))


def array(dtype: Any, n_dimensions: int) -> types.Array:
    """Type of a contiguous argument that is only read."""
    return types.Array(dtype, n_dimensions, "C", readonly=True)


def _compiled(function: Callable[..., Any], signatures: list[tuple[Any, ...]] | None) -> Callable[..., Any]:
    """Kept beside the source or in the user's cache folder, where one can be written."""
    function.__qualname__ += f"_{_DIGEST}"
    try:
        return njit(signatures, nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        return njit(signatures, nogil=True, error_model="numpy")(function)  # no folder to keep it in: each process compiles for itself
