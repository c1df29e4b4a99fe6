"""What a potential refuses before it computes anything, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.neighbors.limits import estimated_edges, machine_memory
from unipot.structure import MAX_ATOMIC_NUMBER, Structure

#: Å; two atoms closer than this are one atom written twice
COINCIDENT = 1e-3
#: bytes that any machine has
_SMALL = 2**30
#: Å; a periodic axis whose lattice vector is shorter has none, as in `Structure`
NO_VECTOR = 1e-6


def require_sound(batch: AtomBatch, lengths: Tensor, head_names: Sequence[str]) -> None:
    """Every number of the batch means something; one comparison on the device, whatever the size of the batch.

    Args:
        batch: what a potential was given.
        lengths: (n_edges,) Å of its edges.
        head_names: of the potential.

    Raises:
        ValueError: there are no atoms, or a structure without atoms; an atomic number is outside 1..118; a position or cell
            is not finite; a periodic axis has no lattice vector; two atoms coincide; or a head does not exist.
    """
    if batch.n_atoms == 0:
        raise InputError("the batch has no atoms; drop it, or collate at least one structure")
    with torch.no_grad():
        wrong = (
            # a sum is finite only if all its terms are
            ~torch.isfinite(batch.positions.sum() + batch.cell.sum()),
            batch.n_atoms_per_structure.min() < 1,
            batch.atomic_numbers.min() < 1,
            batch.atomic_numbers.max() > MAX_ATOMIC_NUMBER,
            batch.head_index.max() >= len(head_names),
            batch.head_index.min() < 0,
            (batch.pbc & (batch.cell.abs().amax(dim=2) < NO_VECTOR)).any(),
            (lengths < COINCIDENT).any(),
        )
        if bool(torch.stack(wrong).any()):
            raise InputError(_sentence(batch, lengths, head_names))


def require_room(structures: Sequence[Structure], model: Any) -> None:
    """Before neighbours are looked for: a model would have room for those of each structure, as if its atoms filled space evenly.

    Args:
        structures: sound ones.
        model: a potential.

    Raises:
        ValueError: a structure has more neighbours than the memory of the model's device can hold.
    """
    for structure in structures:
        edges = estimated_edges(structure.positions, structure.cell, structure.pbc, model.cutoff)
        _require_memory(f"structure {structure.id!r}", structure.n_atoms, edges, model)


def require_room_for_edges(batch: AtomBatch, model: Any) -> None:
    """The same for a batch with its edges.

    Raises:
        ValueError: the edges of the batch are more than the memory of the model's device can hold.
    """
    name = _name(batch, 0) if batch.n_structures == 1 else f"a batch of {batch.n_structures} structures"
    _require_memory(name, batch.n_atoms, batch.n_edges, model)


def _require_memory(name: str, n_atoms: int, n_edges: float, model: Any) -> None:
    needed = n_edges * getattr(model.backbone, "least_bytes_per_edge", 0)
    if needed <= _SMALL:  # the memory of a device is not asked for in every step
        return
    device = model.device
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else machine_memory()
    if needed > memory:
        raise InputError(
            f"{name}: {n_atoms} atoms have about {n_edges:.1e} pairs within the cutoff of {model.cutoff:g} Å, which need at least "
            f"{needed / 1e9:.0f} GB in this model, more than the {memory / 1e9:.0f} GB of {device}; check that positions and cell are in "
            "Å, make smaller batches, or use a model with a shorter cutoff"
        )


def _sentence(batch: AtomBatch, lengths: Tensor, head_names: Sequence[str]) -> str:
    finite_atoms = torch.isfinite(batch.positions).all(dim=1)
    finite_cells = torch.isfinite(batch.cell).flatten(1).all(dim=1)
    strange = (batch.atomic_numbers < 1) | (batch.atomic_numbers > MAX_ATOMIC_NUMBER)
    flat = batch.pbc & (batch.cell.abs().amax(dim=2) < NO_VECTOR)
    heads = (batch.head_index < 0) | (batch.head_index >= len(head_names))
    if bool((batch.n_atoms_per_structure < 1).any()):
        return f"{_name(batch, _first_true(batch.n_atoms_per_structure < 1))} has no atoms; drop it"
    if not bool(finite_atoms.all()):
        atom = _first_true(~finite_atoms)
        return f"{_name_of_atom(batch, atom)}: the position of atom {_local(batch, atom)} is {batch.positions[atom].tolist()}; {_REPAIR}"
    if not bool(finite_cells.all()):
        structure = _first_true(~finite_cells)
        return f"{_name(batch, structure)}: the cell is {batch.cell[structure].tolist()}; {_REPAIR}"
    if bool(strange.any()):
        atom = _first_true(strange)
        number = int(batch.atomic_numbers[atom])
        return f"{_name_of_atom(batch, atom)}: atom {_local(batch, atom)} has atomic number {number}, outside 1..{MAX_ATOMIC_NUMBER}"
    if bool(heads.any()):
        index, names = int(batch.head_index[_first_true(heads)]), ", ".join(head_names) or "none"
        return f"head_index {index} is out of range for the {len(head_names)} head(s) of this model: {names}"
    if bool(flat.any()):
        structure = _first_true(flat.any(dim=1))
        axes = torch.nonzero(flat[structure])[:, 0].tolist()
        return f"{_name(batch, structure)}: periodic axes {axes} have no lattice vector; give the cell, or set pbc to false there"
    return _coincidence(batch, lengths)


_REPAIR = "repair or drop the structure (in a simulation: a shorter time step)"


def _coincidence(batch: AtomBatch, lengths: Tensor) -> str:
    edge = int(lengths.argmin())
    first, second = batch.edge_index[:, edge].tolist()
    where, distance = _name_of_atom(batch, first), float(lengths[edge])
    if first == second:
        return f"{where}: atom {_local(batch, first)} lies {distance:.1e} Å from its own periodic image; correct the cell (Å)"
    pair = f"atoms {_local(batch, first)} and {_local(batch, second)}"
    resolution = float(batch.positions.abs().max()) * torch.finfo(batch.positions.dtype).eps
    if resolution > COINCIDENT:
        return (
            f"{where}: {pair} cannot be told apart, positions as large as theirs are resolved to {resolution:.1e} Å in "
            f"{str(batch.positions.dtype).removeprefix('torch.')}; use float64, or check that positions are in Å"
        )
    return f"{where}: {pair} lie {distance:.1e} Å apart, which is the same place; remove one, or correct the positions (Å)"


def _first_true(mask: Tensor) -> int:
    return int(torch.nonzero(mask)[0, 0])


def _name_of_atom(batch: AtomBatch, atom: int) -> str:
    return _name(batch, int(batch.structure_index[atom]))


def _name(batch: AtomBatch, structure: int) -> str:
    known = structure < len(batch.ids) and batch.ids[structure]
    return f"structure {batch.ids[structure]!r}" if known else f"structure {structure} of the batch"


def _local(batch: AtomBatch, atom: int) -> int:
    """Number of the atom in its own structure."""
    return atom - int((batch.structure_index < batch.structure_index[atom]).sum())
