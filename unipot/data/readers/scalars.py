"""Scalar properties out of structure files that ASE reads: numbers in `info`, or in a frame's calculator results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.data.readers.ase_files import frames_of, named_key
from unipot.errors import InputError
from unipot.properties import ScalarProperty
from unipot.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


def read_scalar_frames(
    path: str | Path, properties: Sequence[ScalarProperty], *, group_key: str | None = None, id_key: str | None = None
) -> Iterator[tuple[Structure, dict[str, float]]]:
    """Every frame of a file without its labels, called as `read_ase_file` calls it, and the values it has.

    Absent keys, empty values and NaN are missing values; a frame with all of them missing comes with an empty mapping.

    Args:
        path: any file that ASE reads.
        properties: names and keys.
        group_key: info key of material or trajectory.
        id_key: info key of a unique id; by default `<file>-<frame>`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, a value is not a single number, or no frame has one of the keys.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the path of a structure file that ASE reads, such as extended XYZ")
    unseen, keys = {prop.name: prop for prop in properties}, set()
    for number, atoms in enumerate(frames_of(file)):
        name = f"{file.stem}-{number}" if id_key is None else str(named_key(atoms, id_key, "id_key"))
        group = "" if group_key is None else str(named_key(atoms, group_key, "group_key"))
        found = {prop.name: _value(atoms, prop, f"{file}, frame {number}") for prop in properties}
        present = {key: value for key, value in found.items() if value is not None}
        for key in present:
            unseen.pop(key, None)
        keys |= set(atoms.info) | set(_results(atoms))
        yield Structure.from_ase(atoms, id=name, group=group), present
    if unseen:
        absent = next(iter(unseen.values()))
        raise InputError(
            f"{file}: no frame has a value under the key {absent.key!r} (properties.{absent.name}.key); keys in the file are: "
            f"{', '.join(sorted(keys)) or 'none'}; correct the key, or leave this property out"
        )


def _value(atoms: Atoms, prop: ScalarProperty, where: str) -> float | None:
    value = next((place[prop.key] for place in (atoms.info, _results(atoms)) if place.get(prop.key) is not None), None)
    if value is None:
        if prop.key in atoms.arrays:
            raise InputError(f"{where}: properties.{prop.name}.key {prop.key!r} is a number per atom; give one number per structure")
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if not isinstance(value, Real | np.bool_):
        what = f"{value.size} numbers" if isinstance(value, np.ndarray) else repr(value)
        raise InputError(
            f"{where}: properties.{prop.name}.key {prop.key!r} holds {what}, not one number; give a scalar, or NaN where it is missing"
        )
    number = float(value)  # type: ignore[arg-type]
    if np.isinf(number):
        raise InputError(f"{where}: properties.{prop.name}.key {prop.key!r} is infinite; correct it, or NaN where it is missing")
    return None if np.isnan(number) else number


def _results(atoms: Atoms) -> dict[str, Any]:
    return {} if atoms.calc is None else atoms.calc.results
