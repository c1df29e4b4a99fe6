"""The two forms of neighbours that a graph may be traced with, as tensors of fixed number and rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.models.native.neighbor_block import NeighborBlock, block_tensors
from unipot.models.native.neighbor_edges import NeighborEdges
from unipot.models.native.neighborhood import Neighborhood

#: edges: the compiled kernel, whose sums enter a graph as operators; block: plain operations, padded to the largest degree
FORMS = ("edges", "block")


def neighbor_tensors(form: str, batch: AtomBatch, vectors: Tensor, cutoff: float) -> list[Tensor]:
    """Inputs of a graph for `neighbors_from`; made outside it.

    Args:
        form: one of `FORMS`.
        batch: edges sorted by centre; at least two of them.
        vectors: (n_edges, 3) Å of its edges.
        cutoff: Å.
    """
    if form == "block":
        return block_tensors(batch, vectors, cutoff)
    centre, neighbor = batch.edge_index
    first_edge = torch.searchsorted(centre.contiguous(), torch.arange(batch.n_atoms + 1, device=centre.device))
    return [centre.contiguous(), neighbor.contiguous(), vectors, first_edge]


def neighbors_from(form: str, tensors: Sequence[Tensor], vectors: Tensor) -> Neighborhood:
    """The neighbours of `neighbor_tensors`, with `vectors` in place of its third tensor: a leaf to differentiate by."""
    if form == "block":
        centre, neighbor, _ = tensors
        return NeighborBlock(centre=centre, neighbor=neighbor.reshape(-1), vectors=vectors, n_slots=neighbor.shape[1])
    centre, neighbor, _, first_edge = tensors
    return NeighborEdges(centre=centre, neighbor=neighbor, vectors=vectors, first_edge=first_edge)
