"""Stores as a source: labels chosen, stores merged, exports prepared again without being told what they are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from unipot.data.labels import SkippedItem
from unipot.data.readers.unipot_store import describe_stores, read_store, store_folders
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import LabelConfig, PrepareConfig


def make_store(path: Path, n: int = 6, prefix: str = "s", **options: Any) -> Store:
    rng = np.random.default_rng(0)
    settings = {"name": path.stem, "level_of_theory": "PBE", "labels": ("energy", "forces"), **options}
    with StoreWriter(path, **settings) as writer:
        for k in range(n):
            labels = {"energy": -3.0 - 0.01 * k} if k % 3 == 2 else {"energy": -3.0 - 0.01 * k, "forces": 0.1 * rng.normal(size=(2, 3))}
            labels["forces"] = labels.get("forces", np.zeros((2, 3))) - np.mean(labels.get("forces", np.zeros((2, 3))), axis=0)
            positions = [[0, 0, 0], [0.9 + 0.1 * rng.random(), 0, 0]]
            writer.add(Structure(atomic_numbers=[1, 9], positions=positions, labels=labels, id=f"{prefix}{k}", group=f"g{k // 2}"))
    return Store(path)


def run(**options: Any) -> tuple[Store, str]:
    console = Console(file=io.StringIO(), width=200)
    store = prepare(PrepareConfig(check_labels=False, **options), console)
    return store, console.file.getvalue()  # type: ignore[attr-defined]


def test_only_the_wanted_labels_are_read(tmp_path: Path) -> None:
    make_store(tmp_path / "a.unipot")
    found = list(read_store(tmp_path / "a.unipot", labels=["forces"], rows=range(1, 4)))
    assert [set(s.labels) for s in found if isinstance(s, Structure)] == [{"forces"}] * 3
    skipped = list(read_store(tmp_path / "a.unipot", labels=["stress"]))
    assert all(isinstance(item, SkippedItem) and not item.invalid for item in skipped)


def test_a_store_is_prepared_again_at_another_precision_without_options(tmp_path: Path) -> None:
    old = make_store(tmp_path / "a.unipot", energy_kind="adsorption", provenance={"card": {"licence": "MIT"}})
    new, _ = run(path=str(old.path), out=str(tmp_path / "b.unipot"), precision="float32", compression="zstd")
    assert (new.name, new.level_of_theory, new.energy_kind, new.labels) == ("a", "PBE", "adsorption", old.labels)
    assert list(new.ids) == list(old.ids) and (new.groups == old.groups).all()
    assert new.metadata["precision"] == "float32" and new.metadata["provenance"]["source"]["card"]["licence"] == "MIT"
    np.testing.assert_array_equal(new[4].positions, old[4].positions.astype(np.float32))


def test_stores_of_a_folder_become_one(tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    make_store(tmp_path / "stores" / "a.unipot")
    make_store(tmp_path / "stores" / "b.unipot", prefix="t")
    assert [folder.name for folder in store_folders(tmp_path / "stores")] == ["a.unipot", "b.unipot"]
    both, _ = run(path=str(tmp_path / "stores"), out=str(tmp_path / "both.unipot"))
    assert len(both) == 12 and both.name == "a-b"
    (tmp_path / "stores" / "frames.extxyz").write_text("")
    assert store_folders(tmp_path / "stores") == []  # such a folder is one of structure files


def test_stores_of_different_levels_of_theory_are_not_merged(tmp_path: Path) -> None:
    make_store(tmp_path / "a.unipot")
    make_store(tmp_path / "b.unipot", level_of_theory="RPBE")
    with pytest.raises(ValueError, match="level_of_theory 'PBE' and .* 'RPBE'; only stores of one level"):
        describe_stores(str(tmp_path / "*.unipot"))
    with pytest.raises(FileNotFoundError, match="there is no unipot store"):
        describe_stores(tmp_path / "absent")


def test_options_that_do_not_apply_to_a_store_are_refused(tmp_path: Path) -> None:
    path = str(make_store(tmp_path / "a.unipot").path)
    out = str(tmp_path / "b.unipot")
    with pytest.raises(ValueError, match="is a store, whose structures carry their id and group; leave id_key out"):
        run(path=path, out=out, id_key="id")
    with pytest.raises(ValueError, match="has no label 'stress'; it has: energy, forces"):
        run(path=path, out=out, labels={"stress": LabelConfig(key="stress", unit="eV/A^3", sign="tension")})
    with pytest.raises(ValueError, match="labels are in canonical units; to keep energy, write labels.energy.key=energy"):
        run(path=path, out=out, labels={"energy": LabelConfig(key="energy", unit="hartree")})
    only, _ = run(path=path, out=out, labels={"forces": LabelConfig(key="forces", unit="eV/A")})
    assert only.labels == ("forces",)


def test_what_is_stated_wins_over_what_a_store_says_and_is_printed(tmp_path: Path) -> None:
    path = str(make_store(tmp_path / "a.unipot").path)
    store, text = run(path=path, out=str(tmp_path / "b.unipot"), level_of_theory="PBE, VASP")
    assert store.level_of_theory == "PBE, VASP" and "says 'PBE'" in text


def test_a_store_goes_to_parquet_and_back_by_path_alone(tmp_path: Path) -> None:
    old = make_store(tmp_path / "a.unipot")
    run(path=str(old.path), to="parquet", out=str(tmp_path / "out"))
    new, _ = run(path=str(tmp_path / "out"), out=str(tmp_path / "back.unipot"))
    assert (new.name, new.level_of_theory, list(new.ids)) == ("a", "PBE", list(old.ids))
    assert all(new[k].positions.tobytes() == old[k].positions.tobytes() for k in range(len(old)))
    assert new.metadata["content_hash"] == old.metadata["content_hash"]


def test_a_store_is_never_overwritten_by_its_own_changed_export(tmp_path: Path) -> None:
    old = make_store(tmp_path / "a.unipot")
    options = {"path": str(old.path), "to": "parquet", "out": str(tmp_path / "out"), "precision": "float32", "overwrite": True}
    with pytest.raises(ValueError, match="would have to be changed before the export; give the changed store a name of its own"):
        run(**options)
    run(**options, name="single")
    assert Store(tmp_path / "a.unipot").metadata["precision"] == "float64"
    assert Store(tmp_path / "single.unipot").metadata["precision"] == "float32"


def test_a_file_goes_to_parquet_through_a_store_that_stays(tmp_path: Path, toy_data: dict[str, Path]) -> None:
    options = {"path": str(toy_data["metals"]), "level_of_theory": "EMT", "to": "parquet", "out": str(tmp_path / "out")}
    store, text = run(**options)
    assert store.path == tmp_path / "metals.unipot" and len(store) == 40
    assert (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").exists() and "with a dataset card" in text
    with pytest.raises(FileExistsError, match="out exists already"):
        run(**options)
    with pytest.raises(FileExistsError, match="the store to be exported, exists already; export it"):
        run(**{**options, "out": str(tmp_path / "other")})
    with pytest.raises(ValueError, match="to is 'csv'; use store or parquet"):
        run(**{**options, "to": "csv"})
