"""Where the configurations and recipes that ship with unipot lie: in the checkout or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """Folder of the Hydra configurations."""
    return _shipped("conf")


def data_recipes_dir() -> Path:
    """Folder of the data recipes."""
    return _shipped("data_recipes")


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the folder {name!r} of unipot is missing from {_PACKAGE} and its parent; install unipot again")
