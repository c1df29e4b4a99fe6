"""Neighbour lists in torch, for batches that are on a device already: linked cells over all structures at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unipot.neighbors import limits

#: rows that a step of the search works on at once; bounds the memory beside the result to about 1 GB
ROWS_AT_ONCE = 1 << 22

#: boxes per axis, at most, so that a number for each box of a batch fits 63 bits
MAX_BOXES_PER_AXIS = 1 << 16


def device_neighbor_list(positions: Tensor, cell: Tensor, pbc: Tensor, n_atoms: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs within `cutoff` in each of many structures side by side, on the device of `positions`.

    The arithmetic is in float64 whatever the dtype, and the result is that of `batch_neighbor_list` for the same numbers, order
    included; positions rounded to float32 move pairs within about 1e-6 Å of the cutoff in or out.

    Args:
        positions: (n_atoms, 3) Å.
        cell: (n_structures, 3, 3) Å, rows are lattice vectors.
        pbc: (n_structures, 3) bool.
        n_atoms: (n_structures,) int64.
        cutoff: Å, positive.

    Returns:
        edge_index (2, n_edges) int64, cell_shifts (n_edges, 3) int64, ordered by (i, j, S_0, S_1, S_2).

    Raises:
        ValueError: the cutoff is not positive, a number is not finite, periodic vectors span no volume, or the list would not
            fit into memory.
    """
    limits.check_cutoff(cutoff)
    positions, cell = positions.detach().double(), cell.detach().double()
    _check_structures(positions, cell, pbc, n_atoms)
    boxes = _boxed(positions, cell, pbc, n_atoms, cutoff * (1 + 1e-9))
    _check_size(boxes, cutoff, positions.device)
    lattice = torch.where(pbc[:, :, None], cell, 0.0)
    found: list[tuple[Tensor, Tensor, Tensor]] = [(positions.new_zeros(0, dtype=torch.int64),) * 2 + (boxes.wraps[:0],)]
    for i, j, shift in _candidates(boxes, pbc, positions, lattice, cutoff):
        vectors = positions[j] - positions[i]
        for k in range(3):  # in the order in which the compiled engine adds, so that both decide alike at the cutoff
            vectors = vectors + shift[:, k, None] * lattice[boxes.structure[i], k]
        squared = vectors[:, 0] * vectors[:, 0] + vectors[:, 1] * vectors[:, 1] + vectors[:, 2] * vectors[:, 2]
        near = (squared < cutoff * cutoff) & ~((i == j) & (squared == 0.0))
        found.append((i[near], j[near], shift[near]))
    centre, neighbor, shifts = (torch.cat(part) for part in zip(*found, strict=True))
    order = torch.argsort(centre * max(1, len(positions)) + neighbor, stable=True)
    return torch.stack([centre, neighbor])[:, order], shifts[order]


@dataclass(frozen=True, kw_only=True)
class _Boxes:
    """Atoms in boxes.

    Attributes:
        structure: (n_atoms,) the structure of an atom.
        wraps: (n_atoms, 3) cells by which an atom lies outside its own.
        boxes: (n_atoms, 3) the box of an atom along each axis.
        n_boxes: (n_structures, 3); around: (n_structures, 3) boxes that the cutoff spans; first: (n_structures,) number of box 0.
        order: (n_atoms,) atoms by box; keys: (n_atoms,) their boxes, ascending.
    """

    structure: Tensor
    wraps: Tensor
    boxes: Tensor
    n_boxes: Tensor
    around: Tensor
    first: Tensor
    order: Tensor
    keys: Tensor

    def keys_of(self, structure: Tensor, boxes: Tensor) -> Tensor:
        """Numbers of boxes (n, 3) that belong to the structures (n,)."""
        n_boxes = self.n_boxes[structure]
        return self.first[structure] + (boxes[:, 0] * n_boxes[:, 1] + boxes[:, 1]) * n_boxes[:, 2] + boxes[:, 2]


