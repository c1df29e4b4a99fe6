"""What tests of distillation from xTB share: frames, a parent that trains in seconds, and a short run."""

import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from unipot.cli import main


def methanol(n, seed=1, factor=1.0, calculator=EMT, **changes):
    """Distorted methanol labelled by `calculator` times `factor`; attributes of the atoms from `changes`."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("CH3OH")
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        for name, value in changes.items():
            setattr(atoms, name, value)
        atoms.calc = calculator()
        energy, forces = factor * atoms.get_potential_energy(), factor * atoms.get_forces()
        stress = {"stress": factor * atoms.get_stress()} if atoms.pbc.all() else {}
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, **stress)
        frames.append(atoms)
    return frames


def xtb(method):
    from tblite.ase import TBLite

    return lambda: TBLite(method=method, verbosity=0)


def parent_for_distillation(run, toy_data, *further):
    """Checkpoint of a short pretraining, with `further` options."""
    arguments = [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false",
        f"datasets.molecules.path={toy_data['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules",
        *further,
    ]  # fmt: skip
    assert main(arguments) == 0
    return run / "last.safetensors"


def parent_with_differences(run, toy_data, less, *further):
    """Checkpoint that knows the differences in the file `less` through a head of that name."""
    options = (
        f"datasets.less.path={less}", "datasets.less.level_of_theory=EMT less GFN2-xTB", "datasets.less.energy_kind=difference",
        "schedule.max_steps=150", *further,
    )  # fmt: skip
    return parent_for_distillation(run, toy_data, *options)


def run_finetune(files, run, *overrides):
    """Exit code of a fine-tuning of a few steps on `mine.extxyz` in the folder of `files`."""
    return main(
        [
            "finetune", f"checkpoint={files['checkpoint']}", f"data={files['folder'] / 'mine.extxyz'}", f"run={run}",
            "schedule.max_steps=4", "schedule.warmup_steps=1", "trainer.threads=1", "trainer.progress=false", "small_data=off",
            "validation_fraction=0", "uncertainty=none", *overrides,
        ]
    )  # fmt: skip
