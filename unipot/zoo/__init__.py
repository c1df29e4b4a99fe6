"""Model artifacts: models to disk and back, checked; and the zoo: models by their names."""

from importlib import import_module
from typing import Any

#: name -> module; imported when asked for, since a list of models needs no torch
_LAZY = {
    **dict.fromkeys(("Artifact", "load_artifact", "load_potential", "save_artifact"), "unipot.zoo.artifact"),
    **dict.fromkeys(("ArtifactError", "read_card"), "unipot.zoo.card"),
    "describe_artifact": "unipot.zoo.show",
}

__all__ = ["Artifact", "ArtifactError", "describe_artifact", "load_artifact", "load_potential", "read_card", "save_artifact"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'unipot.zoo' has no attribute {name!r}; it has: {', '.join(__all__)}")
