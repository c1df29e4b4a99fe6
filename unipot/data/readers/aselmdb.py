"""fairchem's `.aselmdb` files: ASE rows as compressed JSON in LMDB, with charge, spin and ids in each row's `data`.

The rows are decoded here (LMDB, zlib, JSON, ASE's `__ndarray__` envelope), which needs no other package and is
faster than going through ASE's row and `Atoms` objects.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import (
    CALCULATOR,
    LabelSource,
    SkippedItem,
    check_sources,
    convert_label,
    missing_keys_message,
    without_void_stress,
)
from unipot.data.storage.lmdb_file import LmdbFile
from unipot.data.unread_keys import UnreadKey, UnreadKeys
from unipot.errors import InputError
from unipot.structure import CHARGE_KEYS, MULTIPLICITY_KEYS, Structure, stated, stated_multiplicity

_CALCULATOR_RESULTS = ("energy", "free_energy", "forces", "stress")
#: eV, eV/A or eV/A^3: `data` and calculator results that differ by more contradict each other
_AGREEMENT = 1e-6


def read_aselmdb(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource],
    group_key: str | None = None,
    id_key: str | None = None,
    rows: range | None = None,
    id_prefix: str | None = None,
    check_keys: bool = True,
    columns: Mapping[str, str] | None = None,
    on_unread: Callable[[UnreadKey], None] | None = None,
) -> Iterator[Structure | SkippedItem]:
    """Stream the rows of one file, or of every `.aselmdb` file below a folder, in order of name and row.

    A label key, group key or id key is looked up in the row's `data` and key-value pairs, a label key also in the row's
    calculator results; where both have it and they differ, the row is skipped. Total charge and spin multiplicity come from `CHARGE_KEYS`
    and `MULTIPLICITY_KEYS` of `data` or of the key-value pairs.

    Args:
        path: a `.aselmdb` file or a folder.
        labels: property name -> where it is found, its unit and sign. fairchem's files hold eV, eV/A and eV/A^3 (`tension`).
        group_key: key that says which material or trajectory a row belongs to.
        id_key: key of a unique id; by default `<file without suffix>-<row id>`.
        rows: row ids to read, of each file; None reads all.
        id_prefix: in place of the file's name in default ids.
        check_keys: refuse a label key that no row has; a caller that reads pieces checks them together.
        columns: `total_charge` or `spin_multiplicity` -> key, where the names differ from those understood.
        on_unread: told once of every key that nothing reads.

    Yields:
        Structures, and a `SkippedItem` for each row that cannot be used.

    Raises:
        FileNotFoundError: there is no such file, or no `.aselmdb` file in the folder.
        ValueError: a file is damaged or empty, or a label key is in no row.
    """
    check_sources(labels)
    root = Path(path)
    states = dict(columns or {})
    unread = None
    if on_unread:
        keys = {name if source.key == CALCULATOR else source.key for name, source in labels.items()}
        unread = UnreadKeys({*keys, *states.values(), *CHARGE_KEYS, *MULTIPLICITY_KEYS, group_key or "", id_key or ""}, on_unread)
    return _read(root, _files(root), dict(labels), group_key, id_key, rows, id_prefix, check_keys, states, unread)


def last_row_id(file: Path) -> int:
    """The largest row id that a file may have; 0 for an empty one.

    Raises:
        ValueError: the file is damaged.
    """
    with _opened_file(file) as content:
        return _n_ids(content) - 1


def read_aselmdb_file(
    file: Path,
    *,
    labels: Mapping[str, LabelSource],
    id_prefix: str,
    group: Callable[[RowFields], str],
) -> Iterator[Structure | SkippedItem]:
    """Stream one file of a recipe: ids are `<id_prefix>-<row id>`, the group is what `group` makes of a row.

    A cell that no periodic axis uses (OMol25 stores one without meaning) is left out.

    Raises:
        ValueError: the file is damaged, or the group cannot be told (counted as a skipped row).
    """
    for row_id, row in _rows(file):
        fields = RowFields(row)
        if not fields.pbc.any():
            fields.cell = np.zeros((3, 3))
        yield _structure(fields, dict(labels), f"{id_prefix}-{row_id}", group, None)


class RowFields:
    """One decoded row: geometry as arrays, everything else by key.

    Attributes:
        numbers: (n_atoms,) atomic numbers.
        cell: (3, 3) Å.
        pbc: (3,) bool.
        info: the row's `data` and key-value pairs.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row
        self.info: dict[str, Any] = {**(row.get("key_value_pairs") or {}), **(row.get("data") or {})}
        self.numbers = np.asarray(row["numbers"])
        self.cell = np.asarray(row.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)
        self.pbc = np.asarray(row.get("pbc", np.zeros(3)), dtype=bool)

    def keys(self) -> set[str]:
        return set(self.info) | {name for name in _CALCULATOR_RESULTS if name in self.row}

    def label(self, name: str, source: LabelSource) -> Any:
        """The raw label, or None where the row does not have it.

        Raises:
            ValueError: `data` and the calculator results contradict each other.
        """
        if source.key == CALCULATOR:
            return self.row.get(name)
        stored, computed = self.info.get(source.key), self._result(source.key)
        if stored is not None and computed is not None and not _agree(stored, computed):
            raise InputError(f"{source.key!r} of data and of the calculator results differ")
        return computed if stored is None else stored

    def has(self, name: str, source: LabelSource) -> bool:
        if source.key == CALCULATOR:
            return self.row.get(name) is not None
        return self.info.get(source.key) is not None or self._result(source.key) is not None

    def first(self, *keys: str) -> Any:
        """The value of the first of `keys` that the row has, or None."""
        return next((self.info[key] for key in keys if self.info.get(key) is not None), None)

    def fixed(self) -> np.ndarray:
        """(n_atoms,) bool, atoms of the `FixAtoms` constraints."""
        fixed = np.zeros(len(self.numbers), dtype=bool)
        for constraint in self.row.get("constraints") or ():
            if constraint.get("name") == "FixAtoms":
                fixed[np.asarray(constraint["kwargs"]["indices"], dtype=np.int64)] = True
        return fixed

    def show(self, unread: UnreadKeys, where: str) -> None:
        """Every key but those of the geometry, to `unread`."""
        unread.look(where, self.info)
        unread.look(where, {name: self.row[name] for name in _CALCULATOR_RESULTS if self.row.get(name) is not None}, ("forces",))

    def _result(self, key: str) -> Any:
        # top-level keys of a row are also masses, initial charges, ...: only calculator results count
        return self.row.get(key) if key in _CALCULATOR_RESULTS else None


