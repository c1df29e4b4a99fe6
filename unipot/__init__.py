"""unipot: pretrain universal interatomic potentials on heterogeneous data, fine-tune them on a few frames, use them."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Structure": "unipot.structure",
    "energy_difference_uncertainty": "unipot.models.last_layer",
    "Potential": "unipot.models.potential",
    "UnipotCalculator": "unipot.calculator",
    "evaluate_structures": "unipot.evaluation.predictions",
    "load_potential": "unipot.zoo.artifact",
}

__all__ = [
    *("Potential", "Structure", "UnipotCalculator", "__version__"),
    *("energy_difference_uncertainty", "evaluate_structures", "load_potential"),
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'unipot' has no attribute {name!r}; it has: {', '.join(__all__)}")
