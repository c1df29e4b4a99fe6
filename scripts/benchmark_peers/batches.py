"""The structures whose cost is measured: the batches *mol* and *per*.

Every random number comes from a fixed seed, so two machines measure the same atoms. Labels of *mol* and *per* are noise: a step
costs the same whatever they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.collections import g2
from ase.io import read
from benchmark_peers.frames import Arrays, save

from unipot.neighbors import neighbor_list

RATTLE = 0.05  # Å


def molecules(data: Path, n_half: int = 16) -> list[Atoms]:
    """`n_half` frames of acetylacetone and the `n_half` largest g2 molecules of C, H, N, O with 9 to 16 atoms, rattled."""
    frames = read(data / "acac" / "train.extxyz", index=":")
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, n_half).astype(int)]
    small = [atoms for atoms in map(molecule, g2.names) if 9 <= len(atoms) <= 16 and set(atoms.symbols) <= set("CHNO")]
    small.sort(key=lambda atoms: (-len(atoms), atoms.get_chemical_formula()))
    return _rattled([*chosen, *small[:n_half]])


def periodic_cells(copies: int = 2) -> list[Atoms]:
    """Periodic cells: CO on Cu(111) and on Pt(111) 3×3×4, MgO with 64 atoms and NiO with 32; `copies` of each, rattled."""
    oxides = [bulk("MgO", "rocksalt", a=4.21, cubic=True) * 2, bulk("NiO", "rocksalt", a=4.17, cubic=True) * (2, 2, 1)]
    kinds = [_slab_with_co("Cu"), _slab_with_co("Pt"), *oxides]
    return _rattled([kind.copy() for kind in kinds for _ in range(copies)])


def _slab_with_co(metal: str) -> Atoms:
    slab = fcc111(metal, size=(3, 3, 4), vacuum=8.0)
    slab.pbc = True
    carbon_down = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.15]])
    add_adsorbate(slab, carbon_down, 1.9, "ontop")
    return slab


def write_timing_batch(path: Path, structures: list[Atoms], cutoff: float) -> dict[str, float]:
    """Write structures with noise as labels; returns the sizes that a table states."""
    rng = np.random.default_rng(7)
    arrays = save(path, [frame(a, cutoff, rng.normal(), rng.normal(size=(len(a), 3))) for a in structures])
    return sizes(arrays)


def force_scales(arrays: Arrays) -> dict[str, object]:
    """Root mean square of force components (eV/Å), overall and per element."""
    forces, numbers = arrays["forces"], arrays["atomic_numbers"]
    per_element = {str(z): float(np.sqrt(np.square(forces[numbers == z]).mean())) for z in np.unique(numbers)}
    return {"overall_force_rms": float(np.sqrt(np.square(forces).mean())), "force_rms": per_element}


def sizes(arrays: Arrays) -> dict[str, object]:
    """Numbers of structures, atoms and edges, and the elements."""
    n_atoms, n_edges = int(arrays["n_atoms"].sum()), int(arrays["n_edges"].sum())
    return {
        "structures": len(arrays["n_atoms"]),
        "atoms": n_atoms,
        "edges": n_edges,
        "edges_per_atom": n_edges / n_atoms,
        "elements": [int(z) for z in np.unique(arrays["atomic_numbers"])],
    }


def frame(atoms: Atoms, cutoff: float, energy: float, forces: np.ndarray) -> Arrays:
    """One structure with its edges, as `frames.save` takes it; energy eV, forces (n_atoms, 3) eV/Å."""
    edges, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    return {
        "atomic_numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions.astype(np.float64),
        "cell": np.asarray(atoms.cell.array, dtype=np.float64),
        "pbc": np.asarray(atoms.pbc),
        "edge_index": edges,
        "cell_shifts": shifts,
        "energy": np.float64(energy),
        "forces": np.asarray(forces, dtype=np.float64),
    }


def _rattled(structures: list[Atoms]) -> list[Atoms]:
    for seed, atoms in enumerate(structures):
        atoms.calc = None
        atoms.rattle(stdev=RATTLE, seed=seed)
    return structures
