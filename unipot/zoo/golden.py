"""Golden values: predictions stored beside the weights, so that a loaded model proves to be the saved one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unipot.batch import collate
from unipot.errors import InputError
from unipot.models.core_repulsion import CoreRepulsion, end_distances
from unipot.models.potential import Potential
from unipot.neighbors.limits import estimated_edges
from unipot.structure import Structure, symbols_of
from unipot.zoo.card import CLOSE

#: dtype of the loaded model -> allowed deviation: energy in eV per atom, forces in eV/Å relative to the largest force
#: (but at least to 1 eV/Å), stress likewise to 1 eV/Å³, scalar properties in spreads of their training values. Where forces are above
#: 100 eV/Å, energies are large too, and so are their rounding errors: eV per atom and 100 eV/Å. Values are stored
#: from float64; float32 models of a few layers deviate by 1e-6 to 1e-5 (measured), a wrong weight by far more than the tolerance.
TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}
_LARGE_FORCE = 100.0
#: of all golden values together, and of one: a card asks for no more work than that
MAX_ATOMS, MAX_EDGES = 50_000, 1_000_000
#: ids of structures that are made here, for models that bring none
_MOLECULE, _CRYSTAL = "golden-molecule", "golden-crystal"
#: of the distance at which the repulsion of two nuclei ends: where it is whole, and where it is switched off
_CLOSE = (0.4, 0.8)


def golden_values(potential: Potential, structures: Sequence[Structure]) -> list[dict[str, Any]]:
    """JSON-able predictions in float64 on CPU, of every structure through every head that knows its elements.

    A head that knows none of the structures gets two structures made for it. Every head that knows any element has one more, in which
    atoms are as close as no data have them.

    Raises:
        ValueError: a structure has more neighbours than are admitted.
    """
    potential = copy.deepcopy(potential).to("cpu", torch.float64).eval()
    entries = []
    for head in potential.head_names:
        known = set(np.flatnonzero(potential.heads[head].reference.known.numpy()).tolist()) & set(potential.backbone.elements)
        own = [s for s in structures if known.issuperset(s.atomic_numbers.tolist())]
        if known:
            chosen = own or _known_states(potential, default_structures(sorted(known)))
            chosen = [*chosen, *_known_states(potential, [close_structure(potential, sorted(known))])]
            entries += [_entry(potential, structure, head) for structure in chosen]
    return entries


def close_structure(potential: Potential, elements: Sequence[int]) -> Structure:
    """Three atoms of up to three of `elements`: one pair in the full repulsion of nuclei, one where it is being switched off."""
    core = potential.core_repulsion or CoreRepulsion()
    ends = end_distances(core.reach, tuple(core.closest.items()), torch.device("cpu")).clamp(max=potential.cutoff)
    first, second, third = (int(z) for z in np.resize(np.asarray(elements[:3]), 3))
    steps = [_CLOSE[0] * float(ends[first, second]), _CLOSE[1] * float(ends[second, third])]
    directions = np.array([[1.0, 0.2, 0.1], [0.1, -0.3, 1.0]])
    moves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.array(steps)[:, None]
    positions = np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])
    return Structure(atomic_numbers=[first, second, third], positions=positions, id=CLOSE)


def default_structures(elements: Sequence[int]) -> list[Structure]:
    """A bent molecule and a skewed crystal of up to three of `elements`."""
    numbers = np.resize(np.asarray(elements[:3]), 3)
    molecule = [[0.0, 0.0, 0.0], [1.3, 0.1, 0.0], [-0.4, 1.25, 0.2]]
    sites = [[0.1, 0.2, 0.0], [2.0, 1.7, 0.3], [0.4, 1.9, 2.2]]
    cell = [[3.9, 0.0, 0.2], [0.5, 4.1, 0.0], [0.0, -0.3, 4.3]]
    return [
        Structure(atomic_numbers=numbers, positions=molecule, id=_MOLECULE),
        Structure(atomic_numbers=numbers, positions=sites, cell=cell, pbc=[True] * 3, id=_CRYSTAL),
    ]


def golden_structures_of(entries: Sequence[dict[str, Any]]) -> list[Structure]:
    """The structures of stored values that were chosen for the model, each once; those made for any model are left out.

    Raises:
        ValueError: an entry is malformed.
    """
    found = {}
    for entry in entries:
        try:
            if entry["id"] not in (_MOLECULE, _CRYSTAL, CLOSE):
                found[entry["id"]] = _structure_of(entry)
        except (KeyError, TypeError) as error:
            raise InputError(f"the golden values of the card are malformed ({error})") from error
    return list(found.values())


def predicted(potential: Potential, structure: Structure, head: str) -> dict[str, Any]:
    """Energy (eV), forces (eV/Å) and, where all axes are periodic, stress (eV/Å³) of one structure, as plain numbers and lists.

    Raises:
        ValueError: it has more neighbours than are admitted, or an element that the head does not know.
    """
    return _entry(potential, structure, head)


def structures_for(potential: Potential, head: str) -> list[Structure]:
    """Those that `default_structures` makes for a head, in states that the model knows; none where it knows no element."""
    known = set(np.flatnonzero(potential.heads[head].reference.known.cpu().numpy()).tolist()) & set(potential.backbone.elements)
    return _known_states(potential, default_structures(sorted(known))) if known else []


def example_structures(potential: Potential) -> list[Structure]:
    """Those that `default_structures` makes for the first head that knows any element, in states that the model knows."""
    for name in potential.head_names:
        if structures := structures_for(potential, name):
            return structures
    raise InputError("no head of this model knows any element; give its heads references first")


def _known_states(potential: Potential, structures: Sequence[Structure]) -> list[Structure]:
    """With a charge and spin that the model was trained on, where it minds."""
    trained = getattr(potential.backbone, "trained_states", None)
    charge, multiplicity = (0.0, None) if trained is None else trained.typical()
    return [replace(s, total_charge=charge, spin_multiplicity=multiplicity) for s in structures]


def largest_deviation(potential: Potential, entries: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Deviation of `potential` from stored values, in the measure of `TOLERANCES`, and where it occurs, in words.

    Raises:
        ValueError: an entry names a head that the model lacks, or is malformed, or there are more atoms than are admitted.
    """
    worst, where = 0.0, ""
    if (n_atoms := sum(len(entry.get("atomic_numbers", ())) for entry in entries)) > MAX_ATOMS:
        raise InputError(f"the golden values of the card are of {n_atoms:,} atoms, at most {MAX_ATOMS:,} are looked at")
    for entry in entries:
        try:
            with np.errstate(all="ignore"):  # of numbers that make no sense; what comes out deviates or is refused
                deviations = _deviations(potential, entry)
        except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"the golden values of the card are malformed ({error})") from error
        for name, deviation in deviations.items():
            if not deviation <= worst:
                worst, where = deviation, f"{name} of structure {entry['id']!r} through head {entry['head']!r}"
            if math.isnan(deviation):
                return worst, where  # nothing is larger, and comparisons with it would not say so
    return worst, where


