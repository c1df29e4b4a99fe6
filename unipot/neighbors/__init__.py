"""Periodic neighbour lists with one edge convention and interchangeable engines.

An edge (i, j, S) means: atom j, translated by S·cell, lies within the cutoff of atom i, so that
r_ij = R_j + S·cell − R_i. Both directions are present; edges are ordered by (i, j, S_0, S_1, S_2). An atom is its own
neighbour only through a non-zero S.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unipot.neighbors.batched import batch_edge_counts, batch_neighbor_list, prepare_engine
from unipot.neighbors.engines import ENGINES, MAX_BOXES, Edges, complete_cell, default_engine
from unipot.neighbors.single import neighbor_list

if TYPE_CHECKING:
    from unipot.neighbors.device import device_neighbor_list

__all__ = [
    "ENGINES",
    "MAX_BOXES",
    "Edges",
    "batch_edge_counts",
    "batch_neighbor_list",
    "complete_cell",
    "default_engine",
    "device_neighbor_list",
    "neighbor_list",
    "prepare_engine",
]


def __getattr__(name: str) -> Any:
    if name == "device_neighbor_list":  # imports torch, which converters and readers do without
        from unipot.neighbors.device import device_neighbor_list

        return device_neighbor_list
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
