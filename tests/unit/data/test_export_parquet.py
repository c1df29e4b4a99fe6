"""Export to Parquet: bit for bit there and back, loadable by `datasets`, nothing half-written, a card that says what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.data.conversion.parts import FileSource
from unipot.data.conversion.source_description import SourceDescription
from unipot.data.labels import SkippedItem
from unipot.data.parquet import export as export_module
from unipot.data.parquet.dataset_card import size_category
from unipot.data.parquet.export import export_parquet
from unipot.data.parquet.export_checksums import require_sound
from unipot.data.parquet.table import METADATA_KEY
from unipot.data.readers import read_structures
from unipot.data.readers.huggingface import read_huggingface
from unipot.data.store import Store, StoreWriter
from unipot.errors import InputError
from unipot.structure import Structure

ARRAYS = ("atomic_numbers", "positions", "cell", "pbc", "fixed")
PLAIN = ("id", "group", "total_charge", "spin_multiplicity")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def structure(rng: np.random.Generator, k: int) -> Structure:
    """Whatever a store can hold: with and without cell, charge, spin, fixed atoms, group and any label."""
    n = int(rng.integers(1, 6))
    periodic = rng.random(3) < 0.5
    strain = rng.normal(size=(3, 3))
    labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": strain + strain.T}
    chosen = [name for name in labels if rng.random() < 0.6] or ["energy"]
    return Structure(
        atomic_numbers=rng.integers(1, 119, n),
        positions=rng.normal(scale=10, size=(n, 3)),
        cell=(5 * np.eye(3) + rng.normal(size=(3, 3))) * (periodic[:, None] | (rng.random() < 0.3)),
        pbc=periodic,
        total_charge=float(rng.integers(-2, 3)) / 2,
        spin_multiplicity=int(rng.integers(1, 4)) if rng.random() < 0.5 else None,
        fixed=rng.random(n) < 0.3,
        labels={name: labels[name] for name in chosen},
        id=f"s-{k}/ü",
        group=f"g{k // 3}" if rng.random() < 0.7 else "",
    )


def make_store(path: Path, n: int = 7, seed: int = 0, **options: object) -> Store:
    rng = np.random.default_rng(seed)
    full = Structure(
        atomic_numbers=[29], positions=[[0, 0, 0]], cell=3.6 * np.eye(3), pbc=True, id="first",
        labels={"energy": -3.5, "forces": np.zeros((1, 3)), "stress": np.eye(3)},
    )  # fmt: skip
    settings = {"name": "mixed", "level_of_theory": "PBE, VASP", "labels": ("energy", "forces", "stress"), **options}
    with StoreWriter(path, **settings) as writer:  # type: ignore[arg-type]
        writer.extend([full, *(structure(rng, k) for k in range(n - 1))])
    return Store(path)


def assert_equal(found: Structure | SkippedItem, expected: Structure) -> None:
    assert isinstance(found, Structure)
    for name in ARRAYS:
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name
    for name in PLAIN:
        assert getattr(found, name) == getattr(expected, name), name
    assert found.labels.keys() == expected.labels.keys()
    for name, values in expected.labels.items():
        assert np.asarray(found.labels[name]).tobytes() == np.asarray(values).tobytes(), name


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), precision=st.sampled_from(["float64", "float32"]))
def test_what_was_exported_is_read_back_bit_for_bit_without_options(seed: int, n: int, precision: str) -> None:
    with TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "a.unipot", n, seed, precision=precision)
        export_parquet(store, Path(folder) / "out")
        for found, expected in zip(read_huggingface(Path(folder) / "out"), store, strict=True):
            assert_equal(found, expected)


def test_datasets_loads_the_folder_whole_and_as_a_stream(tmp_path: Path) -> None:
    import datasets

    store = make_store(tmp_path / "a.unipot")
    export_parquet(store, tmp_path / "out")
    whole = datasets.load_dataset(str(tmp_path / "out"))["train"]
    assert whole.num_rows == 7 and whole["id"][0] == "first"
    np.testing.assert_array_equal(whole[3]["positions"], store[3].positions)
    stream = datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    assert [row["energy"] for row in stream] == [float(s.labels["energy"]) if "energy" in s.labels else None for s in store]
    declared = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])["dataset_info"]
    assert datasets.Features._from_yaml_list(declared["features"]) == whole.features


def test_single_precision_stays_single(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export_parquet(make_store(tmp_path / "a.unipot", precision="float32"), tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    types = {name: str(schema.field(name).type) for name in ("positions", "forces", "cell", "energy")}
    assert "float" in types["positions"] and "double" not in types["positions"] + types["forces"]
    assert "double" in types["cell"] and types["energy"] == "double"


def test_large_stores_become_several_files_and_row_groups_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    store = make_store(tmp_path / "a.unipot", 40)
    monkeypatch.setattr(export_module, "FILE_BYTES", int(store.column("length").sum()) // 3 + 1)
    monkeypatch.setattr(export_module, "GROUP_ROWS", 5)
    seen: list[int] = []
    export_parquet(store, tmp_path / "out", on_progress=seen.append)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-0000{k}-of-00003.parquet" for k in range(3)]
    rows = [pq.read_metadata(file) for file in files]
    assert all(10 <= metadata.num_rows <= 17 and metadata.num_row_groups >= 3 for metadata in rows)
    assert sum(seen) == 40 and max(seen) == 5
    assert [s.id for s in read_huggingface(tmp_path / "out")] == list(store.ids)  # type: ignore[union-attr]


def test_splits_are_files_of_their_own_and_must_be_chosen(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.unipot")
    export_parquet(store, tmp_path / "out", splits={"train": [0, 2, 4], "test": np.array([1, 3])})
    ids = lambda split: [s.id for s in read_huggingface(tmp_path / "out", split=split)]  # noqa: E731
    assert ids("train") == [store.ids[k] for k in (0, 2, 4)] and ids("test") == [store.ids[k] for k in (1, 3)]
    assert sorted(ids("all")) == sorted(store.ids[k] for k in range(5))
    with pytest.raises(ValueError, match="there are several splits; set split to one of: test, train, all"):
        read_huggingface(tmp_path / "out")
    with pytest.raises(ValueError, match="split name 'a-b' is not allowed"):
        export_parquet(store, tmp_path / "b", splits={"a-b": [0]})
    with pytest.raises(ValueError, match="split 'test' has no structures"):
        export_parquet(store, tmp_path / "b", splits={"test": []})


def test_an_export_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.unipot")
    export_parquet(store, tmp_path / "out")
    before = (tmp_path / "out" / "README.md").stat().st_mtime_ns

    def fail(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_parquet(store, tmp_path / "out", overwrite=True, on_progress=fail)
    assert (tmp_path / "out" / "README.md").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.unipot", "out"]
    with pytest.raises(FileExistsError, match="out exists already"):
        export_parquet(store, tmp_path / "out")


def test_the_card_has_licence_properties_traps_and_citation_of_the_recipe(tmp_path: Path) -> None:
    card = {
        "title": "Crystals | of copper", "licence": "CC-BY-4.0", "citation": ["A. Author, J. 1 (2020)"],
        "known_traps": ["Energies are\n odd."],
        "properties": {"energy": {"unit": "eV", "sign": "positive", "coverage": "all but one"}}, "energy_zero": "free atoms",
    }  # fmt: skip
    store = make_store(tmp_path / "a.unipot", provenance={"source": {"card": card}}, energy_kind="formation")
    text = (export_parquet(store, tmp_path / "out", name="copper") / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["pretty_name"], front["size_categories"]) == ("cc-by-4.0", "Crystals | of copper", ["n<1K"])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert front["dataset_info"]["splits"][0]["num_examples"] == 7
    for words in ("- Energies are odd.", "- A. Author, J. 1 (2020)", "free atoms", "| energy | eV |", "all but one", "Cu ", "PBE, VASP"):
        assert words in text
    assert "positive under tension" in text and "formation: minus" in text


@pytest.mark.parametrize(("licence", "expected"), [("", "unknown"), ("CC0-1.0", "cc0-1.0"), ("ask the authors", "other")])
def test_licences_the_hub_does_not_know_are_named_other(tmp_path: Path, licence: str, expected: str) -> None:
    store = make_store(tmp_path / "a.unipot", provenance={"card": {"licence": licence}} if licence else {})
    text = (export_parquet(store, tmp_path / "out") / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == expected and front.get("license_name") == (licence if expected == "other" else None)


@pytest.mark.parametrize(("n", "name"), [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (5 * 10**8, "100M<n<1B")])
def test_size_categories_are_the_hubs(n: int, name: str) -> None:
    assert size_category(n) == name


def test_files_say_what_they_are_and_a_newer_format_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export_parquet(make_store(tmp_path / "a.unipot", energy_kind="adsorption"), tmp_path / "out")
    file = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    text = pq.read_schema(file).metadata[METADATA_KEY]
    described = SourceDescription.from_json(text, "a")
    assert (described.name, described.level_of_theory, described.energy_kind) == ("mixed", "PBE, VASP", "adsorption")
    assert described.labels["stress"].sign == "tension" and described.id_key == "id"
    newer = json.dumps({**json.loads(text), "format_version": 99})
    with pytest.raises(ValueError, match="format 99 is newer than this unipot reads"):
        SourceDescription.from_json(newer, "a.parquet")
    with pytest.raises(ValueError, match="cannot be used"):
        SourceDescription.from_json("[]", "a.parquet")


def test_the_path_alone_is_enough_for_any_reader(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.unipot")
    export_parquet(store, tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "a.unipot"):
        assert [s.id for s in read_structures(path)] == list(store.ids)  # type: ignore[union-attr]
    (tmp_path / "a.xyz").write_text("1\nenergy=1.0\nH 0 0 0\n")
    with pytest.raises(ValueError, match="no labels are stated"):
        read_structures(tmp_path / "a.xyz")


def test_the_list_of_checksums_is_one_that_sha256sum_reads(tmp_path: Path) -> None:
    folder = export_parquet(make_store(tmp_path / "a.unipot"), tmp_path / "out")
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())  # type: ignore[misc]
    assert listed.keys() == {"README.md", "data/train-00000-of-00001.parquet"}
    for name, value in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == value


@pytest.mark.parametrize("alone", [False, True], ids=["in its folder", "alone"])
def test_no_damage_of_an_export_gives_other_numbers(tmp_path: Path, alone: bool) -> None:
    store = make_store(tmp_path / "a.unipot", 30)
    folder = export_parquet(store, tmp_path / "out")
    file = folder / "data" / "train-00000-of-00001.parquet"
    if alone:
        file = Path(shutil.copy(file, tmp_path / "alone.parquet"))
    original, rng = file.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(original), 40).tolist():
        content = bytearray(original)
        content[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(content))
        try:
            require_sound([file])
        except ValueError as error:
            assert str(file) in str(error) and "\n" not in str(error)
        else:  # a byte that nobody reads, where no list says what the file was
            assert alone
            for found, expected in zip(read_huggingface(file), store, strict=True):
                assert_equal(found, expected)
    file.write_bytes(original)
    require_sound([file])


def test_a_damaged_export_is_refused_by_the_reader_and_by_a_conversion(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.unipot")
    folder = export_parquet(store, tmp_path / "out")
    file = folder / "data" / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="does not match SHA256SUMS"):
        list(read_huggingface(folder))
    with pytest.raises(ValueError, match="does not match SHA256SUMS"):
        FileSource(path=str(folder), labels=SourceDescription.of_store(store).labels, format="huggingface").parts()


def test_a_list_of_other_files_is_no_obstacle(tmp_path: Path) -> None:
    folder = export_parquet(make_store(tmp_path / "a.unipot"), tmp_path / "out")
    (folder / "SHA256SUMS").write_text("SHA256 (a) = 12\n" + 64 * "0" + "  another.parquet\n")
    assert len(list(read_huggingface(folder))) == 7


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": {"energy": {"key": "energy", "unit": "furlong"}}},
        {"labels": {"energy": {"key": "energy", "unit": [1]}}},
        {"labels": {"forces": {"key": "forces", "unit": "eV/A", "sign": "compression"}}},
        {"format_version": float("inf")},
    ],
    ids=["unit", "unit of another kind", "sign", "version"],
)
def test_a_description_that_means_nothing_is_one_sentence_with_the_file(changed):
    content = {"format": "unipot-parquet", "format_version": 1, "name": "a", "level_of_theory": "b", "energy_kind": "total"}
    text = json.dumps({**content, "precision": "float64", "labels": {}, **changed})
    with pytest.raises(InputError, match=r"a\.parquet: what the file says of itself under 'unipot' cannot be used"):
        SourceDescription.from_json(text, "a.parquet")


def test_a_description_that_is_nested_without_end_is_one_sentence():
    with pytest.raises(InputError, match="cannot be used"):
        SourceDescription.from_json("[" * 100_000, "a.parquet")
