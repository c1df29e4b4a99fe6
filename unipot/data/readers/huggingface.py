"""Hugging Face `datasets`: local Parquet or Arrow files, folders, `save_to_disk` folders, and names on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.labels import LabelSource, SkippedItem, check_sources, convert_label, missing_keys_message, without_void_stress
from unipot.data.parquet.export_checksums import require_sound
from unipot.data.readers.arrow_cells import ArrowCells
from unipot.data.readers.exported import describe_dataset
from unipot.data.unread_keys import UnreadKey, UnreadKeys
from unipot.errors import InputError
from unipot.properties import PROPERTIES
from unipot.structure import CHARGE_KEYS, ISOTOPES, MULTIPLICITY_KEYS, SYMBOLS, Structure, stated_multiplicity

#: geometry field -> column names understood without a mapping; positions and cell are in Å
COLUMNS: dict[str, tuple[str, ...]] = {
    "atomic_numbers": ("atomic_numbers", "numbers", "species", "symbols", "species_at_sites"),
    "positions": ("positions", "pos", "coordinates", "cartesian_site_positions"),
    "cell": ("cell", "lattice", "lattice_vectors"),
    "pbc": ("pbc", "periodic"),
    "total_charge": CHARGE_KEYS,
    "spin_multiplicity": MULTIPLICITY_KEYS,
    "fixed": ("fixed",),
}
#: in place of a column for `pbc`: every structure is periodic along all axes, or along none
PBC_CONSTANTS = {"all": True, "none": False}
BATCH_SIZE = 256
#: the split that stands for all of them, one after the other
ALL_SPLITS = "all"
#: the hub's own convention for files of a split
_SPLIT_FILE = re.compile(r"(.+?)-\d{5}-of-\d{5}\.(parquet|arrow)")


def read_huggingface(
    path: str | Path,
    *,
    labels: Mapping[str, LabelSource] | None = None,
    group_key: str | None = None,
    id_key: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    row_groups: range | None = None,
    first_row: int = 0,
    id_prefix: str | None = None,
    on_unread: Callable[[UnreadKey], None] | None = None,
) -> Iterator[Structure | SkippedItem]:
    """Stream the rows of a dataset; nothing is downloaded or converted as a whole.

    What unipot exported is read back without options: its files say which column holds what.

    Args:
        path: a `.parquet` or `.arrow` file, a folder of them, a folder written by `save_to_disk`, or `hf://owner/name`
            (`hf://owner/name/configuration` where the dataset has several).
        labels: property name -> column, unit and sign. `a.b` means field b of the nested column a. None: as the files say
            themselves, which those that unipot exported do.
        group_key: column that says which material or trajectory a row belongs to.
        id_key: column of a unique id; by default `<name>-<row>`.
        columns: geometry field (a key of `COLUMNS`) -> column name, where the names differ from those understood;
            for `pbc` also `all` or `none`.
        split: which split to read, or `all`; needed where there are several.
        row_groups: read only these row groups of a Parquet file.
        first_row: number of the first row that is read, for default ids.
        id_prefix: in place of the name in default ids.
        on_unread: told once of every column that nothing reads.

    Yields:
        Structures, and a `SkippedItem` for each row that cannot be used.

    Raises:
        FileNotFoundError: there is no such file, or the hub does not have the dataset or cannot be reached.
        ValueError: a column is missing or ambiguous, the split is unknown, or a file is damaged or empty.
    """
    described = describe_dataset(path) if labels is None else None
    if described is not None:
        labels, group_key, id_key = described.labels, group_key or described.group_key, id_key or described.id_key
    labels = dict(labels or {})
    check_sources(labels)
    if row_groups is not None:
        tables, name = _row_groups(Path(path), row_groups), Path(path).stem
    else:
        dataset, name = _open_dataset(str(path), split)
        tables = _tables(dataset, str(path))
    return _read(tables, id_prefix or name, first_row, str(path), labels, dict(columns or {}), group_key, id_key, on_unread)


def local_files(path: Path, split: str | None) -> list[Path]:
    """Parquet or Arrow files of a file or folder, sorted; none for a folder that `save_to_disk` wrote.

    Raises:
        FileNotFoundError: there are none of that split.
        ValueError: the folder mixes both kinds.
    """
    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    return [] if saved else _local_files(path, split)[1]


def rows_of_groups(file: Path) -> list[int]:
    """Rows of each row group of a Parquet file.

    Raises:
        ValueError: the file is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(str(file), error) from error
    return [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]


