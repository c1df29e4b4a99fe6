"""Device and precision of commands that use a model: from the words of a configuration to what torch takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unipot.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64")


def device_named(name: str) -> str:
    """`cpu`, `cuda` or `cuda:<number>`; `auto` is the GPU if there is one.

    Raises:
        ValueError: the name is another, or there is no such GPU.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"device is {name!r}; use one of: auto, cpu, cuda, cuda:<number>")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        found = f"finds {torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "finds no GPU"
        raise InputError(f"device is {name!r}, but torch {found} here; use device=cpu or device=auto")
    return name


def optional_dtype(name: str | None) -> torch.dtype | None:
    """float32 or float64; None for the one that the model was saved in.

    Raises:
        ValueError: the name is another.
    """
    import torch

    if name is not None and name not in DTYPES:
        raise InputError(f"dtype is {name!r}; use one of: {', '.join(DTYPES)}, or null for that of the model")
    return None if name is None else getattr(torch, name)
