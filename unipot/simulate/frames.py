"""Files of moved geometries: one frame after the other, each with what a reader must know of it, in formats tried before the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties

from unipot.errors import InputError

#: keys of `atoms.info` that say which model a frame is from
MODEL_KEYS = ("model", "model_sha256", "head", "level_of_theory")
#: keys of `atoms.info` that say how far a run had come
RUN_KEYS = ("converged", "exploded", "step", "time_fs")
#: numbers in `atoms.info` that belong to the atoms and not to one geometry
_CHARGE_AND_SPIN = ("charge", "total_charge", "spin", "total_spin", "spin_multiplicity", "multiplicity")
#: numbers per atom that do
_OF_ATOMS = ("numbers", "positions", "tags", "momenta", "masses", "initial_charges", "initial_magmoms", "fixed")
#: what our frames hold beside the geometry
_RESULTS = ("energy", "forces", "stress")
#: formats that can be appended to, named where another cannot
APPENDABLE = ".extxyz or .traj"


class FrameWriter:
    """Writes frames into one file. A file that was there is replaced only where that was asked for, by a complete first frame.

    The format is tried in a folder beside the file when the writer is made, so that what ASE cannot write is refused
    before the work.

    Args:
        path: of the file; its name tells the format, as in ASE.
        like: the start of what will be written, all of it where structures differ.
        several: whether more than one frame will be written.
        overwrite: a file that is there already may be replaced.

    Attributes:
        path: of the file.
        n_frames: written so far.
        lost: which of energy, forces, stress and model the format does not keep.

    Raises:
        FileExistsError: the file is there and `overwrite` is false.
        ValueError: ASE does not know the format, cannot write it, or it holds one frame and `several` are to be
            written.

    Example:
        >>> from ase.build import molecule
        >>> FrameWriter("water.vasp", [molecule("H2O", vacuum=3.0)], several=True)
        Traceback (most recent call last):
        ValueError: water.vasp: frames cannot be added to a file of format vasp; write .extxyz or .traj, and convert it
            with `ase convert`
    """

    def __init__(self, path: Path | str, like: Sequence[Atoms], *, several: bool, overwrite: bool = False) -> None:
        self.path, self.n_frames = Path(path), 0
        self.format = _format_of(self.path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already; choose another name with out=, or allow it to be replaced with overwrite=true")
        if self.path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the name of a file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lost = self._tried(like, several)

    def write(self, atoms: Atoms, results: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Add a frame, see `described_frame`.

        Raises:
            OSError: the disk is full or the folder is gone; frames that were written before stay.
        """
        frame = described_frame(atoms, results, **facts)
        if self.n_frames:
            _append_frame(self.path, self.format, frame)
        else:
            with TemporaryDirectory(prefix=".", dir=self.path.parent) as folder:
                _append_frame(Path(folder) / self.path.name, self.format, frame, first=True)
                os.replace(Path(folder) / self.path.name, self.path)
        self.n_frames += 1

    def _tried(self, like: Sequence[Atoms], several: bool) -> tuple[str, ...]:
        """Write frames like those to come in a folder that is removed again; returns what does not come back."""
        trial = [described_frame(atoms, _zeros(atoms), **dict.fromkeys(MODEL_KEYS, "tried")) for atoms in like]
        trial += trial[-1:] if several and len(trial) == 1 else []
        with TemporaryDirectory(prefix=".", dir=self.path.parent) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers and writers that will not be used
            file = Path(folder) / self.path.name
            for number, frame in enumerate(trial):
                try:
                    _append_frame(file, self.format, frame, first=number == 0)
                except Exception as error:  # ASE's writers raise whatever their formats make them raise
                    if number:
                        raise InputError(self._cannot_add()) from error
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    what = f"ASE cannot write {frame.get_chemical_formula()} as {self.format} ({reason})"
                    raise InputError(f"{self.path}: {what}; use {APPENDABLE}") from error
            try:
                back = _read_back(file, self.format)
            except ValueError as error:
                raise InputError(self._cannot_add() if several else f"{self.path}: {error}") from error
        if several and [len(one) for one in back] != [len(one) for one in trial]:
            raise InputError(self._cannot_add())
        results, info = (back[-1].calc.results if back and back[-1].calc else {}), (back[-1].info if back else {})
        return tuple(name for name in _zeros(trial[-1]) if name not in results) + (() if "model" in info else ("model",))

    def _cannot_add(self) -> str:
        remedy = f"write {APPENDABLE}, and convert it with `ase convert`"
        return f"{self.path}: frames cannot be added to a file of format {self.format}; {remedy}"


