"""rMD17: dynamics of ten small organic molecules; frames of MD17 recomputed at PBE/def2-SVP.

One archive with an npz file per molecule (`nuclear_charges`, `coords` in Å, `energies` in kcal/mol, `forces` in kcal/mol/Å and the
labels of the original MD17, which are not read) and five pairs of lists of 1000 frames for training and testing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unipot.data.labels import SkippedItem
from unipot.data.readers.conformers import conformers
from unipot.data.readers.npz import read_npz
from unipot.structure import Structure
from unipot.units import ENERGY_UNITS, FORCE_UNITS

FOLDER = "rmd17/rmd17"  # the archive holds a folder of its own name
MOLECULES = (
    "aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde", "naphthalene", "paracetamol", "salicylic", "toluene", "uracil",
)  # fmt: skip
SPLITS = ("train", "test", "all")


def parts(raw: Path, molecule: str = "all") -> list[str]:
    """One file per molecule.

    Raises:
        ValueError: the molecule is not known.
    """
    if molecule not in ("all", *MOLECULES):
        raise ValueError(f"molecule {molecule!r} of recipe 'rmd17' is not known; use all, {', '.join(MOLECULES)}")
    return [f"{FOLDER}/npz_data/rmd17_{name}.npz" for name in MOLECULES if molecule in ("all", name)]


def structures(raw: Path, part: str, split: str = "train", fold: int = 1) -> Iterator[Structure | SkippedItem]:
    """Frames of one molecule, in the order of the archive.

    Args:
        raw: folder with the unpacked archive.
        part: one of `parts`.
        split: `train` or `test` for the 1000 frames of a published list, `all` for the whole trajectory.
        fold: which of the five pairs of lists, 1 to 5.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: split or fold is not known, or a file is damaged.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of recipe 'rmd17' is not known; use one of: {', '.join(SPLITS)}")
    if fold not in range(1, 6):
        raise ValueError(f"fold {fold!r} of recipe 'rmd17' is not known; use 1, 2, 3, 4 or 5")
    molecule = Path(part).stem.removeprefix("rmd17_")
    arrays = read_npz(raw / part, ("nuclear_charges", "coords", "energies", "forces"))
    frames = np.arange(len(arrays["coords"]))
    if split != "all":
        frames = _listed(raw / FOLDER / "splits" / f"index_{split}_0{fold}.csv", len(frames))
    yield from conformers(
        atomic_numbers=arrays["nuclear_charges"],
        positions=arrays["coords"][frames],
        energy=arrays["energies"].reshape(-1)[frames] * ENERGY_UNITS["kcal/mol"],
        forces=arrays["forces"][frames] * FORCE_UNITS["kcal/mol/A"],
        ids=[f"{molecule}-{k:06d}" for k in frames],
        group=molecule,
    )


def _listed(file: Path, n_frames: int) -> np.ndarray:
    """Frame numbers of a list, ascending."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; unpack the whole archive, or convert with options.split=all")
    try:
        frames = np.sort(np.loadtxt(file, dtype=np.int64, ndmin=1).reshape(-1))
    except ValueError as error:
        raise ValueError(f"{file} is not a list of frame numbers ({error}); unpack the archive again") from error
    if len(frames) == 0 or frames[0] < 0 or frames[-1] >= n_frames:
        raise ValueError(f"{file} names frames outside 0..{n_frames - 1}; it is not the list of this molecule")
    return frames