def _boxed(positions: Tensor, cell: Tensor, pbc: Tensor, n_atoms: Tensor, reach: float) -> _Boxes:
    n_structures = len(n_atoms)
    structure = torch.repeat_interleave(torch.arange(n_structures, device=positions.device), n_atoms)
    inverse = torch.linalg.inv(_completed(cell, pbc))
    fractional = torch.einsum("ac,ack->ak", positions, inverse[structure])
    heights = 1 / torch.linalg.vector_norm(inverse, dim=1)
    index = structure[:, None].expand(-1, 3)
    empty = fractional.new_zeros(n_structures, 3)
    low = torch.where(pbc, 0.0, empty.scatter_reduce(0, index, fractional, "amin", include_self=False))
    high = empty.scatter_reduce(0, index, fractional, "amax", include_self=False)
    length = torch.where(pbc, heights, high - low + reach)
    n_boxes = (length / reach).long().clamp(1, MAX_BOXES_PER_AXIS)
    wraps = torch.where(pbc[structure], fractional.floor(), 0.0).long()
    scale = torch.where(pbc, n_boxes, n_boxes / length)
    boxes = ((fractional - wraps - low[structure]) * scale[structure]).long()
    boxes = torch.minimum(boxes.clamp_min(0), n_boxes[structure] - 1)
    per_structure = n_boxes.prod(dim=1)
    draft = _Boxes(
        structure=structure,
        wraps=wraps,
        boxes=boxes,
        n_boxes=n_boxes,
        around=(reach * n_boxes / length).ceil().long(),
        first=per_structure.cumsum(0) - per_structure,
        order=structure,
        keys=structure,
    )
    keys, order = torch.sort(draft.keys_of(structure, boxes), stable=True)
    return _Boxes(**{**draft.__dict__, "order": order, "keys": keys})


