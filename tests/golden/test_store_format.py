"""A store of format 1, as unipot 0.1 wrote it, becomes one of the present format without a changed bit.

`store-v1.unipot` and `store-v1.json` were written by the code before format 2: three invented structures of one to
three atoms, the second charged and with a spin multiplicity, the third periodic with stress, the first atom frozen.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from unipot.data.storage.store_upgrade import upgrade_store
from unipot.data.store import Store

GOLDEN = Path(__file__).with_name("store-v1.unipot")
EXPECTED = json.loads(GOLDEN.with_suffix(".json").read_text())

#: of format 2, as it was written before checksums of files and records: the three structures of `store-v2.json`
PLAIN = Path(__file__).with_name("store-v2.unipot")


def test_a_store_of_format_2_without_checksums_is_read():
    rows = json.loads(PLAIN.with_suffix(".json").read_text())
    store = Store(PLAIN)
    store.verify()
    for structure, row in zip(store, rows, strict=True):
        assert {name: np.asarray(getattr(structure, name)).tolist() for name in row if name != "labels"} == {
            name: value for name, value in row.items() if name != "labels"
        }
        assert {name: np.asarray(value).tolist() for name, value in structure.labels.items()} == row["labels"]


def test_an_old_store_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"store format 1 is older.*upgrade_store"):
        Store(GOLDEN)


def test_an_upgraded_store_holds_the_same_structures(tmp_path):
    store = Store(upgrade_store(GOLDEN, tmp_path / "new.unipot"))
    assert len(store) == len(EXPECTED) == 3
    for structure, row in zip(store, EXPECTED, strict=True):
        for name in ("atomic_numbers", "positions", "cell", "pbc", "fixed"):
            assert np.array_equal(getattr(structure, name), row[name]), name
        for name in ("id", "group", "total_charge", "spin_multiplicity"):
            assert getattr(structure, name) == row[name], name
        assert structure.labels.keys() == row["labels"].keys()
        assert all(np.array_equal(structure.labels[name], row["labels"][name]) for name in row["labels"])


def test_a_present_store_needs_no_upgrade(tmp_path):
    new = upgrade_store(GOLDEN, tmp_path / "new.unipot")
    with pytest.raises(ValueError, match="needs no upgrade"):
        upgrade_store(new, tmp_path / "again.unipot")