def _read_back(path: Path, format: str) -> list[Atoms]:
    """The frames of a file; none of a format that ASE only writes.

    Raises:
        ValueError: ASE cannot read what it has written.
    """
    from ase.io import read
    from ase.io.formats import ioformats

    if not ioformats[format].can_read:
        return []
    try:
        return read(path, ":", format=format)
    except Exception as error:  # ASE's readers raise whatever their formats make them raise
        raise InputError(f"ASE cannot read what it writes as {format} ({type(error).__name__}); use {APPENDABLE}") from error


def _zeros(atoms: Atoms) -> dict[str, Any]:
    """Results of a calculator, for a trial."""
    return {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), **({"stress": np.zeros(6)} if atoms.pbc.all() else {})}


def described_frame(atoms: Atoms, results: Mapping[str, Any] | None = None, **facts: Any) -> Atoms:
    """A copy of `atoms` with their energy, forces and stress, the model that they are from, and `facts`; see `without_labels`.

    Args:
        atoms: with the calculator that moved them.
        results: of the calculator; those it has now by default.
        facts: go into `info`.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    frame = without_labels(atoms.copy())
    frame.info.update(getattr(atoms.calc, "provenance", {}))
    frame.info.update(facts)
    results = atoms.calc.results if results is None else results
    frame.calc = SinglePointCalculator(frame, **{name: value for name, value in results.items() if name in _RESULTS})
    return frame


def without_labels(atoms: Atoms) -> Atoms:
    """`atoms` without what was known of another geometry, or by another method, in `info` and per atom (in place).

    Charge, spin, text and whole numbers stay, and what ASE itself keeps per atom. Every other number goes: a label of
    any name would look as if it belonged to the new geometry.
    """
    atoms.info = {name: value for name, value in atoms.info.items() if _stays(name, value)}
    for name in [name for name, value in atoms.arrays.items() if name not in _OF_ATOMS and not _stays(name, value)]:
        del atoms.arrays[name]
    return atoms


def labels_of(atoms: Atoms) -> list[str]:
    """Names in `info` and per atom that `without_labels` takes away, those that unipot writes itself left out."""
    names = [name for name, value in atoms.info.items() if not _stays(name, value) and name not in (*MODEL_KEYS, *RUN_KEYS)]
    return names + [name for name, value in atoms.arrays.items() if name not in _OF_ATOMS and not _stays(name, value)]


def _stays(name: str, value: Any) -> bool:
    if name in _CHARGE_AND_SPIN:
        return isinstance(value, int | float | np.number)
    if name in (*all_properties, *MODEL_KEYS, *RUN_KEYS):
        return False
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuSU"
    return isinstance(value, str | int | np.integer | np.bool_)


def _format_of(path: Path) -> str:
    """ASE's name of the format of a file that need not be there.

    Raises:
        ValueError: the name tells none that ASE writes.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        name = str(filetype(path.name, read=False))
    except UnknownFileTypeError:
        name = ""
    if name not in ioformats or not ioformats[name].can_write:
        raise InputError(f"{path}: ASE writes no format that this name tells; give one that ends in {APPENDABLE}")
    return name


def _append_frame(path: Path, format: str, frame: Atoms, *, first: bool = False) -> None:
    from ase.io import write

    if format == "traj" and not first:  # the only one whose files are not appended to at their end
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path), "a") as file:
            file.write(frame)
    else:
        write(path, frame, format=format, append=not first)
