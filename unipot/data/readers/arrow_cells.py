"""Cells of an Arrow table as arrays: columns are taken apart once per table, and a cell is a slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from unipot.errors import InputError


class ArrowCells:
    """One table, read cell by cell.

    Args:
        table: a `pyarrow.Table`.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._columns: dict[str, Callable[[int], Any]] = {}

    def __len__(self) -> int:
        return self._table.num_rows

    def value(self, column: str | None, row: int) -> Any:
        """None, a Python scalar or text, or an array with nested lists as dimensions.

        Args:
            column: its name, or `a.b` for field b of the nested column a; None gives None.
            row: of the table.

        Raises:
            ValueError: lists are ragged, or hold nulls where true or false is expected.
        """
        if column is None:
            return None
        if column not in self._columns:
            self._columns[column] = _reader(self._column(column))
        return self._columns[column](row)

    def _column(self, column: str) -> Any:
        import pyarrow
        import pyarrow.compute

        name, *path = [column] if column in self._table.column_names else column.split(".")
        array = self._table.column(name)
        if path:
            array = pyarrow.compute.struct_field(array, path)
        array = array.combine_chunks()
        if isinstance(array, pyarrow.ChunkedArray):
            array = array.chunk(0)
        return array.storage if isinstance(array, pyarrow.ExtensionArray) else array


class _ListCells:
    """A column of (nested) lists: one flat array and the offsets of every level."""

    def __init__(self, array: Any) -> None:
        self._valid = array.is_valid().to_numpy(zero_copy_only=False)
        self._offsets = []
        while _is_list(array):
            self._offsets.append(_bounds(array))
            array = array.values
        self._leaf = array.to_numpy(zero_copy_only=False)
        self._nulls = array.null_count > 0 and self._leaf.dtype == object

    def __call__(self, row: int) -> np.ndarray | None:
        if not self._valid[row]:
            return None
        start, stop = int(self._offsets[0][row]), int(self._offsets[0][row + 1])
        shape = [stop - start]
        for level in self._offsets[1:]:
            bounds = level[start : stop + 1]
            start, stop = int(bounds[0]), int(bounds[-1])
            length = (stop - start) // max(shape[-1], 1)
            if (np.diff(bounds) != length).any():
                raise InputError("lists of unequal length where an array is expected")
            shape.append(length)
        values = self._leaf[start:stop]
        if self._nulls and any(value is None for value in values):
            raise InputError("a list holds nulls")
        return values.reshape(shape)


def _reader(array: Any) -> Callable[[int], Any]:
    return _ListCells(array) if _is_list(array) else array.to_pylist().__getitem__


def _is_list(array: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_list(array.type) or kinds.is_large_list(array.type) or kinds.is_fixed_size_list(array.type)


def _bounds(array: Any) -> np.ndarray:
    """(n + 1,) where each list begins in `array.values`, and where the last ends."""
    if hasattr(array, "offsets"):
        return array.offsets.to_numpy()
    return (np.arange(len(array) + 1) + array.offset) * array.type.list_size
