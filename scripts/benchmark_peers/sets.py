"""The sets of the accuracy races: their files, their metrics, and what no momentum-conserving model can fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from benchmark_peers.batches import force_scales, frame, sizes
from benchmark_peers.frames import Arrays, save

LARGEST_BATCH = 300  # atoms of a training batch, at most
STRUCTURES = 5  # of a training batch, at most


@dataclass(frozen=True, kw_only=True)
class RaceSet:
    """One dataset with its training and test files.

    Attributes:
        name: its folder.
        tests: names of test files, without `.extxyz`.
        statistic: what its tables give, `mae` or `rmse`.
        energy: `energy` of the structure in meV, or `energy_per_atom` in meV/atom.
        n_train: first training frames that are used; None for all.
    """

    name: str
    tests: tuple[str, ...] = ("test",)
    statistic: str = "mae"
    energy: str = "energy_per_atom"
    n_train: int | None = None


SETS = (
    RaceSet(name="acac", tests=("test_300K", "test_600K"), statistic="rmse", energy="energy"),
    RaceSet(name="rmd17_aspirin", energy="energy", n_train=1000),
    RaceSet(name="mlearn_Cu"),
    RaceSet(name="water_revpbe0d3", statistic="rmse"),
    RaceSet(name="3bpa", tests=("test_mixedT",), statistic="rmse", energy="energy"),
    RaceSet(name="mlearn_Si"),
    RaceSet(name="rmd17_ethanol", energy="energy", n_train=1000),
    RaceSet(name="mlearn_Mo"),
    RaceSet(name="mlearn_Li"),
    RaceSet(name="mlearn_Ge"),
)


def set_named(name: str) -> RaceSet:
    """Raises KeyError for an unknown name."""
    return {s.name: s for s in SETS}[name]


def write_set(chosen: RaceSet, data: Path, folder: Path, cutoff: float) -> dict[str, Any]:
    """Write `train.npz` and one file per test, with neighbour lists, energies less the training frames' composition reference.

    The reference (least squares of training energies on compositions, float64) is subtracted here, so it is the same for
    all, and no package meets float32 rounding at −10⁴ eV.

    Returns:
        sizes of the training file, force scales, `batch_size`, `train` and `test` counts, and `floor` per test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = data / chosen.name
    train = read(source / "train.extxyz", index=":" if chosen.n_train is None else f":{chosen.n_train}")
    reference = composition_reference(train)
    written = save(folder / "train.npz", [_labelled(a, reference, cutoff) for a in train])
    n_test, floors = {}, {}
    for name in chosen.tests:
        frames = read(source / f"{name}.extxyz", index=":")
        save(folder / f"{name}.npz", [_labelled(a, reference, cutoff) for a in frames])
        n_test[name], floors[name] = len(frames), net_force_floor(frames)
    batch_size = min(STRUCTURES, max(1, LARGEST_BATCH // int(written["n_atoms"].max())))
    counts = {"batch_size": batch_size, "train": len(train), "test": n_test, "floor": floors}
    return sizes(written) | force_scales(written) | counts


def composition_reference(frames: list[Atoms]) -> np.ndarray:
    """(119,) eV per atom of each element: least squares of energies on compositions, the shortest solution."""
    counts = np.stack([np.bincount(a.numbers, minlength=119) for a in frames]).astype(np.float64)
    return np.linalg.lstsq(counts, np.array([a.get_potential_energy() for a in frames]), rcond=None)[0]


def net_force_floor(frames: list[Atoms]) -> dict[str, float]:
    """Smallest force RMSE (meV/Å) of a model whose forces sum to zero, and the MAE of that same fit.

    The closest such forces to the labels are the labels less the mean force of their structure.
    """
    means = np.concatenate([np.tile(a.get_forces().mean(axis=0), (len(a), 1)) for a in frames])
    return {"force_rmse": 1e3 * float(np.sqrt(np.square(means).mean())), "force_mae": 1e3 * float(np.abs(means).mean())}


def _labelled(atoms: Atoms, reference: np.ndarray, cutoff: float) -> Arrays:
    return frame(atoms, cutoff, atoms.get_potential_energy() - reference[atoms.numbers].sum(), atoms.get_forces())
