"""Structures as Arrow tables: the columns of an export, which `read_huggingface` and plain `datasets` both understand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unipot.properties import PROPERTIES
from unipot.structure import Structure

if TYPE_CHECKING:
    import pyarrow as pa

#: key of the schema's metadata under which a file says what it is
METADATA_KEY = b"unipot"
ID_COLUMN, GROUP_COLUMN = "id", "group"

#: column -> (type of one number, levels of lists around it, meaning); "float" stands for the precision of the export
_GEOMETRY: dict[str, tuple[str, int, str]] = {
    "id": ("string", 0, "unique within the dataset"),
    "group": ("string", 0, "material or trajectory that relatives share, for splits; null: stands alone"),
    "atomic_numbers": ("uint8", 1, "(n_atoms,)"),
    "positions": ("float", 2, "(n_atoms, 3), Å"),
    "cell": ("float64", 2, "(3, 3), Å, rows are lattice vectors; zeros: no cell"),
    "pbc": ("bool", 1, "(3,), which lattice vectors are periodic"),
    "total_charge": ("float64", 0, "elementary charges"),
    "spin_multiplicity": ("int32", 0, "2S+1; null: not stated"),
    "fixed": ("bool", 1, "(n_atoms,), frozen in the calculation; null: none is"),
}


def columns_of(labels: Sequence[str], precision: str) -> dict[str, tuple[str, int, str]]:
    """Column -> (type of one number, levels of lists around it, meaning), in order.

    Args:
        labels: properties that structures may carry.
        precision: of positions and per-atom labels, `float64` or `float32`.
    """
    columns = dict(_GEOMETRY)
    for name in labels:
        row = PROPERTIES[name]
        depth = len(row.shape) + (row.per == "atom")
        columns[name] = ("float" if row.per == "atom" else "float64", depth, f"{row.unit}; {row.sign}; null: no label")
    return {name: (precision if kind == "float" else kind, depth, meaning) for name, (kind, depth, meaning) in columns.items()}


def schema_of(labels: Sequence[str], precision: str, metadata: dict[bytes, bytes] | None = None) -> pa.Schema:
    """The Arrow schema of an export."""
    import pyarrow as pa

    return pa.schema([(name, _type(kind, depth)) for name, (kind, depth, _) in columns_of(labels, precision).items()], metadata=metadata)


def table_of(structures: Sequence[Structure], schema: pa.Schema) -> pa.Table:
    """One row per structure; numbers never pass through Python objects."""
    import pyarrow as pa

    values: dict[str, Callable[[Structure], Any]] = {
        "id": lambda s: s.id,
        "group": lambda s: s.group or None,
        "spin_multiplicity": lambda s: s.spin_multiplicity,
        "fixed": lambda s: s.fixed if s.fixed.any() else None,
    }
    columns = []
    for field in schema:
        if field.name in PROPERTIES:
            rows = [structure.labels.get(field.name) for structure in structures]
        else:
            value = values.get(field.name, lambda s, name=field.name: getattr(s, name))
            rows = [value(structure) for structure in structures]
        columns.append(_column(rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _type(kind: str, depth: int) -> pa.DataType:
    import pyarrow as pa

    made = pa.type_for_alias(kind)
    for _ in range(depth):
        made = pa.list_(made)
    return made


def _column(rows: list[Any], kind: pa.DataType) -> pa.Array:
    """Rows of equal kind, None for null; lists are built from one flat array and its offsets."""
    import pyarrow as pa

    if not pa.types.is_list(kind):
        return pa.array([row if row is None or isinstance(row, str | int) else float(row) for row in rows], kind)
    absent = np.array([row is None for row in rows])
    arrays = [np.asarray(row) for row in rows if row is not None]
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    offsets[1:][~absent] = [len(array) for array in arrays]
    np.cumsum(offsets, out=offsets)
    flat = np.concatenate(arrays) if arrays else np.empty(0)
    inner, width = kind.value_type, int(np.prod(flat.shape[1:], dtype=int))
    leaf = inner.value_type if pa.types.is_list(inner) else inner
    values = pa.array(np.ascontiguousarray(flat).reshape(-1), leaf, from_pandas=False)
    if pa.types.is_list(inner):
        values = pa.ListArray.from_arrays(pa.array(np.arange(len(flat) + 1, dtype=np.int32) * width), values)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(absent) if absent.any() else None)