def _completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells whose free vectors are orthonormal, 1 Å long and orthogonal to the periodic ones."""
    lattice = torch.where(pbc[:, :, None], cell, 0.0)
    right = torch.linalg.svd(lattice)[2]  # its last rows span what is orthogonal to the lattice
    nth_from_end = 3 - (~pbc).long().cumsum(dim=1)
    free = torch.gather(right, 1, nth_from_end.clamp(0, 2)[:, :, None].expand(-1, -1, 3))
    return torch.where(pbc[:, :, None], cell, free)


def _candidates(boxes: _Boxes, pbc: Tensor, positions: Tensor, lattice: Tensor, cutoff: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Centres, neighbours and offsets (n, 3) of all pairs within the cutoff but for rounding, by ascending centre, in pieces."""
    occupied, n_inside = torch.unique_consecutive(boxes.keys, return_counts=True)
    first_inside = n_inside.cumsum(0) - n_inside
    wrapped = positions - torch.einsum("ak,akc->ac", boxes.wraps.double(), lattice[boxes.structure])
    limit = (cutoff * (1 + 1e-6) + 1e-12 * float(positions.abs().max()) if len(positions) else 0.0) ** 2
    per_atom = (2 * boxes.around + 1).prod(dim=1)[boxes.structure]
    for atoms in _pieces(per_atom):
        number = torch.arange(atoms.start, atoms.stop, device=per_atom.device)
        centre = torch.repeat_interleave(number, per_atom[atoms])
        structure = boxes.structure[centre]
        where = boxes.boxes[centre] + _offsets(per_atom[atoms], boxes.around[structure])
        n_boxes = boxes.n_boxes[structure]
        image = torch.div(where, n_boxes, rounding_mode="floor")
        keys = boxes.keys_of(structure, where - image * n_boxes)
        found = torch.searchsorted(occupied, keys).clamp_max(len(occupied) - 1)
        rows = ((occupied[found] == keys) & (pbc[structure] | (image == 0)).all(dim=1)).nonzero()[:, 0]
        centre, image, found = centre[rows], image[rows], found[rows]
        origin = torch.einsum("rk,rkc->rc", image.double(), lattice[structure[rows]]) - wrapped[centre]
        for piece in _pieces(n_inside[found]):
            count = n_inside[found[piece]]
            row = torch.repeat_interleave(torch.arange(piece.start, piece.stop, device=count.device), count)
            within = torch.arange(len(row), device=count.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
            j = boxes.order[first_inside[found[row]] + within]
            near = ((wrapped[j] + origin[row]).square().sum(dim=1) < limit).nonzero()[:, 0]
            row, j = row[near], j[near]
            i = centre[row]
            yield i, j, image[row] + boxes.wraps[i] - boxes.wraps[j]


def _offsets(per_atom: Tensor, around: Tensor) -> Tensor:
    """(n, 3) all offsets from −around to around for each atom in turn, the last axis fastest."""
    within = torch.arange(len(around), device=around.device) - torch.repeat_interleave(per_atom.cumsum(0) - per_atom, per_atom)
    width = 2 * around + 1
    rest = torch.div(within, width[:, 2], rounding_mode="floor")
    first = torch.div(rest, width[:, 1], rounding_mode="floor")
    return torch.stack([first, rest % width[:, 1], within % width[:, 2]], dim=1) - around


def _pieces(counts: Tensor) -> Iterator[slice]:
    """Slices of `counts` that sum to about `ROWS_AT_ONCE` each."""
    if len(counts) == 0:
        return
    piece = torch.div(counts.cumsum(0) - 1, ROWS_AT_ONCE, rounding_mode="floor").clamp_min(0)
    stops = torch.cat([(piece.diff() > 0).nonzero()[:, 0] + 1, piece.new_tensor([len(counts)])]).tolist()
    for start, stop in zip([0, *stops], stops, strict=False):
        yield slice(start, stop)


def _check_structures(positions: Tensor, cell: Tensor, pbc: Tensor, n_atoms: Tensor) -> None:
    """One synchronisation while all is well; the structure is looked for only when something is wrong."""
    lattice = torch.where(pbc[:, :, None], cell, 0.0)
    numbers_are_finite = torch.isfinite(positions).all() & torch.isfinite(lattice).all()
    flat = _flatness(lattice.nan_to_num(), pbc)
    if bool(numbers_are_finite & (flat > limits.FLAT).all()):
        return
    stops = n_atoms.cumsum(0).tolist()
    for k, (stop, n) in enumerate(zip(stops, n_atoms.tolist(), strict=True)):
        name = limits.name_of_structure(k, len(stops), None)
        if not (torch.isfinite(positions[stop - n : stop]).all() and torch.isfinite(lattice[k]).all()):
            raise limits.not_finite(name)
        if not flat[k] > limits.FLAT:
            raise limits.flat_cell(name, cell[k].cpu().numpy(), pbc[k].cpu().numpy())


def _flatness(lattice: Tensor, pbc: Tensor) -> Tensor:
    """Smallest fraction of its length by which a periodic vector rises above those after it; infinite without periodic axes."""
    risen: list[Tensor] = []
    fractions = []
    for k in (2, 1, 0):
        vector = lattice[:, k]
        for axis in risen * 2:
            vector = vector - (vector * axis).sum(dim=1, keepdim=True) * axis
        height, length = torch.linalg.vector_norm(vector, dim=1), torch.linalg.vector_norm(lattice[:, k], dim=1)
        fractions.append(torch.where(pbc[:, k], height / length.clamp_min(1e-300), torch.inf))
        risen.append(vector / height.clamp_min(1e-300)[:, None])
    return torch.stack(fractions).amin(dim=0)


def _check_size(boxes: _Boxes, cutoff: float, device: torch.device) -> None:
    """Estimate the edges from the atoms per box before anything large is allocated."""
    per_structure = torch.bincount(boxes.structure, minlength=len(boxes.n_boxes)).double()
    if len(per_structure) == 0:
        return
    looked_at = (2 * boxes.around + 1).double().prod(dim=1)  # boxes around an atom, each with atoms / boxes on average
    estimates = per_structure**2 * looked_at / boxes.n_boxes.double().prod(dim=1) / (27 * 3 / (4 * torch.pi))
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else limits.max_edges() * 2 * limits.BYTES_PER_EDGE
    if float(estimates.sum()) * limits.BYTES_PER_EDGE * 2 > memory:
        k = int(estimates.argmax())
        raise limits.too_many(limits.name_of_structure(k, len(estimates), None), float(estimates[k]), cutoff, int(per_structure[k]))
