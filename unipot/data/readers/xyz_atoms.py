"""Frames of XYZ files as ASE `Atoms`, equal to what ASE's reader makes of a sound file.

But for three things: words of the comment line without a value are left out, a stress of nine numbers stays a matrix (ASE keeps six of
them, whatever the others are), and atoms called D or T are hydrogen of their mass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.data.readers.comment_line import typed
from unipot.data.readers.extended_xyz import AtomLineError, Frame, lattice_of, parse
from unipot.data.readers.extxyz_pieces import Piece
from unipot.data.readers.xyz_frames import COMPRESSED, FrameError, RawFrame, lines_before, opened, scan_frames
from unipot.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

#: what ASE counts as a calculator's results, per structure and per atom
RESULTS = ("energy", "free_energy", "stress", "dipole", "magmom")
ATOM_RESULTS = ("forces", "stresses", "charges", "magmoms", "energies")
#: numbers that ASE writes as matrices, column by column
_MATRICES = ("stress", "virial")
#: `info` key under which columns without a name are counted
UNNAMED_COLUMNS = "unnamed columns"


def read_xyz(file: Path, piece: Piece | None = None) -> Iterator[Atoms]:
    """The frames of a file, or of a piece of it, one after the other.

    Raises:
        ValueError: a frame cannot be read; file, line and frame are named.
    """
    start, first = (piece.start, piece.first_frame) if piece else (0, 0)
    try:
        with opened(file) as stream:
            if piece:
                stream.seek(piece.start)
            size = piece.stop - piece.start if piece else None if file.suffix in COMPRESSED else file.stat().st_size
            for raw in scan_frames(stream, size):
                yield _atoms_of(raw)
    except FrameError as error:
        line = error.line + lines_before(file, start)
        raise InputError(f"{file}, line {line}: frame {first + error.frame} cannot be read: {error.what}") from error


def _atoms_of(raw: RawFrame) -> Atoms:
    try:
        frame = parse(raw.comment, raw.atoms, raw.n_atoms)
        if vectors := raw.vectors:
            cell, pbc = lattice_of(vectors)
            frame = replace(frame, cell=cell, pbc=pbc)
        return as_atoms(frame)
    except AtomLineError as error:
        raise FrameError(raw.line + 2 + error.atom, raw.number, str(error)) from error
    except ValueError as error:
        raise FrameError(raw.line + 1, raw.number, str(error)) from error


def as_atoms(frame: Frame) -> Atoms:
    """ASE `Atoms` of a frame, with the results that it carries in a calculator.

    Raises:
        ValueError: the column `move_mask` does not have one or three columns.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    info: dict[str, Any] = {key: typed(value) for key, value in frame.info.items()}
    if frame.n_unnamed:
        info[UNNAMED_COLUMNS] = frame.n_unnamed
    columns = dict(frame.columns)
    atoms = Atoms(
        numbers=frame.atomic_numbers,
        positions=columns.pop("pos"),
        charges=columns.pop("initial_charges", None),
        cell=frame.cell,
        pbc=frame.pbc,
    )
    if frame.isotopes:
        masses = atoms.get_masses()
        masses[[k for k, _ in frame.isotopes]] = [mass for _, mass in frame.isotopes]
        atoms.set_masses(masses)
    if "move_mask" in columns:
        _constrain(atoms, columns.pop("move_mask"))
    if "charge" in columns:
        columns["charges"] = columns.pop("charge")
    for key in _MATRICES:
        if isinstance(info.get(key), np.ndarray) and info[key].shape == (9,):
            info[key] = info[key].reshape(3, 3).T
    results: dict[str, Any] = {name: columns.pop(name) for name in ATOM_RESULTS if name in columns}
    results |= {name: info.pop(name) for name in RESULTS if name in info}
    for name, column in columns.items():
        atoms.set_array(name, column)
    atoms.info = info
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _constrain(atoms: Atoms, free: np.ndarray) -> None:
    """Atoms that a `move_mask` holds."""
    from ase.constraints import FixAtoms, FixCartesian

    if free.dtype.kind != "b" or free.shape[1:] not in ((), (3,)):
        raise InputError("its column 'move_mask' is not one or three of T and F for each atom")
    if free.ndim == 1:
        atoms.set_constraint(FixAtoms(mask=~free))
    else:
        atoms.set_constraint([FixCartesian(k, mask=~row) for k, row in enumerate(free)])