def _agree(one: Any, other: Any) -> bool:
    one, other = np.ravel(one), np.ravel(other)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=_AGREEMENT, equal_nan=True))


def _files(root: Path) -> list[Path]:
    if root.is_dir():
        files = sorted(root.rglob("*.aselmdb"))
        if not files:
            raise FileNotFoundError(f"{root}: the folder holds no .aselmdb file; give the folder that does")
        return files
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder; give a .aselmdb file or a folder of them")
    return [root]


def _read(
    root: Path,
    files: list[Path],
    labels: dict[str, LabelSource],
    group_key: str | None,
    id_key: str | None,
    rows: range | None,
    id_prefix: str | None,
    check_keys: bool,
    states: Mapping[str, str],
    unread: UnreadKeys | None,
) -> Iterator[Structure | SkippedItem]:
    unseen = dict(labels) if check_keys else {}
    keys: set[str] = set()
    n_rows = 0
    group = (lambda fields: _text(fields, group_key, "group_key")) if group_key else (lambda fields: "")
    for file in files:
        stem = id_prefix or str((file.relative_to(root) if root.is_dir() else Path(file.name)).with_suffix(""))
        for row_id, row in _rows(file, rows):
            n_rows += 1
            fields = RowFields(row)
            for name in [name for name, source in unseen.items() if fields.has(name, source)]:
                del unseen[name]
            if unseen:
                keys |= fields.keys()
            if unread is not None:
                fields.show(unread, f"{stem}-{row_id}")
            yield _structure(fields, labels, f"{stem}-{row_id}", group, id_key, states)
    if n_rows == 0 and rows is None:
        raise InputError(f"{root}: there are no rows; check that the download is complete")
    if unseen:
        raise InputError(missing_keys_message(str(root), unseen, keys))


