"""Scalar properties of a store: a column each beside the records, so that any store can be given one and none changes its format.

`scalars.json` names them (key in the source, unit, number of values), `index/scalar_<name>.npy` holds (n_structures,) float64 with
NaN for structures without a value. Stores without `scalars.json` have no scalar properties; readers that do not know of it read
the rest as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.storage.checksums import seal_is_broken, sealed
from unipot.data.storage.columns import TextColumn, load_column
from unipot.errors import InputError
from unipot.properties import ScalarProperty

FILE_NAME = "scalars.json"
#: as `unipot.properties.ScalarProperty` allows; the name is part of a file's name
_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


def read_scalars(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> key, unit and number of values of the scalar properties of the store at `path`.

    Raises:
        ValueError: the file is damaged, or does not name a property that has a column.
    """
    described = _described(path)
    columns = {file.stem.removeprefix("scalar_") for file in (path / "index").glob("scalar_*.npy")}
    if unnamed := sorted(columns - set(described)):
        raise InputError(f"{path / FILE_NAME} does not name {', '.join(unnamed)}, of which there are values; attach the properties again")
    return described


def _described(path: Path) -> dict[str, dict[str, Any]]:
    file = path / FILE_NAME
    if not file.is_file():
        return {}
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        for name, entry in described.items():
            if not isinstance(entry, Mapping) or not _NAME.fullmatch(name):
                raise InputError(f"{name!r} is no property")
            if seal_is_broken(entry):
                raise InputError(f"the entry {name!r} does not match its own checksum")
        return {name: {**d, "key": str(d["key"]), "unit": str(d["unit"]), "n": int(d["n"])} for name, d in described.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({error}); delete it and attach the properties again") from error


def scalar_column(path: Path, name: str, n_structures: int) -> np.ndarray:
    """(n_structures,) float64, memory-mapped, NaN without a value.

    Raises:
        ValueError: the column is missing, damaged, or of another store.
    """
    column = load_column(_file(path, name))
    if column.shape != (n_structures,) or column.dtype != np.dtype("<f8"):
        raise InputError(f"{path}: column of property {name!r} does not fit the {n_structures} structures; attach the property again")
    wanted = read_scalars(path).get(name, {}).get("sha256")
    if wanted is not None and hashlib.sha256(column.tobytes()).hexdigest() != wanted:
        raise InputError(f"{path}: column of property {name!r} does not match the recorded hash, it is damaged; attach the property again")
    return column


def attach_scalars(path: str | Path, properties: Iterable[ScalarProperty], values: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Give the store at `path` a column per property; one of the same name is replaced, the records stay as they are.

    Args:
        path: of a finished store.
        properties: their names, keys and units.
        values: property name -> id of a structure -> value in the unit of the property; NaN counts as absent.

    Returns:
        Property name -> structures of the store that have a value.

    Raises:
        ValueError: a value is infinite, or no structure of the store has one.
    """
    path = Path(path)
    index = path / "index"
    ids = list(TextColumn(load_column(index / "ids.npy"), load_column(index / "ids_offsets.npy")))
    described = _described(path)  # an attachment that was killed has left a column without a name
    counts = {}
    for prop in properties:
        own = values.get(prop.name, {})
        column = np.array([float(own.get(name, np.nan)) for name in ids], dtype="<f8")
        if np.isinf(column).any():
            where = ids[int(np.flatnonzero(np.isinf(column))[0])]
            raise InputError(f"properties.{prop.name}: structure {where!r} has an infinite value; correct it, or leave it out")
        counts[prop.name] = int(np.isfinite(column).sum())
        if not counts[prop.name]:
            raise InputError(f"properties.{prop.name}: no structure of {path} has a value; check the key {prop.key!r}")
        partial = path / f".scalar_{prop.name}.{os.getpid()}.npy"
        np.save(partial, column, allow_pickle=False)
        os.replace(partial, _file(path, prop.name))
        digest = hashlib.sha256(column.tobytes()).hexdigest()  # other values make another local copy of the store
        described[prop.name] = sealed({"key": prop.key, "unit": prop.unit, "n": counts[prop.name], "sha256": digest})
    partial = path / f".{FILE_NAME}.{os.getpid()}"
    partial.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path / FILE_NAME)
    return counts


def _file(path: Path, name: str) -> Path:
    return path / "index" / f"scalar_{name}.npy"
