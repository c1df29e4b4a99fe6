"""fairchem's `.aselmdb` files: ASE rows in LMDB, with charge, spin and ids in each row's `data`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import LabelSource, SkippedItem, check_sources, convert_label, missing_keys_message
from unipot.structure import Structure

_CALCULATOR_RESULTS = ("energy", "free_energy", "forces", "stress")


def read_aselmdb(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource],
    group_key: str | None = None,
    id_key: str | None = None,
) -> Iterator[Structure | SkippedItem]:
    """Stream the rows of one file, or of every `.aselmdb` file below a folder, in order of name and row.

    A label key, group key or id key is looked up in the row's `data` and key-value pairs, a label key also in the row's
    calculator results; where both have it and they differ, the row is skipped. Total charge and spin multiplicity come from `charge`
    (or `total_charge`) and `spin` (or `spin_multiplicity`) of `data` or of the key-value pairs.

    Args:
        path: a `.aselmdb` file or a folder.
        labels: property name -> where it is found, its unit and sign. fairchem's files hold eV, eV/A and eV/A^3 (`tension`).
        group_key: key that says which material or trajectory a row belongs to.
        id_key: key of a unique id; by default `<file without suffix>-<row id>`.

    Yields:
        Structures, and a `SkippedItem` for each row that cannot be used.

    Raises:
        FileNotFoundError: there is no such file, or no `.aselmdb` file in the folder.
        ImportError: ase-db-backends is not installed.
        ValueError: a file is damaged or empty, or a label key is in no row.
    """
    check_sources(labels)
    root = Path(path)
    return _read(root, _files(root), dict(labels), group_key, id_key)


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
    root: Path, files: list[Path], labels: dict[str, LabelSource], group_key: str | None, id_key: str | None
) -> Iterator[Structure | SkippedItem]:
    unseen = dict(labels)
    keys: set[str] = set()
    n_rows = 0
    for file in files:
        stem = str((file.relative_to(root) if root.is_dir() else Path(file.name)).with_suffix(""))
        for row in _rows(file):
            n_rows += 1
            fields = _Fields(row)
            for name in [name for name, source in unseen.items() if fields.has(source.key)]:
                del unseen[name]
            if unseen:
                keys |= fields.keys()
            yield _structure(fields, labels, f"{stem}-{row.id}", group_key, id_key)
    if n_rows == 0:
        raise ValueError(f"{root}: there are no rows; check that the download is complete")
    if unseen:
        raise ValueError(missing_keys_message(str(root), unseen, keys))


def _rows(file: Path) -> Iterator[Any]:
    import lmdb
    from ase.db import connect

    try:
        import ase_db_backends  # noqa: F401  (registers the format with ase.db)
    except ImportError as error:
        raise ImportError(f"{file}: reading .aselmdb needs ase-db-backends; install it with: pip install 'unipot[fairchem]'") from error
    _check_complete(file)
    try:
        # read-only: the default reserves 2 TB of address space for writing and needs write permission
        database = connect(file, type="aselmdb", readonly=True, use_lock_file=False)
    except (lmdb.Error, zlib.error, ValueError, OSError) as error:
        raise ValueError(f"{file} is not a readable .aselmdb file ({error}); it may be cut short, fetch it again") from error
    try:
        for row_id in database.ids:
            try:
                row = database.get(id=row_id)
            except (lmdb.Error, zlib.error, ValueError, KeyError) as error:
                raise ValueError(f"{file}: row {row_id} is damaged ({error}); fetch the file again") from error
            yield row
    finally:
        database.close()


def _check_complete(file: Path) -> None:
    """Refuse a file that ends before the last page it names: reading behind the end kills the process (SIGBUS)."""
    import lmdb

    try:
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_dbs=0) as environment:
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    except lmdb.Error as error:
        raise ValueError(f"{file} is not a readable .aselmdb file ({error}); it may be cut short, fetch it again") from error
    size = file.stat().st_size
    if size < needed:
        raise ValueError(f"{file} is cut short: it has {size} bytes of at least {needed}; fetch it again")


class _Fields:
    """Lookup of keys in one ASE row."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.info: dict[str, Any] = {**row.key_value_pairs, **dict(row.data or {})}

    def keys(self) -> set[str]:
        return set(self.info) | {name for name in _CALCULATOR_RESULTS if name in self.row}

    def label(self, source: LabelSource) -> Any:
        """The raw label, or None where the row does not have it.

        Raises:
            ValueError: `data` and the calculator results contradict each other.
        """
        stored = self.info.get(source.key)
        # attributes of the row are also masses, initial charges, ...: only calculator results count
        computed = self.row.get(source.key) if source.key in _CALCULATOR_RESULTS else None
        if stored is not None and computed is not None and not np.array_equal(np.ravel(stored), np.ravel(computed)):
            raise ValueError(f"{source.key!r} of data and of the calculator results differ")
        return computed if stored is None else stored

    def has(self, key: str) -> bool:
        return self.info.get(key) is not None or key in _CALCULATOR_RESULTS and self.row.get(key) is not None

    def first(self, *keys: str) -> Any:
        return next((self.info[key] for key in keys if self.info.get(key) is not None), None)


def _structure(
    fields: _Fields, labels: dict[str, LabelSource], default_id: str, group_key: str | None, id_key: str | None
) -> Structure | SkippedItem:
    row = fields.row
    try:
        raw = {name: fields.label(source) for name, source in labels.items()}
        if all(value is None for value in raw.values()):
            return SkippedItem(where=default_id, reason=f"has none of the labels {', '.join(raw)}", invalid=False)
        cell = np.asarray(row.cell, dtype=np.float64).reshape(3, 3)
        n_atoms, volume = len(row.numbers), float(abs(np.linalg.det(cell)))
        spin = fields.first("spin_multiplicity", "spin")
        return Structure(
            atomic_numbers=row.numbers,
            positions=row.positions,
            cell=cell,
            pbc=row.pbc,
            total_charge=float(fields.first("total_charge", "charge") or 0.0),
            spin_multiplicity=int(spin) if spin else None,
            fixed=_fixed(row, n_atoms),
            labels={name: convert_label(name, labels[name], value, n_atoms, volume) for name, value in raw.items() if value is not None},
            id=_text(fields, id_key, "id_key") if id_key else default_id,
            group=_text(fields, group_key, "group_key") if group_key else "",
        )
    except (ValueError, TypeError) as error:
        return SkippedItem(where=default_id, reason=re.sub(r"^structure ('.*?'|without id): ", "", str(error)))


def _text(fields: _Fields, key: str, option: str) -> str:
    value = fields.first(key)
    if value is None:
        raise ValueError(f"{option}={key!r} is missing")
    return str(value)


def _fixed(row: Any, n_atoms: int) -> np.ndarray:
    from ase.constraints import FixAtoms

    fixed = np.zeros(n_atoms, dtype=bool)
    for constraint in row.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
    return fixed
