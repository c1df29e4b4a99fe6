"""The comment line of extended XYZ: the pairs that ASE's reader finds, and none that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.readers.comment_line import key_values, typed

KEYS = st.text("abcXYZ_09-. ", min_size=1, max_size=8).filter(lambda key: key.strip() == key and key.lower() not in ("uid",))
TEXTS = st.text("abT 0159.,-=\"'{}[]éx:/", max_size=12).map(str.strip)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans())
ARRAYS = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=9).map(np.array)


def agree(ours, ases) -> bool:
    if isinstance(ases, np.ndarray) and ases.size == 0:
        return ours.strip(" ,") == ""  # an empty value; ASE makes an empty array of it
    return type(ours) is str and ours == ases if isinstance(ases, str) else np.array_equal(ours, ases)


@settings(max_examples=300, deadline=None)
@given(pairs=st.dictionaries(KEYS, st.one_of(TEXTS, NUMBERS, ARRAYS), max_size=6))
def test_what_ase_writes_is_what_ase_reads(pairs):
    line = key_val_dict_to_str(pairs)
    try:
        expected = key_val_str_to_dict(line)
    except ValueError:  # ASE cannot read it back
        return
    try:
        found = key_values(line)
    except ValueError as error:
        assert "twice" in str(error) or "does not close" in str(error)
        return
    assert set(found) == {key for key, value in expected.items() if value is not True or key in found}
    for key, text in found.items():
        assert agree(typed(text), expected[key]), (key, text, expected[key])


@settings(max_examples=300, deadline=None)
@given(line=st.text("ab1 =\"'{}[]\\,.\t", max_size=30))
def test_any_line_is_read_as_ase_reads_it_or_refused(line):
    try:
        found, expected = key_values(line), key_val_str_to_dict(line)
    except (ValueError, IndexError):  # ASE has a traceback for "=" alone
        return
    # a word is a key that is true to ASE, whatever stood there before
    assert all(expected[key] is True or agree(typed(text), expected[key]) for key, text in found.items())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('energy=-1.5 pbc="T T F" relaxed', {"energy": "-1.5", "pbc": "T T F"}),
        ("energy = -1.5", {"energy": "-1.5"}),
        ("Lattice={1 0 0 0 1 0 0 0 1} a='b c'", {"Lattice": "1 0 0 0 1 0 0 0 1", "a": "b c"}),
        (r'note="say \"no\" = never" energy=1', {"note": 'say "no" = never', "energy": "1"}),
        ("a=b=c", {"a": "b=c"}),
        ("", {}),
        ("Water's best geometry", {}),
    ],
)
def test_lines_as_they_occur(line, found):
    assert key_values(line) == found


def test_words_without_a_value_are_no_keys():
    # ASE makes "charge" true, which is a charge of 1
    assert key_values("total charge unknown, spin too") == {}


def test_an_open_quote_that_swallows_a_pair_is_refused():
    with pytest.raises(ValueError, match="opens \"'\" and does not close it: \"'t know energy=-1\""):
        key_values("note=don't know energy=-1")


def test_a_key_with_two_values_is_refused():
    with pytest.raises(ValueError, match="states 'energy' twice, as '1.0' and as '2.0'"):
        key_values("energy=1.0 forces=no energy=2.0")
    assert key_values("energy=1.0 energy=1.0") == {"energy": "1.0"}


@pytest.mark.parametrize(("text", "value"), [("1_000", "1_000"), ("2.50_1 3", "2.50_1 3"), ("9" * 20, 1e20)])
def test_numbers_are_those_that_stand_there(text, value):
    assert typed(text) == value
