"""Structures from a file that ASE reads, a calculator from a checkpoint, and names of the files that are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unipot.errors import InputError
from unipot.occupancy import require_whole_atoms
from unipot.workflows.settings.device_names import device_named, optional_dtype

if TYPE_CHECKING:
    from ase import Atoms

    from unipot.calculator import UnipotCalculator


def read_atoms(path: str, index: str) -> list[Atoms]:
    """Structures of a file that ASE can read.

    Args:
        path: of the file.
        index: as in ASE: `-1` the last structure, `:` all, `::10` every tenth.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read it, the index selects nothing, or sites are partly occupied.
    """
    from ase.io.formats import string2index

    from unipot.data.readers.ase_files import read_frames

    if not Path(path).is_file():
        raise FileNotFoundError(f"structure file {path!r} is not there; give a file that ASE can read, for example .extxyz, .cif or POSCAR")
    try:
        chosen = string2index(str(index))
    except ValueError as error:
        raise InputError(f"{path}: no index is {index!r}; use '-1' for the last structure, ':' for all, '::10' for every tenth") from error
    try:
        structures = read_frames(path, chosen)
    except IndexError as error:
        raise InputError(f"{path}: there is no structure {index!r}; use '-1' for the last one or ':' for all") from error
    if not structures:
        raise InputError(f"{path}: index {index!r} selects no structure; use '-1' for the last one or ':' for all")
    for atoms in structures:
        require_whole_atoms(atoms, path)
        _hold_fixed_atoms(atoms)
    return structures


def _hold_fixed_atoms(atoms: Atoms) -> None:
    """Atoms that training takes as fixed are held here too: those of a per-atom array `fixed`."""
    from ase.constraints import FixAtoms

    if "fixed" in atoms.arrays:
        atoms.set_constraint([*atoms.constraints, FixAtoms(mask=atoms.arrays["fixed"].astype(bool))])


def make_calculator(
    checkpoint: str, head: str | None, device: str, dtype: str | None, skin: float, trusted: bool = False, unknown_elements: str = "allow"
) -> UnipotCalculator:
    """The calculator of a model artifact or package.

    Args:
        checkpoint: path of it.
        head: may be None if the model has only one, or was fine-tuned.
        device: for instance `cpu` or `cuda`, or `auto` for the GPU if there is one.
        dtype: float32 or float64; None for the one the model was saved in.
        skin: Å, of the neighbour list.
        trusted: the machine code of a package may be run.
        unknown_elements: of the calculator; simulations say them once and before the work instead.

    Raises:
        ValueError: the device or dtype is not available, or the skin is negative.
    """
    from unipot.calculator import UnipotCalculator

    options = {"device": device_named(device), "dtype": optional_dtype(dtype), "trusted": trusted, "unknown_elements": unknown_elements}
    return UnipotCalculator(checkpoint, head=head, skin=skin, **options)


def require_different(paths: Sequence[str | Path]) -> None:
    """Raises:
    ValueError: two outputs of one command have the same name.
    """
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise InputError(f"{path} is named twice as an output; give out and trajectory different names")
        seen.add(path.resolve())


def numbered(path: str, number: int, total: int) -> Path:
    """`path`, with the number of the structure in its name when there are several."""
    plain = Path(path)
    return plain if total == 1 else plain.with_name(f"{plain.stem}-{number:04d}{plain.suffix}")