def _deviations(potential: Potential, entry: dict[str, Any]) -> dict[str, float]:
    """Property -> deviation in the measure of `TOLERANCES`."""
    now = _entry(potential, _structure_of(entry), entry["head"])
    large = max(1.0, float(np.abs(entry["forces"]).max()) / _LARGE_FORCE)
    return {
        "energy": abs(now["energy"] - entry["energy"]) / len(entry["atomic_numbers"]) / large,
        **{name: _array_deviation(now[name], entry[name]) for name in ("forces", "stress") if name in entry},
        **{
            name: abs(now["properties"][name] - value) / float(potential.property_heads[name].spread)
            for name, value in entry.get("properties", {}).items()
        },
    }


def _entry(potential: Potential, structure: Structure, head: str) -> dict[str, Any]:
    n_edges = _n_edges(structure, potential.cutoff)
    if not n_edges <= MAX_EDGES:
        raise InputError(
            f"golden structure {structure.id!r} has about {n_edges:.1e} pairs within the cutoff of {potential.cutoff:g} Å, at most "
            f"{MAX_EDGES:,} are admitted"
        )
    batch = collate([structure], cutoff=potential.cutoff, head_index=[potential.heads.index(head)], dtype=potential.dtype)
    periodic = bool(structure.pbc.all())
    properties = ("energy", "forces", "stress") if periodic else ("energy", "forces")
    scalars = [name for name in potential.scalar_properties if potential.property_heads[name].knows(batch.atomic_numbers)]
    predictions = potential(batch.to(potential.device), properties=(*properties, *scalars), create_graph=False)
    entry = {
        "id": structure.id or f"golden-{symbols_of(structure.atomic_numbers).replace(', ', '')}",
        "head": head,
        "atomic_numbers": structure.atomic_numbers.tolist(),
        "positions": structure.positions.tolist(),
        "cell": structure.cell.tolist(),
        "pbc": structure.pbc.tolist(),
        "total_charge": structure.total_charge,
        "spin_multiplicity": structure.spin_multiplicity,
        "energy": float(predictions["energy"][0]),
        "forces": predictions["forces"].double().cpu().tolist(),
        **({"properties": {name: float(predictions[name][0]) for name in scalars}} if scalars else {}),
    }
    return {**entry, "stress": predictions["stress"][0].double().cpu().tolist()} if periodic else entry


def _n_edges(structure: Structure, cutoff: float) -> float:
    try:
        return estimated_edges(structure.positions, structure.cell, structure.pbc, cutoff)
    except ZeroDivisionError:
        return 0.0  # a cell without volume, which `collate` refuses with a sentence


def _structure_of(entry: dict[str, Any]) -> Structure:
    names = ("id", "atomic_numbers", "positions", "cell", "pbc", "total_charge", "spin_multiplicity")
    return Structure(**{name: entry[name] for name in names})


def _array_deviation(now: list[Any], stored: list[Any]) -> float:
    stored_array = np.asarray(stored, dtype=float)
    if stored_array.shape != np.shape(now):
        raise InputError(f"golden values of shape {stored_array.shape} stand where {np.shape(now)} belong")
    return float(np.abs(np.asarray(now) - stored_array).max() / max(1.0, np.abs(stored_array).max()))
