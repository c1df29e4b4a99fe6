"""Writes an unpacked `oc22_trajectories` in the raw format: invented oxide slabs, two trajectories, Lennard-Jones labels."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, surface
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory

#: file -> metal; the raw names are `<formula>_<bulk id>_<two random words>`
SYSTEMS = {"MgO_mp-1265_AAaa00_BBbb11": ("MgO", 4.2), "NiO_mp-19009_CCcc22_DDdd33": ("NiO", 4.18)}


def trajectories() -> dict[str, list[Atoms]]:
    """Name -> frames with energy and forces; the second system holds its lowest layer fixed."""
    found = {}
    for number, (name, (formula, a)) in enumerate(SYSTEMS.items()):
        slab = surface(bulk(formula, "rocksalt", a=a, cubic=True), (1, 0, 0), 1, vacuum=6.0, periodic=True)
        if number == 1:
            add_adsorbate(slab, "O", 2.0)
            slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < slab.positions[:, 2].min() + 0.1))
        frames = []
        for k in range(3):
            atoms = slab.copy()
            shift = 0.05 * np.random.default_rng((number, k)).normal(size=(len(atoms), 3))
            atoms.set_positions(atoms.positions + shift)  # atoms that are held fixed stay
            calculator = LennardJones(sigma=1.8, epsilon=0.2, rc=6.0)
            calculator.calculate(atoms)
            results = {key: calculator.results[key] for key in ("energy", "forces")}  # forces without the constraints
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        found[name] = frames
    return found


def write(folder: Path) -> None:
    """The lists of two splits and the trajectories; the second split lists one of them."""
    (folder / "raw_trajs").mkdir(parents=True, exist_ok=True)
    for name, frames in trajectories().items():
        with Trajectory(folder / "raw_trajs" / f"{name}.traj", "w") as file:
            for atoms in frames:
                file.write(atoms)
    (folder / "train_s2ef_t.txt").write_text("".join(f"{name}.traj\n" for name in SYSTEMS))
    (folder / "val_id_s2ef_t.txt").write_text(f"{list(SYSTEMS)[0]}.traj\n")


if __name__ == "__main__":
    write(Path(__file__).parent / "oc22_trajectories" / "trajectories" / "oc22")