def _open_dataset(path: str, split: str | None) -> tuple[Any, str]:
    """The streaming dataset, and the stem of its ids."""
    import datasets
    import pyarrow

    if path.startswith("hf://"):
        return _open_hub(path.removeprefix("hf://"), split)
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a .parquet or .arrow file, a folder of them, or hf://owner/name")
    saved = (root / "dataset_dict.json").exists() or (root / "state.json").exists()
    kind, files = ("", []) if saved else _local_files(root, split)
    try:
        if not saved:
            # without a batch size, Parquet comes by row group: any size, and an error where it is empty
            options = {"batch_size": BATCH_SIZE} if kind == "parquet" else {}
            data_files = [str(file) for file in files]
            require_sound(files if kind == "parquet" else [])
            return datasets.load_dataset(kind, data_files=data_files, split="train", streaming=True, **options), root.stem
        loaded = datasets.load_from_disk(path)
    except (pyarrow.ArrowException, OSError, datasets.exceptions.DatasetsError) as error:
        raise _unreadable(path, error) from error
    return (_choose_split(path, loaded, split) if isinstance(loaded, dict) else loaded), root.name


def _local_files(root: Path, split: str | None) -> tuple[str, list[Path]]:
    files = sorted(f for f in root.rglob("*") if f.suffix in (".parquet", ".arrow")) if root.is_dir() else [root]
    splits = sorted({found[1] for file in files if (found := _SPLIT_FILE.fullmatch(file.name))})
    if split is None and len(splits) > 1:
        raise InputError(f"{root}: there are several splits; set split to one of: {', '.join([*splits, ALL_SPLITS])}")
    if split not in (None, ALL_SPLITS):
        # <split>-00000-of-00003.parquet, or a folder of that name
        files = [f for f in files if re.match(rf"{re.escape(split)}([-_.]|$)", f.name) or split in f.relative_to(root).parts[:-1]]
    if not files:
        wanted = f" of split {split!r}" if split else ""
        raise FileNotFoundError(f"{root}: the folder holds no .parquet or .arrow file{wanted}; give the folder that does")
    suffixes = {f.suffix for f in files}
    if len(suffixes) > 1:
        raise InputError(f"{root}: the folder mixes .parquet and .arrow files; give one of the files, or a folder of one kind")
    return suffixes.pop().removeprefix("."), files


def _open_hub(name: str, split: str | None) -> tuple[Any, str]:
    import datasets

    owner, _, rest = name.partition("/")
    dataset_name, _, configuration = rest.partition("/")
    if not (owner and dataset_name):
        raise InputError(f"hf://{name}: give owner and name, as in hf://owner/name")
    full = f"{owner}/{dataset_name}"
    try:
        loaded = datasets.load_dataset(full, configuration or None, split=split, streaming=True)
    except ValueError as error:  # which configurations or splits there are stands in its second line
        reason = " ".join(str(error).strip().splitlines()[:2])
        raise InputError(f"hf://{full}: {reason}; a configuration is given as hf://{full}/<configuration>, a split as split=") from error
    except (OSError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"hf://{full} cannot be opened ({reason}); check the name and the connection, log in if it is gated (huggingface-cli login), "
            "or download its Parquet files and give their folder"
        ) from error
    return (_choose_split(f"hf://{full}", loaded, split) if isinstance(loaded, dict) else loaded), dataset_name


def _choose_split(path: str, splits: Mapping[str, Any], split: str | None) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split == ALL_SPLITS:
        import datasets

        return datasets.concatenate_datasets(list(splits.values()))
    if split not in splits:
        said = f"there is no split {split!r}" if split else "there are several splits"
        raise InputError(f"{path}: {said}; set split to one of: {', '.join([*splits, ALL_SPLITS])}")
    return splits[split]


