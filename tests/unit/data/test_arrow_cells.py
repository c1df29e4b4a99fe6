"""Cells of Arrow tables: any list type, any slice, any chunks; ragged lists and nulls are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.readers.arrow_cells import ArrowCells


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=12),
    kind=st.sampled_from(["list", "large", "fixed"]),
    first=st.integers(0, 11),
    cut=st.integers(0, 12),
)
def test_nested_lists_come_back_from_slices_and_chunks(lengths: list[int | None], kind: str, first: int, cut: int) -> None:
    rng = np.random.default_rng(0)
    rows = [None if n is None else rng.normal(size=(n, 3)) for n in lengths]
    inner = {"list": pa.list_(pa.float64()), "large": pa.large_list(pa.float64()), "fixed": pa.list_(pa.float64(), 3)}[kind]
    outer = pa.large_list(inner) if kind == "large" else pa.list_(inner)
    nested = [None if row is None else row.tolist() for row in rows]
    chunks = [pa.array(part, outer) for part in (nested[:cut], nested[cut:])]
    cells = ArrowCells(pa.table({"a": pa.chunked_array(chunks, outer)}).slice(first))
    assert len(cells) == max(0, len(rows) - first)
    for k, expected in enumerate(rows[first:]):
        found = cells.value("a", k)
        assert found is None if expected is None else found.size == expected.size and (found.ravel() == expected.ravel()).all()
        assert expected is None or len(expected) == 0 or found.shape == expected.shape


def test_a_null_anywhere_above_a_nested_field_is_a_null() -> None:
    table = pa.table({"a": [{"b": {"c": 1.0}}, {"b": None}, None], "x.y": [1, 2, 3]})
    cells = ArrowCells(table)
    assert [cells.value("a.b.c", k) for k in range(3)] == [1.0, None, None]
    assert cells.value("x.y", 2) == 3 and cells.value(None, 0) is None


def test_ragged_lists_and_nulls_in_them_are_refused() -> None:
    cells = ArrowCells(pa.table({"ragged": [[[1.0], [2.0, 3.0]]], "even": [[[1.0], [2.0]]], "flags": [[True, None]], "gap": [[1.0, None]]}))
    with pytest.raises(ValueError, match="lists of unequal length"):
        cells.value("ragged", 0)
    with pytest.raises(ValueError, match="a list holds nulls"):
        cells.value("flags", 0)
    assert cells.value("even", 0).shape == (2, 1) and np.isnan(cells.value("gap", 0)[1])
