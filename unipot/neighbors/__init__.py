"""Periodic neighbour lists with one edge convention and interchangeable engines.

An edge (i, j, S) means: atom j, translated by S·cell, lies within the cutoff of atom i, so that
r_ij = R_j + S·cell − R_i. Both directions are present; edges are ordered by (i, j, S_0, S_1, S_2). An atom is its own
neighbour only through a non-zero S.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unipot.neighbors.batched import batch_edge_counts, batch_neighbor_list, neighbor_list, prepare_engine
from unipot.neighbors.engines import ENGINES, MAX_BOXES, Edges, complete_cell, default_engine

if TYPE_CHECKING:
    from unipot.neighbors.device import device_neighbor_list
    from unipot.neighbors.verlet import DeviceVerletList, VerletList

__all__ = [
    "ENGINES",
    "MAX_BOXES",
    "DeviceVerletList",
    "Edges",
    "VerletList",
    "batch_edge_counts",
    "batch_neighbor_list",
    "complete_cell",
    "default_engine",
    "device_neighbor_list",
    "neighbor_list",
    "prepare_engine",
]


#: these import torch, which converters and readers do without
_WITH_TORCH = {
    "device_neighbor_list": "unipot.neighbors.device",
    "VerletList": "unipot.neighbors.verlet",
    "DeviceVerletList": "unipot.neighbors.verlet",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
