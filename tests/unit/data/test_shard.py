"""Shards appear whole or not at all, and become one store in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data.quality.measurements import measure
from unipot.data.storage.assembly import assemble_store
from unipot.data.storage.record import RecordCodec
from unipot.data.storage.shard import ShardWriter, read_shard_info
from unipot.data.store import Store

LABELS = ("energy", "forces")
OPTIONS = {"name": "set", "level_of_theory": "PBE", "labels": LABELS}


@pytest.fixture
def write_shard(tmp_path):
    def write(name, structures, **options):
        with ShardWriter(tmp_path / "partial", name, RecordCodec(LABELS), **options) as writer:
            writer.extend(structures, measure(structures))
        return tmp_path / "partial" / name

    return write


def test_a_finished_shard_says_what_it_holds(write_shard, make_structure):
    info = read_shard_info(write_shard("a", [make_structure(k) for k in range(3)], extra={"items": 5}))
    assert (info.n_structures, info.label_counts, info.extra) == (3, {"energy": 3, "forces": 3}, {"items": 5})


def test_nothing_is_left_of_a_shard_that_failed(write_shard, make_structure, tmp_path):
    with pytest.raises(ValueError, match="has no id"):
        write_shard("a", [make_structure(0, id="")])
    assert list((tmp_path / "partial").iterdir()) == []


def test_missing_measurements_are_refused(make_structure, tmp_path):
    structures = [make_structure(0)]
    measured = measure(structures)
    del measured["closest"]
    with ShardWriter(tmp_path, "a", RecordCodec(LABELS)) as writer, pytest.raises(ValueError, match="measurement 'closest' is missing"):
        writer.extend(structures, measured)


def test_structures_of_all_shards_come_in_order(write_shard, make_structure, tmp_path):
    structures = [make_structure(k) for k in range(7)]
    shards = [write_shard("a", structures[:3]), write_shard("b", structures[3:4]), write_shard("c", structures[4:])]
    store = Store(assemble_store(tmp_path / "set.unipot", shards, **OPTIONS))
    assert store.ids == [s.id for s in structures]
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(structures, store, strict=True))
    assert [store.shard_of(i) for i in (0, 3, 6)] == [("00000.mdb", 0), ("00001.mdb", 0), ("00002.mdb", 2)]
    store.verify()


def test_what_is_not_kept_leaves_the_index_but_not_the_shard(write_shard, make_structure, tmp_path):
    structures = [make_structure(k) for k in range(6)]
    shards = [write_shard("a", structures[:3]), write_shard("b", structures[3:])]
    keep = np.array([True, False, True, False, True, True])
    store = Store(assemble_store(tmp_path / "set.unipot", shards, keep=keep, **OPTIONS))
    assert store.ids == ["s-0", "s-2", "s-4", "s-5"]
    assert (len(store), store.metadata["n_quarantined"]) == (4, 2)
    kept = [structures[i] for i in np.flatnonzero(keep)]
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(kept, store, strict=True))
    assert np.array_equal(store.composition_counts(), [np.bincount(s.atomic_numbers, minlength=119) for s in kept])
    store.verify()


def test_one_id_in_two_shards_is_refused(write_shard, make_structure, tmp_path):
    shards = [write_shard("a", [make_structure(0)]), write_shard("b", [make_structure(1), make_structure(0)])]
    with pytest.raises(ValueError, match="structure 's-0': structures 0 and 2 both have this id"):
        assemble_store(tmp_path / "set.unipot", shards, **OPTIONS)
    assert not (tmp_path / "set.unipot").exists()


def test_an_unfinished_folder_is_no_shard(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a finished shard"):
        read_shard_info(tmp_path)


def test_a_shortened_shard_is_refused(write_shard, make_structure):
    shard = write_shard("a", [make_structure(0)])
    data = shard / "data.mdb"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete the shard and convert again"):
        read_shard_info(shard)


def test_the_content_hash_changes_with_what_is_kept(write_shard, make_structure, tmp_path):
    shard = write_shard("a", [make_structure(k) for k in range(3)])
    keeps = [None, np.array([True, True, False]), np.array([True, False, True])]
    hashes = {Store(assemble_store(tmp_path / f"{k}.unipot", [shard], keep=keep, **OPTIONS)).metadata["content_hash"]
              for k, keep in enumerate(keeps)}  # fmt: skip
    assert len(hashes) == 3


def test_attachments_lie_beside_the_index(write_shard, make_structure, tmp_path):
    shard = write_shard("a", [make_structure(0)])
    path = assemble_store(tmp_path / "set.unipot", [shard], attachments={"census.json": b"{}"}, **OPTIONS)
    assert (path / "census.json").read_bytes() == b"{}"
