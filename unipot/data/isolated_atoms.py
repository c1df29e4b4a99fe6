"""Energies of free atoms, taken from the one-atom structures of a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unipot.data.edge_counts import STORED_CUTOFFS
from unipot.data.statistics import index_chunks
from unipot.data.store import Store

#: Å; an atom with another one, or its own periodic image, within this distance is not isolated
ISOLATION = max(STORED_CUTOFFS)


@dataclass(frozen=True, kw_only=True)
class IsolatedAtom:
    """The free atom of one element.

    Attributes:
        energy: eV, of its ground state: the lowest of the neutral ones.
        id: of the structure it comes from.
        n_candidates: isolated atoms of this element in the store, charged and excited ones included.
    """

    energy: float
    id: str
    n_candidates: int


def isolated_atoms(store: Store) -> dict[int, IsolatedAtom]:
    """Atomic number -> free atom, for every element that has a neutral one with an energy in `store`.

    Only records of candidates that would lower an element's energy are read, so a crystal with one atom per cell costs
    nothing: it has its own images for neighbours.
    """
    energies, n_edges = store.column("energy"), store.n_edges(ISOLATION)
    found: dict[int, IsolatedAtom] = {}
    seen: dict[int, int] = {}
    for chunk in index_chunks(store):
        alone = (np.asarray(store.n_atoms[chunk]) == 1) & (np.asarray(n_edges[chunk]) == 0) & np.isfinite(energies[chunk])
        candidates = chunk[alone]
        elements = store.composition_counts_of(candidates).argmax(axis=1)
        order = np.argsort(energies[candidates], kind="stable")
        for index, z in zip(candidates[order].tolist(), elements[order].tolist(), strict=True):
            seen[z] = seen.get(z, 0) + 1
            energy = float(energies[index])
            if z in found and found[z].energy <= energy:
                continue
            if store[index].total_charge == 0:
                found[z] = IsolatedAtom(energy=energy, id=store.ids[index], n_candidates=0)
    return {z: IsolatedAtom(energy=atom.energy, id=atom.id, n_candidates=seen[z]) for z, atom in sorted(found.items())}
