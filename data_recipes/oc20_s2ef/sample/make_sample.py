"""Writes an unpacked `s2ef_train_200K` in the raw format: two systems on invented copper slabs, EMT totals and forces.

Two pairs of files with three frames each; the reference energies are the sums of EMT energies of slab and molecule.
"""

import lzma
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT

#: system -> adsorbate; the raw files name systems `random<number>`
SYSTEMS = {"random1234567": "CO", "random89": "H2O"}


def systems() -> dict[str, tuple[list[Atoms], float]]:
    """System -> frames with EMT calculators (tags 0 below, 1 surface, 2 adsorbate; `move_mask` F is held fixed), reference energy."""
    found = {}
    for number, (name, adsorbate) in enumerate(SYSTEMS.items()):
        slab = fcc111("Cu" if number == 0 else "Pd", size=(2, 2, 3), vacuum=8.0, periodic=True)
        slab.set_tags(np.where(slab.get_tags() == 1, 1, 0))
        reference = sum(energy_of(atoms) for atoms in (slab, molecule(adsorbate)))
        frames = []
        for k in range(3):
            atoms = slab.copy()
            guest = molecule(adsorbate, tags=[2] * len(molecule(adsorbate)))
            add_adsorbate(atoms, guest, 1.8 + 0.1 * k, "ontop", mol_index=int(guest.positions[:, 2].argmin()))
            atoms.positions += 0.05 * np.random.default_rng((number, k)).normal(size=(len(atoms), 3)) * (atoms.get_tags() > 0)[:, None]
            atoms.positions = atoms.positions.round(8)
            atoms.arrays["move_mask"] = atoms.get_tags() > 0
            atoms.calc = EMT()
            frames.append(atoms)
        found[name] = frames, round(reference, 8)
    return found


def energy_of(atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def text_of(atoms: Atoms) -> str:
    """One frame as the raw files have it."""
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    lattice = " ".join(f"{value:.8f}" for value in atoms.cell.array.ravel())
    columns = "species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3"
    lines = [str(len(atoms)), f'Lattice="{lattice}" Properties={columns} energy={energy:.8f} free_energy={energy:.8f} pbc="T T T"']
    for symbol, position, moves, tag, force in zip(
        atoms.symbols, atoms.positions, atoms.arrays["move_mask"], atoms.get_tags(), forces, strict=True
    ):
        numbers = [*(f"{x:16.8f}" for x in position), f"{'T' if moves else 'F':>8}", f"{tag:8d}", *(f"{x:16.8f}" for x in force)]
        lines.append(f"{symbol:<2} {' '.join(numbers)}")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Frames of both systems alternate, as the raw files mix systems."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [(name, k, atoms, reference) for name, (frames, reference) in systems().items() for k, atoms in enumerate(frames)]
    for number in range(2):
        chosen = items[number::2]
        with lzma.open(folder / f"{number}.extxyz.xz", "wt") as file:
            file.writelines(text_of(atoms) for _, _, atoms, _ in chosen)
        with lzma.open(folder / f"{number}.txt.xz", "wt") as file:
            file.writelines(f"{name},frame{k},{reference}\n" for name, k, _, reference in chosen)


if __name__ == "__main__":
    write(Path(__file__).parent / "s2ef_train_200K" / "s2ef_train_200K" / "s2ef_train_200K")
