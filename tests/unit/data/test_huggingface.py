"""Hugging Face `datasets`: column mapping, splits, local files in every form, damaged input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unipot.data.labels import ASE_LABELS, LabelSource, SkippedItem
from unipot.data.readers.huggingface import read_huggingface
from unipot.structure import Structure

LABELS = {"energy": ASE_LABELS["energy"], "forces": ASE_LABELS["forces"]}
ENERGY = {"energy": ASE_LABELS["energy"]}
WATER = [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
ROWS: dict[str, list[Any]] = {
    "atomic_numbers": [[8, 1, 1], [1]],
    "positions": [WATER, [[1.0, 2, 3]]],
    "energy": [-14.0, -1.0],
    "forces": [[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], [[0.0, 0, 0]]],
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def parquet(path: Path, **changes: Any) -> Path:
    columns = {key: value for key, value in {**ROWS, **changes}.items() if value is not None}
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path | str, **options: Any) -> list[Structure]:
    items = list(read_huggingface(path, labels=options.pop("labels", LABELS), **options))
    assert [item for item in items if isinstance(item, SkippedItem)] == []
    return items  # type: ignore[return-value]


def reasons(path: Path, **options: Any) -> list[str]:
    items = read_huggingface(path, labels=options.pop("labels", LABELS), **options)
    return [item.reason for item in items if isinstance(item, SkippedItem)]


def test_rows_become_structures(tmp_path: Path) -> None:
    first, second = read(parquet(tmp_path / "water.parquet"))
    assert first.atomic_numbers.tolist() == [8, 1, 1] and second.n_atoms == 1
    np.testing.assert_array_equal(first.positions, WATER)
    np.testing.assert_array_equal(first.labels["forces"], ROWS["forces"][0])
    assert first.labels["energy"] == -14.0 and not first.pbc.any()
    assert (first.id, second.id) == ("water-0", "water-1")


def test_columns_of_other_names_symbols_and_flat_lists_are_mapped(tmp_path: Path) -> None:
    table = {
        "elements": [["Na", "Cl"]],
        "xyz": [[0.0, 0, 0, 2.8, 0, 0]],
        "box": [(5.6 * np.eye(3)).tolist()],
        "q": [1],
        "2S+1": [2],
        "F": [[1.0, 2, 3, 4, 5, 6]],
        "sid": ["s1"],
        "run": [7],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    columns = {
        "atomic_numbers": "elements",
        "positions": "xyz",
        "cell": "box",
        "pbc": "all",
        "total_charge": "q",
        "spin_multiplicity": "2S+1",
    }
    labels = {"forces": LabelSource(key="F", unit="meV/A")}
    (salt,) = read(tmp_path / "a.parquet", labels=labels, columns=columns, id_key="sid", group_key="run")
    assert salt.atomic_numbers.tolist() == [11, 17] and salt.pbc.all() and salt.volume == pytest.approx(5.6**3)
    assert (salt.total_charge, salt.spin_multiplicity, salt.id, salt.group) == (1.0, 2, "s1", "7")
    np.testing.assert_allclose(salt.labels["forces"], [[0.001, 0.002, 0.003], [0.004, 0.005, 0.006]])


def test_spins_that_are_no_multiplicities_are_refused_and_heavy_hydrogen_is_hydrogen(tmp_path: Path) -> None:
    table = {"species": [["D", "T"], ["H", "H"]], "positions": [[[0.0, 0, 0], [0, 0, 1]]] * 2, "energy": [1.0, 2.0]}
    pq.write_table(pa.table({**table, "multiplicity": [3.0, 2.5]}), tmp_path / "a.parquet")
    heavy, broken = read_huggingface(tmp_path / "a.parquet", labels=ENERGY)
    assert isinstance(heavy, Structure) and (heavy.atomic_numbers.tolist(), heavy.spin_multiplicity) == ([1, 1], 3)
    assert isinstance(broken, SkippedItem) and "spin_multiplicity is 2.5" in broken.reason


def test_nested_label_columns_are_reached_with_a_dot(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", energy=None, results=[{"E": 1.0, "S": list(range(6))}, {"E": 2.0, "S": None}])
    labels = {
        "energy": LabelSource(key="results.E", unit="hartree"),
        "stress": LabelSource(key="results.S", unit="GPa", sign="compression"),
    }
    first, second = read(path, labels=labels)
    assert float(first.labels["energy"]) == pytest.approx(27.211386245988)
    assert float(first.labels["stress"][0, 1]) == pytest.approx(-5 / 160.2176634) and "stress" not in second.labels


def test_folders_of_parquet_and_arrow_files_are_streamed_in_order_of_name(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00001-of-00002.parquet", energy=[3.0, 4.0])
    parquet(tmp_path / "train-00000-of-00002.parquet", energy=[1.0, 2.0])
    parquet(tmp_path / "test-00000-of-00001.parquet", energy=[5.0, 6.0])
    assert [float(s.labels["energy"]) for s in read(tmp_path, split="train")] == [1.0, 2.0, 3.0, 4.0]
    assert [float(s.labels["energy"]) for s in read(tmp_path, split="test")] == [5.0, 6.0]
    with pytest.raises(FileNotFoundError, match="no .parquet or .arrow file of split 'validation'"):
        read_huggingface(tmp_path, labels=LABELS, split="validation")


def test_arrow_files_are_read(tmp_path: Path) -> None:
    table = pa.table(ROWS)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert [float(s.labels["energy"]) for s in read(tmp_path / "a.arrow")] == [-14.0, -1.0]


def test_folders_written_by_save_to_disk_are_read(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_dict(ROWS)
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert len(read(tmp_path / "one")) == 2
    assert [s.n_atoms for s in read(tmp_path / "two", split="test")] == [1]
    with pytest.raises(ValueError, match="there are several splits; set split to one of: train, test"):
        read_huggingface(tmp_path / "two", labels=LABELS)


def test_rows_are_streamed(tmp_path: Path) -> None:
    table = pa.table({key: [value[1]] * 5000 for key, value in ROWS.items()})
    pq.write_table(table, tmp_path / "long.parquet", row_group_size=500)
    iterator = read_huggingface(tmp_path / "long.parquet", labels=LABELS)
    assert [next(iterator).id for _ in range(600)][-1] == "long-599"


def test_missing_labels_are_absent_and_rows_without_any_are_skipped(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", energy=[None, None], forces=[ROWS["forces"][0], None])
    structure, skipped = read_huggingface(path, labels=LABELS)
    assert set(structure.labels) == {"forces"} and not skipped.invalid


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"energy": [float("nan"), -1.0]}, "energy contain 1 non-finite value"),
        ({"forces": [np.ones((3, 2)).tolist(), [[0.0, 0, 0]]]}, "forces .* have shape \\(3, 2\\), expected \\(3, 3\\)"),
        ({"positions": [[[0.0, 0], [1.0], [2.0]], [[1.0, 2, 3]]]}, "lists of unequal length"),
        ({"cell": [(9 * np.eye(3)).tolist(), None]}, "there is a cell but pbc is not stated"),
        ({"atomic_numbers": [["O", "H", "Q"], ["H"]]}, "'Q' is not an element symbol"),
        ({"atomic_numbers": [None, [1]]}, "atomic numbers are missing"),
        ({"pbc": [[True, True, True], [False] * 3]}, "lattice vector\\(s\\) \\[0, 1, 2\\] of the cell are missing"),
    ],
)
def test_unusable_rows_are_reported_with_the_reason(tmp_path: Path, changes: dict, reason: str) -> None:
    import re

    (found,) = reasons(parquet(tmp_path / "a.parquet", **changes))
    assert re.search(reason, found)


def test_transposed_forces_are_not_scrambled_into_shape(tmp_path: Path) -> None:
    changes = {"atomic_numbers": [[8, 1]], "positions": [WATER[:2]], "energy": [0.0], "forces": [np.ones((3, 2)).tolist()]}
    assert "expected (2, 3)" in reasons(parquet(tmp_path / "a.parquet", **changes))[0]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"energy": None}, {}, "label key 'energy' .*keys in the file are: atomic_numbers, forces, positions"),
        ({"positions": None, "r": ROWS["positions"]}, {}, "no column for positions; state columns.positions as one of"),
        ({"pos": ROWS["positions"]}, {}, "both 'positions' and 'pos' could be positions; state columns.positions"),
        ({}, {"columns": {"positions": "x"}}, "columns.positions='x' is no column"),
        ({}, {"columns": {"position": "positions"}}, "columns has no field 'position'"),
        ({}, {"group_key": "traj"}, "group_key='traj' is no column"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, changes: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_huggingface(parquet(tmp_path / "a.parquet", **changes), labels=LABELS, **options))


def test_damaged_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.parquet cannot be read"):
        list(read_huggingface(tmp_path / "cut.parquet", labels=LABELS))
    pq.write_table(pa.table(ROWS).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="there are no rows"):
        list(read_huggingface(tmp_path / "empty.parquet", labels=LABELS))
    with pytest.raises(FileNotFoundError, match="absent.parquet: no such file"):
        read_huggingface(tmp_path / "absent.parquet", labels=LABELS)
    with pytest.raises(ValueError, match="mixes .parquet and .arrow"):
        (tmp_path / "a.arrow").write_bytes(b"")
        read_huggingface(tmp_path, labels=LABELS)


def test_fixed_atoms_charges_and_null_ids_and_groups_are_read(tmp_path: Path) -> None:
    table = {"fixed": [[True, False, False], None], "charge": [None, -1.0], "id": [None, "b"], "meta": [{"run": "r"}, {"run": None}]}
    first, second = read(parquet(tmp_path / "a.parquet", **table), id_key="id", group_key="meta.run")
    assert first.fixed.tolist() == [True, False, False] and not second.fixed.any()
    assert (first.total_charge, second.total_charge) == (0.0, -1.0)
    assert (first.id, second.id, first.group, second.group) == ("a-0", "b", "r", "")


def test_files_of_several_splits_are_not_mixed_unasked(tmp_path: Path) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="there are several splits; set split to one of: test, train, all"):
        read(tmp_path)
    assert len(read(tmp_path, split="all")) == 4


def test_configurations_of_a_hub_dataset_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, configuration: str | None, **options: Any) -> Any:
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nExample of usage: …")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"hf://owner/name: Config name is missing.*'small', 'large'.*hf://owner/name/<configuration>"):
        read_huggingface("hf://owner/name", labels=LABELS)


def test_an_export_on_the_hub_is_described_by_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub
    import yaml

    labels = {"energy": {"key": "energy", "unit": "eV", "sign": "positive", "virial": False}}
    said = {"format": "unipot-parquet", "format_version": 1, "name": "water", "level_of_theory": "PBE", "energy_kind": "total"}
    card = f"---\n{yaml.safe_dump({'unipot': {**said, 'precision': 'float64', 'labels': labels, 'group_key': None, 'id_key': None}})}---\n"
    stream = datasets.Dataset.from_dict(ROWS).to_iterable_dataset()
    monkeypatch.setattr(huggingface_hub.DatasetCard, "load", lambda name: huggingface_hub.DatasetCard(card))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration, **options: datasets.IterableDatasetDict({"train": stream}))
    assert [set(s.labels) for s in read_huggingface("hf://owner/water")] == [{"energy"}, {"energy"}]  # type: ignore[union-attr]


def test_hub_names_reach_the_hub_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(name: str, configuration: str | None, **options: Any) -> Any:
        asked.update(name=name, configuration=configuration, **options)
        return datasets.IterableDatasetDict({"train": datasets.Dataset.from_dict(ROWS).to_iterable_dataset()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [s.id for s in read("hf://owner/name/small")] == ["name-0", "name-1"]
    assert asked == {"name": "owner/name", "configuration": "small", "split": None, "streaming": True}


def test_an_unreachable_hub_dataset_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="hf://owner/no-such-dataset cannot be opened .* give their folder"):
        read_huggingface("hf://owner/no-such-dataset", labels=LABELS)
    with pytest.raises(ValueError, match="give owner and name"):
        read_huggingface("hf://owner", labels=LABELS)


def test_any_reader_is_reached_by_path_alone_and_columns_are_for_datasets_only(tmp_path: Path) -> None:
    from unipot.data.readers import read_structures

    parquet(tmp_path / "train.parquet", positions=None, xyz=ROWS["positions"])
    items = list(read_structures(tmp_path, labels=ENERGY, columns={"positions": "xyz"}, split="train"))
    assert [s.n_atoms for s in items if isinstance(s, Structure)] == [3, 1]
    (tmp_path / "a.xyz").write_text("1\nenergy=1.0\nH 0 0 0\n")
    with pytest.raises(ValueError, match="split is for Hugging Face datasets; this is format 'ase'"):
        read_structures(tmp_path / "a.xyz", labels=ENERGY, split="train")