def _rows(file: Path, chosen: range | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row id and decoded row, in order of id; of all rows or of those chosen."""
    with _opened_file(file) as content:
        deleted = _deleted(content)
        for row_id in chosen or range(1, _n_ids(content)):
            if row_id in deleted:
                continue
            row = _decode(_value(content, str(row_id)), file, f"row {row_id}")
            if not isinstance(row, dict) or "numbers" not in row or "positions" not in row:
                raise InputError(f"{file}: row {row_id} is missing or holds no atoms; fetch the file again")
            yield row_id, row


@contextmanager
def _opened_file(file: Path) -> Iterator[LmdbFile]:
    """The file, closed in the end; whatever is damaged in it is one sentence."""
    try:
        content = LmdbFile(file)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable .aselmdb file ({error}); it may be cut short, fetch it again") from error
    with content:
        yield content


def _value(content: LmdbFile, key: str) -> bytes | None:
    try:
        return content.get(key.encode())
    except (ValueError, OSError) as error:
        raise InputError(f"{content.file} is damaged ({error}); fetch it again") from error


def _n_ids(content: LmdbFile) -> int:
    """The id that the next row would get; 1 in an empty file."""
    value = _decode(_value(content, "nextid"), content.file, "nextid")
    if value is None:
        return 1
    # each id was that of an entry once, deleted ones are listed
    if type(value) is not int or not 1 <= value <= content.n_entries + len(_deleted(content)) + 1:
        raise InputError(f"{content.file}: nextid is {value!r} in a file of {content.n_entries} entries; fetch the file again")
    return value


def _deleted(content: LmdbFile) -> set[int]:
    value = _decode(_value(content, "deleted_ids"), content.file, "deleted_ids") or []
    if not isinstance(value, list) or not all(type(row_id) is int for row_id in value):
        raise InputError(f"{content.file}: deleted_ids is damaged; fetch the file again")
    return set(value)


def _decode(value: bytes | None, file: Path, where: str) -> Any:
    if value is None:
        return None
    try:
        return json.loads(zlib.decompress(value), object_hook=_array)
    except (zlib.error, ValueError, TypeError) as error:  # JSON and Unicode errors are ValueErrors
        raise InputError(f"{file}: {where} is damaged ({error}); fetch the file again") from error


def _array(value: dict[str, Any]) -> Any:
    """ASE's envelope of an array, `{"__ndarray__": [shape, dtype, flat values]}`; other objects as they are."""
    if "__ndarray__" in value:
        shape, dtype, flat = value["__ndarray__"]
        return np.array(flat, dtype=dtype).reshape(shape)
    return value.get("array", value) if "__ase_objtype__" in value else value  # a `Cell` is its array


def _structure(
    fields: RowFields,
    labels: dict[str, LabelSource],
    default_id: str,
    group: Callable[[RowFields], str],
    id_key: str | None,
    states: Mapping[str, str] | None = None,
) -> Structure | SkippedItem:
    try:
        raw = {name: fields.label(name, source) for name, source in labels.items()}
        if all(value is None for value in raw.values()):
            return SkippedItem(where=default_id, reason=f"has none of the labels {', '.join(raw)}", invalid=False)
        n_atoms, volume = len(fields.numbers), float(abs(np.linalg.det(fields.cell)))
        states = states or {}
        raw = without_void_stress({name: value for name, value in raw.items() if value is not None}, labels, fields.pbc, volume)
        charge = stated(fields.info, states.get("total_charge", CHARGE_KEYS))
        return Structure(
            atomic_numbers=fields.numbers,
            positions=fields.row["positions"],
            cell=fields.cell,
            pbc=fields.pbc,
            total_charge=charge or 0.0,
            spin_multiplicity=stated_multiplicity(fields.info, states.get("spin_multiplicity", MULTIPLICITY_KEYS)),
            fixed=fields.fixed(),
            labels={name: convert_label(name, labels[name], value, n_atoms, volume) for name, value in raw.items()},
            id=_text(fields, id_key, "id_key") if id_key else default_id,
            group=group(fields),
        )
    except (ValueError, TypeError, IndexError, KeyError) as error:
        return SkippedItem(where=default_id, reason=re.sub(r"^structure ('.*?'|without id): ", "", str(error)))


def _text(fields: RowFields, key: str, option: str) -> str:
    value = fields.first(key)
    if value is None:
        raise InputError(f"{option}={key!r} is missing")
    return str(value)