def _row_groups(file: Path, chosen: range) -> Iterator[Any]:
    """Arrow tables of some row groups."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as content:
            for batch in content.iter_batches(batch_size=BATCH_SIZE, row_groups=list(chosen)):
                yield pyarrow.Table.from_batches([batch])
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(str(file), error) from error


def _read(
    tables: Iterator[Any],
    name: str,
    first_row: int,
    path: str,
    labels: dict[str, LabelSource],
    mapping: dict[str, str],
    group_key: str | None,
    id_key: str | None,
    on_unread: Callable[[UnreadKey], None] | None,
) -> Iterator[Structure | SkippedItem]:
    fields: _Columns | None = None
    n_rows = 0
    for table in tables:
        cells = ArrowCells(table)
        if fields is None:
            fields = _Columns(path, table.column_names, mapping, labels, group_key, id_key)
            if on_unread and len(cells):
                unread = {column: cells.value(column, 0) for column in table.column_names if column not in fields.read()}
                UnreadKeys((), on_unread).look(f"{name}-{first_row}", unread)
        for row in range(len(cells)):
            yield fields.structure(cells, row, f"{name}-{first_row + n_rows}")
            n_rows += 1
    if n_rows == 0:
        raise InputError(f"{path}: there are no rows; check the split and that the download is complete")


def _tables(dataset: Any, path: str) -> Iterator[Any]:
    """Arrow tables of at most `BATCH_SIZE` rows: numbers stay out of Python until they are an array."""
    import pyarrow

    batches = iter(dataset.with_format("arrow").iter(batch_size=BATCH_SIZE))
    while True:
        try:
            table = next(batches)
        except StopIteration:
            return
        except (pyarrow.ArrowException, OSError, RuntimeError) as error:
            raise _unreadable(path, error) from error
        yield table


def _unreadable(path: str, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[0]
    return InputError(f"{path} cannot be read as a dataset ({reason}); a file may be cut short, fetch it again")


class _Columns:
    """Which column holds what, settled once per dataset."""

    def __init__(
        self,
        path: str,
        available: list[str],
        mapping: dict[str, str],
        labels: dict[str, LabelSource],
        group_key: str | None,
        id_key: str | None,
    ) -> None:
        self.labels, self.group_key, self.id_key = labels, group_key, id_key
        unknown = sorted(set(mapping) - set(COLUMNS))
        if unknown:
            raise InputError(f"{path}: columns has no field {unknown[0]!r}; its fields are: {', '.join(COLUMNS)}")
        self.pbc_constant = PBC_CONSTANTS.get(mapping.get("pbc", "")) if mapping.get("pbc") not in available else None
        self.geometry = {field: self._find_column(path, field, available, mapping) for field in COLUMNS}
        missing = {name: source for name, source in labels.items() if source.key.split(".")[0] not in available}
        if missing:
            raise InputError(missing_keys_message(path, missing, available))
        for option, key in (("group_key", group_key), ("id_key", id_key)):
            if key is not None and key not in available and key.split(".")[0] not in available:
                raise InputError(f"{path}: {option}={key!r} is no column; columns are: {', '.join(available)}")

    def read(self) -> set[str]:
        """Columns of which something is read."""
        keys = [*self.geometry.values(), *(source.key for source in self.labels.values()), self.group_key, self.id_key]
        return {part for key in keys if key for part in (key, key.split(".")[0])}

    def structure(self, cells: ArrowCells, row: int, default_id: str) -> Structure | SkippedItem:
        """Row `row` of a table."""
        value = lambda field: cells.value(self.geometry[field], row)  # noqa: E731
        text = lambda key, default: default if (found := cells.value(key, row)) is None else str(found)  # noqa: E731
        try:
            raw = {name: cells.value(source.key, row) for name, source in self.labels.items()}
            raw = {name: found for name, found in raw.items() if found is not None}
            if not raw:
                return SkippedItem(where=default_id, reason=f"has none of the labels {', '.join(self.labels)}", invalid=False)
            numbers = _atomic_numbers(value("atomic_numbers"))
            cell = _cell(value("cell"))
            pbc = np.broadcast_to(self._pbc(value("pbc"), cell), (3,))
            raw = without_void_stress(raw, self.labels, pbc, float(abs(np.linalg.det(cell))))
            charge, fixed = value("total_charge"), value("fixed")
            return Structure(
                atomic_numbers=numbers,
                positions=_rows_of_three("positions", value("positions"), len(numbers)),
                cell=cell,
                pbc=pbc,
                total_charge=0.0 if charge is None else charge,
                spin_multiplicity=stated_multiplicity({"spin": value("spin_multiplicity")}),
                fixed=None if fixed is None else np.asarray(fixed, dtype=bool),
                labels={name: _label(name, self.labels[name], found, len(numbers), cell) for name, found in raw.items()},
                id=text(self.id_key, default_id),
                group=text(self.group_key, ""),
            )
        except (ValueError, TypeError) as error:
            return SkippedItem(where=default_id, reason=re.sub(r"^structure ('.*?'|without id): ", "", str(error)))

    def _find_column(self, path: str, field: str, available: list[str], mapping: dict[str, str]) -> str | None:
        if field in mapping:
            if mapping[field].split(".")[0] in available:
                return mapping[field]
            if field == "pbc" and mapping[field] in PBC_CONSTANTS:
                return None
            extra = ", or all, or none" if field == "pbc" else ""
            raise InputError(f"{path}: columns.{field}={mapping[field]!r} is no column; columns are: {', '.join(available)}{extra}")
        found = [name for name in COLUMNS[field] if name in available]
        if len(found) > 1:
            raise InputError(f"{path}: both {found[0]!r} and {found[1]!r} could be {field}; state columns.{field}")
        if not found and field in ("atomic_numbers", "positions"):
            raise InputError(f"{path}: no column for {field}; state columns.{field} as one of: {', '.join(available)}")
        return found[0] if found else None

    def _pbc(self, stored: Any, cell: np.ndarray) -> Any:
        if self.pbc_constant is not None:
            return self.pbc_constant
        if stored is None:
            if cell.any():
                raise InputError("there is a cell but pbc is not stated; state columns.pbc as a column, 'all' or 'none'")
            return False
        return np.asarray(stored, dtype=bool)


def _atomic_numbers(stored: Any) -> np.ndarray:
    if stored is None:
        raise InputError("atomic numbers are missing")
    array = np.asarray(stored).reshape(-1)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind == "f" or not all(isinstance(symbol, str) for symbol in array):
        raise InputError("atomic numbers are neither integers nor element symbols")
    unknown = [symbol for symbol in array if symbol not in SYMBOLS and symbol not in ISOTOPES]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not an element symbol")
    return np.array([ISOTOPES[s][0] if s in ISOTOPES else SYMBOLS.index(s) for s in array], dtype=np.int64)


def _cell(stored: Any) -> np.ndarray:
    if stored is None:
        return np.zeros((3, 3))
    array = np.asarray(stored, dtype=np.float64)
    if array.size not in (9, 0):
        raise InputError(f"cell has shape {array.shape}, expected (3, 3) with rows as lattice vectors")
    return array.reshape(3, 3) if array.size else np.zeros((3, 3))


def _rows_of_three(name: str, stored: Any, n_atoms: int) -> np.ndarray:
    """(n_atoms, 3), from nested lists of that shape or from a flat list."""
    if stored is None:
        raise InputError(f"{name} are missing")
    array = np.asarray(stored)
    if array.shape not in ((n_atoms, 3), (3 * n_atoms,)):
        raise InputError(f"{name} have shape {array.shape}, expected ({n_atoms}, 3)")
    return array.reshape(n_atoms, 3)


def _label(name: str, source: LabelSource, stored: Any, n_atoms: int, cell: np.ndarray) -> np.ndarray:
    if PROPERTIES[name].per == "atom":
        stored = _rows_of_three(f"{name} (column {source.key!r})", stored, n_atoms)
    return convert_label(name, source, stored, n_atoms, float(abs(np.linalg.det(cell))))
