"""OC22: relaxations of oxide slabs with and without adsorbates, total energies, as ASE trajectory files.

The archive holds `raw_trajs/<system>.traj` and lists of file names, `<split>_t.txt`, one list for each split and task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

from unipot.data.labels import SkippedItem
from unipot.structure import Structure

SPLITS = ("train_s2ef", "val_id_s2ef", "val_ood_s2ef", "train_is2re", "val_id_is2re", "val_ood_is2re")
FRAMES = ("all", "ends", "relaxed")
#: trajectories in one part
BLOCK = 100


def parts(raw: Path, split: str = "train_s2ef") -> list[str]:
    """Blocks of 100 trajectories of one list, `<list>#<number>`."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; use one of: {', '.join(SPLITS)}")
    lists = sorted((raw / "oc22_trajectories").rglob(f"{split}_t.txt"))
    if not lists:
        raise FileNotFoundError(f"{raw / 'oc22_trajectories'}: no {split}_t.txt in it; unpack oc22_trajectories.tar.gz there")
    return [f"{file.relative_to(raw).as_posix()}#{k}" for file in lists for k in range(-(-len(_names(file)) // BLOCK))]


def structures(raw: Path, part: str, frames: str = "all") -> Iterator[Structure | SkippedItem]:
    """Stream the trajectories of one block; `ends` is the first and the last frame, `relaxed` the last."""
    if frames not in FRAMES:
        raise ValueError(f"frames {frames!r} is not known; use one of: {', '.join(FRAMES)}")
    file, block = part.rsplit("#", 1)
    for name in _names(raw / file)[int(block) * BLOCK : (int(block) + 1) * BLOCK]:
        trajectory = (raw / file).parent / "raw_trajs" / name
        if trajectory.is_file():
            yield from _frames(trajectory, frames)
        else:
            yield SkippedItem(where=name, reason="the split lists it but its trajectory is missing")


def _names(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _frames(file: Path, frames: str) -> Iterator[Structure | SkippedItem]:
    from ase.io.trajectory import TrajectoryReader

    try:
        trajectory = TrajectoryReader(str(file))
    except Exception as error:  # ASE raises many kinds for a damaged file
        _reraise_of_machine(error)
        yield SkippedItem(where=file.name, reason=f"its trajectory cannot be read ({type(error).__name__})")
        return
    with trajectory:
        last = len(trajectory) - 1
        if last < 0:
            yield SkippedItem(where=file.name, reason="its trajectory has no frame")
            return
        for k in {"all": range(last + 1), "ends": sorted({0, last}), "relaxed": [last]}[frames]:
            try:
                yield _structure(trajectory[k], f"{file.stem}-{k}")
            except Exception as error:
                _reraise_of_machine(error)
                yield SkippedItem(where=f"{file.stem}-{k}", reason=f"its frame cannot be read ({type(error).__name__})")


def _reraise_of_machine(error: Exception) -> None:
    """A full memory or a failing disk is not the file's fault: the run must stop and be continued."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        raise error


def _structure(atoms: Atoms, name: str) -> Structure:
    results = atoms.calc.results if atoms.calc is not None else {}
    labels = {key: np.asarray(results[key], dtype=np.float64) for key in ("energy", "forces") if key in results}
    # <formula>_<bulk id>_<two random words>: slabs of one bulk stay together
    return Structure.from_ase(atoms, labels=labels, id=name, group="_".join(name.split("_")[:2]))
