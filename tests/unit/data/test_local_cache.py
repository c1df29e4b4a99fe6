"""A store is copied to a local disk once, whole, and only when it fits."""

from __future__ import annotations

import os
import shutil

import pytest

from unipot.data.storage.local_cache import locally
from unipot.data.store import Store


def test_without_a_folder_the_store_is_read_where_it_is(make_store, tmp_path):
    store = make_store()
    assert locally(store.path, None) == store.path


def test_the_copy_holds_the_same(make_store, tmp_path):
    store = make_store()
    copy = locally(store.path, tmp_path / "cache")
    assert copy != store.path
    Store(copy).verify()
    assert Store(copy).metadata == store.metadata


def test_the_copy_is_made_once(make_store, tmp_path):
    store = make_store()
    copy = locally(store.path, tmp_path / "cache")
    before = (copy / "metadata.json").stat().st_ino
    assert (locally(store.path, tmp_path / "cache") / "metadata.json").stat().st_ino == before


def test_a_store_prepared_anew_is_copied_anew(make_store, make_structure, tmp_path):
    first = locally(make_store(structures=[make_structure(0)]).path, tmp_path / "cache")
    second = locally(make_store(structures=[make_structure(1)], overwrite=True).path, tmp_path / "cache")
    assert first != second and Store(second).ids == ["s-1"]


def test_another_meaning_of_the_same_records_is_copied_anew(make_store, make_structure, tmp_path):
    options = {"structures": [make_structure(0)], "overwrite": True}
    locally(make_store(**options).path, tmp_path / "cache")
    second = locally(make_store(**options, energy_kind="formation").path, tmp_path / "cache")
    assert Store(second).energy_kind == "formation"


def test_too_little_room_is_said_with_both_sizes(make_store, tmp_path, monkeypatch):
    store = make_store()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"needs .* GB, 0\.00 GB are free; make room"):
        locally(store.path, tmp_path / "cache")


def test_an_interrupted_copy_is_not_taken_for_a_store(make_store, tmp_path, monkeypatch):
    store = make_store()

    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)  # the last act, when everything is copied
    with pytest.raises(KeyboardInterrupt):
        locally(store.path, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []


def test_an_unset_variable_in_the_folder_is_named(make_store):
    with pytest.raises(ValueError, match="environment variable"):
        locally(make_store().path, "$NO_SUCH_FOLDER_VARIABLE/unipot")


def test_a_store_that_cannot_be_read_is_not_copied(make_store, tmp_path):
    path = make_store().path
    (path / "shards" / "00000.mdb").unlink()
    os.mkfifo(path / "shards" / "00000.mdb")
    with pytest.raises(ValueError, match="00000.mdb is not a regular file"):
        locally(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.unipot"))
