"""The store gives back what it was given, or says in one sentence why not."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest

from unipot.data.edge_counts import STORED_CUTOFFS
from unipot.data.spec import DatasetSpec
from unipot.data.storage.format import group_hash, reduced_formula
from unipot.data.storage.record import LABEL_BITS
from unipot.data.store import Store, StoreWriter, open_dataset
from unipot.neighbors import neighbor_list
from unipot.structure import Structure


def assert_equal(a: Structure, b: Structure, rtol: float = 0.0) -> None:
    for name in ("atomic_numbers", "pbc", "fixed"):
        assert np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("positions", "cell"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol)
    assert (a.id, a.group, a.total_charge, a.spin_multiplicity) == (b.id, b.group, b.total_charge, b.spin_multiplicity)
    assert sorted(a.labels) == sorted(b.labels)
    for name in a.labels:
        np.testing.assert_allclose(a.labels[name], b.labels[name], rtol=rtol, atol=rtol)
        assert a.labels[name].shape == b.labels[name].shape and b.labels[name].dtype == np.float64


@pytest.fixture
def varied(make_structure):
    return [
        make_structure(0),
        make_structure(1, n_atoms=1, labels={}),
        make_structure(2, periodic=True, group="grün", total_charge=-1.5, spin_multiplicity=3),
        make_structure(3, fixed=[True, False, True, False, False], labels={"energy": np.array(-1e5)}),
        make_structure(4, pbc=[True, True, False], cell=np.diag([4.0, 5.0, 0.0])),
    ]


def test_a_record_comes_back_bitwise(make_store, varied):
    store = make_store(structures=varied)
    assert len(store) == len(varied)
    for before, after in zip(varied, store, strict=True):
        assert_equal(before, after)


def test_float32_keeps_energies_exact_and_forces_to_seven_digits(make_store, varied):
    store = make_store(structures=varied, precision="float32")
    for before, after in zip(varied, store, strict=True):
        assert_equal(before, after, rtol=1e-6)
        assert after.positions.dtype == np.float64
        assert "energy" not in before.labels or before.labels["energy"] == after.labels["energy"]


def test_what_is_read_passes_the_validation_it_skipped(make_store, varied):
    for structure in make_store(structures=varied):
        fields = {
            name: getattr(structure, name)
            for name in ("cell", "pbc", "total_charge", "spin_multiplicity", "fixed", "labels", "id", "group")
        }
        assert_equal(Structure(atomic_numbers=structure.atomic_numbers, positions=structure.positions, **fields), structure)


def test_metadata_name_theory_labels_elements_and_counts(make_store, varied):
    store = make_store(structures=varied)
    assert (store.name, store.level_of_theory, store.labels) == ("set", "PBE", ("energy", "forces", "stress"))
    assert store.metadata["label_counts"] == {"energy": 4, "forces": 3, "stress": 1}
    assert store.elements == tuple(sorted({int(z) for s in varied for z in s.atomic_numbers}))
    assert store.ids == tuple(s.id for s in varied)


def test_edge_counts_of_stored_cutoffs_match_the_neighbour_list(make_store, make_structure):
    structures = [make_structure(k, n_atoms=6, periodic=k % 2 == 0) for k in range(6)]
    store = make_store(structures=structures)
    for cutoff in STORED_CUTOFFS:
        expected = [neighbor_list(s.positions, s.cell, s.pbc, cutoff)[0].shape[1] for s in structures]
        assert store.n_edges(cutoff).tolist() == expected
    assert store.n_edges(6.0).sum() > store.n_edges(4.0).sum()


def test_edge_counts_at_another_cutoff_are_exact_and_kept(make_store, make_structure):
    structures = [make_structure(k, n_atoms=6, periodic=True) for k in range(4)]
    store = make_store(structures=structures)
    expected = [neighbor_list(s.positions, s.cell, s.pbc, 4.7)[0].shape[1] for s in structures]
    assert store.n_edges(4.7).tolist() == expected
    kept = list(store.path.glob("n_edges_4.7_*.npy"))
    assert len(kept) == 1
    np.save(kept[0], np.array(expected, dtype="<i4") + 1)  # read back, not counted again
    assert Store(store.path).n_edges(4.7).tolist() == [n + 1 for n in expected]


def test_kept_edge_counts_of_other_contents_are_not_reused(make_store, make_structure):
    old = make_store(structures=[make_structure(k, n_atoms=6) for k in range(3)])
    old.n_edges(4.7)
    sidecar = next(old.path.glob("n_edges_4.7_*.npy"))
    saved = sidecar.read_bytes()
    new = make_store(structures=[make_structure(k + 9, n_atoms=7) for k in range(3)], overwrite=True)
    (new.path / sidecar.name).write_bytes(saved)
    assert new.n_edges(4.7).tolist() == [neighbor_list(s.positions, s.cell, s.pbc, 4.7)[0].shape[1] for s in new]


def test_content_hash_depends_on_order(make_store, varied):
    forward = make_store("a", varied[:1] + varied[2:])
    backward = make_store("b", [*varied[2:], varied[0]])
    again = make_store("c", varied[:1] + varied[2:])
    assert forward.metadata["content_hash"] == again.metadata["content_hash"] != backward.metadata["content_hash"]
    forward.verify()


def test_verify_finds_an_altered_record(make_store):
    store = make_store()
    data = store.path / "shards" / "00000.mdb"
    content = bytearray(data.read_bytes())
    record = bytes(store.record(3))
    content[content.index(record) + record.index(store[3].positions.tobytes())] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="00000.mdb does not match the recorded hash"):
        Store(store.path).verify()


def test_a_store_grows_beyond_the_first_map_size(make_store, make_structure, monkeypatch):
    open_environment = lmdb.open
    monkeypatch.setattr(
        lmdb, "open", lambda path, **o: open_environment(path, **{**o, **({"map_size": 1 << 16} if "map_size" in o else {})})
    )
    structures = [make_structure(k, n_atoms=100) for k in range(60)]
    assert_equal(make_store(structures=structures)[59], structures[59])


def test_structures_without_id_are_numbered(make_store, make_structure):
    assert make_store(structures=[make_structure(k, id="") for k in range(2)]).ids == ("set-0", "set-1")


def test_duplicate_ids_are_refused_and_named(make_store, make_structure):
    with pytest.raises(ValueError, match="'s-0'.*used before"):
        make_store(structures=[make_structure(0), make_structure(0)])


def test_an_undeclared_label_is_refused(make_store, make_structure):
    with pytest.raises(ValueError, match="label 'forces' was not declared; declared are: energy"):
        make_store(structures=[make_structure(0)], labels=["energy"])


def test_a_declared_label_that_nobody_carries_is_refused(make_store, make_structure):
    with pytest.raises(ValueError, match="no structure carries the label 'stress'"):
        make_store(structures=[make_structure(0)], labels=["energy", "forces", "stress"])


def test_non_finite_labels_are_refused_with_structure_and_key(make_store, make_structure):
    structure = make_structure(0)
    structure.labels["forces"][1, 1] = np.nan
    with pytest.raises(ValueError, match="structure 's-0'.*forces contain 1 non-finite"):
        make_store(structures=[structure])


def test_an_empty_store_is_refused(make_store, tmp_path):
    with pytest.raises(ValueError, match="no structures to store"):
        make_store(structures=[], labels=["energy"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path, make_structure, error):
    with pytest.raises(error), StoreWriter(tmp_path / "a.unipot", name="a", level_of_theory="PBE", labels=["energy", "forces"]) as writer:
        writer.add(make_structure(0))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_does_not_read_as_a_store(tmp_path, make_structure):
    process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(tmp_path / "a.unipot", make_structure(0)))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / "a.unipot").exists()
    with pytest.raises(FileNotFoundError, match="not a unipot store"):
        Store(next(tmp_path.iterdir()))


def _write_and_die(path: Path, structure: Structure) -> None:
    writer = StoreWriter(path, name="a", level_of_theory="PBE", labels=["energy", "forces"])
    writer.__enter__()
    writer.add(structure)
    writer._flush()
    os._exit(9)


def test_an_existing_store_is_kept_unless_told_otherwise(make_store, make_structure):
    before = make_store(structures=[make_structure(0)])
    with pytest.raises(FileExistsError, match="overwrite=true"):
        make_store(structures=[make_structure(1)])
    with pytest.raises(ValueError, match="used before"):
        make_store(structures=[make_structure(1)] * 2, overwrite=True)
    assert Store(before.path).ids == ("s-0",)
    assert make_store(structures=[make_structure(1)], overwrite=True).ids == ("s-1",)
    assert sorted(p.name for p in before.path.parent.iterdir()) == ["set.unipot"]


def test_a_newer_format_is_refused(make_store):
    store = make_store()
    metadata = json.loads((store.path / "metadata.json").read_text())
    (store.path / "metadata.json").write_text(json.dumps({**metadata, "format_version": 99}))
    with pytest.raises(ValueError, match="store format 99 is newer than this unipot reads"):
        Store(store.path)


@pytest.mark.parametrize(
    "damage",
    ["truncated", "zeros", "empty", "text", "missing", "no ids", "short ids", "bad json"],
)
def test_damage_is_one_sentence_with_the_path(make_store, damage):
    store = make_store()
    data, ids = store.path / "shards" / "00000.mdb", store.path / "index" / "ids_offsets.npy"
    size = data.stat().st_size
    changes = {
        "truncated": lambda: data.write_bytes(data.read_bytes()[: size // 2]),
        "zeros": lambda: data.write_bytes(b"\0" * size),
        "empty": lambda: data.write_bytes(b""),
        "text": lambda: data.write_bytes(b"<html>" + b"x" * (size - 6)),
        "missing": data.unlink,
        "no ids": ids.unlink,
        "short ids": lambda: np.save(ids, np.load(ids)[:3]),
        "bad json": lambda: (store.path / "metadata.json").write_text("{"),
    }
    changes[damage]()
    with pytest.raises(ValueError, match=r"set\.unipot.*prepare the store again") as caught:
        Store(store.path).ids  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_named(make_store):
    store = make_store()
    data = store.path / "shards" / "00000.mdb"
    content = bytearray(data.read_bytes())
    position = content.index(bytes(store.record(3)))
    content[position : position + 2] = b"\xff\xff"  # number of atoms
    data.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="shard 00000.mdb, structure 3 .*'s-3'.*cannot be read"):
        Store(store.path)[3]


def test_a_flipped_bit_in_a_record_is_found_by_its_checksum(make_store):
    store = make_store()
    data = store.path / "shards" / "00000.mdb"
    content = bytearray(data.read_bytes())
    record = bytes(store.record(3))
    content[content.index(record) + record.index(store[3].labels["forces"].tobytes())] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="shard 00000.mdb, structure 3 .*its checksum differs"):
        Store(store.path)[3]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_compression_changes_no_bit(make_store, varied, compression):
    if compression:
        pytest.importorskip("zstandard", reason="the package for compressed stores")
    store = make_store(structures=varied, compression=compression)
    assert store.metadata["compression"] == compression
    for before, after in zip(varied, store, strict=True):
        assert_equal(before, after)
    store.verify()


def test_an_unknown_compression_is_refused(make_store, varied):
    with pytest.raises(ValueError, match="compression is 'rar'; use one of: None, zstd"):
        make_store(structures=varied, compression="rar")


def test_compositions_come_from_the_index(make_store, varied):
    store = make_store(structures=varied)
    expected = np.array([np.bincount(s.atomic_numbers, minlength=119) for s in varied])
    assert np.array_equal(store.composition_counts(), expected)
    assert np.array_equal(store.composition_counts(1, 3), expected[1:3])
    assert np.array_equal(store.composition_counts_of([4, 0, 4]), expected[[4, 0, 4]])


def test_columns_hold_energies_labels_and_formulas(make_store, varied):
    store = make_store(structures=varied)
    energies = [float(s.labels.get("energy", np.nan)) for s in varied]
    assert np.array_equal(store.column("energy"), energies, equal_nan=True)
    assert [int(bits) for bits in store.column("label_bits")] == [sum(1 << LABEL_BITS[name] for name in s.labels) for s in varied]
    assert [int(f) for f in store.column("formula")] == [group_hash(reduced_formula(s.atomic_numbers)) for s in varied]
    with pytest.raises(KeyError, match="column 'mass' is not known"):
        store.column("mass")


def test_supercells_have_one_reduced_formula():
    assert reduced_formula(np.array([8, 1, 1])) == reduced_formula(np.array([1, 1, 1, 8, 8, 1])) == "H2O1"


def test_an_unknown_energy_kind_is_refused(make_store, varied):
    with pytest.raises(ValueError, match="energy_kind is 'free'; use one of: total, adsorption, formation"):
        make_store(structures=varied, energy_kind="free")


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="unipot prepare"):
        Store(tmp_path)


def test_index_out_of_range(make_store):
    with pytest.raises(IndexError, match="structure 12 was asked for, there are 12"):
        make_store()[12]


def test_a_pickled_store_reads_the_same(make_store):
    store = make_store()
    assert_equal(pickle.loads(pickle.dumps(store))[5], store[5])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(make_store, method):
    store = make_store()
    with multiprocessing.get_context(method).Pool(2) as pool:
        energies = pool.map(_Energy(store), range(12))
    assert energies == [float(s.labels["energy"]) for s in store]


class _Energy:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, index: int) -> float:
        return float(self.store[index].labels["energy"])


def test_a_store_may_be_moved_and_opened_twice(make_store, tmp_path):
    store = make_store()
    shutil.copytree(store.path, tmp_path / "copy.unipot")
    assert_equal(Store(tmp_path / "copy.unipot")[0], Store(store.path)[0])


def test_a_dataset_of_another_level_of_theory_is_refused(make_store):
    spec = DatasetSpec(name="a", path=str(make_store().path), level_of_theory="RPBE")
    with pytest.raises(ValueError, match="'RPBE'.*prepared with 'PBE'"):
        open_dataset(spec)


def test_a_dataset_without_a_configured_label_is_refused(make_store):
    spec = DatasetSpec(name="a", path=str(make_store().path), level_of_theory="PBE", labels=("energy", "stress"))
    with pytest.raises(ValueError, match="carries the label 'stress'; it has: energy, forces"):
        open_dataset(spec)


def test_a_store_that_cannot_be_written_works_at_any_cutoff(make_store, make_structure, monkeypatch):
    structures = [make_structure(k, n_atoms=6, periodic=True) for k in range(4)]
    store = make_store(structures=structures)
    expected = [neighbor_list(s.positions, s.cell, s.pbc, 4.7)[0].shape[1] for s in structures]

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert store.n_edges(4.7).tolist() == expected
    monkeypatch.setattr(Store, "_count_edges", refuse)  # another reader of this process need not count again
    assert Store(store.path).n_edges(4.7).tolist() == expected
    assert not list(store.path.glob(".n_edges*")) and not list(store.path.glob("n_edges*"))


@pytest.mark.parametrize("place", [-4, -12, 130, 8])
def test_damaged_kept_edge_counts_are_counted_again(make_store, make_structure, place):
    structures = [make_structure(k, n_atoms=6, periodic=True) for k in range(4)]
    store = make_store(structures=structures)
    expected = store.n_edges(4.7).tolist()
    (kept,) = store.path.glob("n_edges_4.7_*.npy")
    content = bytearray(kept.read_bytes())
    content[place] ^= 1
    kept.write_bytes(bytes(content))
    assert Store(store.path).n_edges(4.7).tolist() == expected
    assert Store(store.path).n_edges(4.7).tolist() == expected and kept.read_bytes() != bytes(content)
