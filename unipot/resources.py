"""What a process finds around it: the configurations and recipes that ship with unipot, in the checkout or the package, and cores."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """Folder of the Hydra configurations."""
    return _shipped("conf")


def data_recipes_dir() -> Path:
    """Folder of the data recipes."""
    return _shipped("data_recipes")


def n_available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the folder {name!r} of unipot is missing from {_PACKAGE} and its parent; install unipot again")
