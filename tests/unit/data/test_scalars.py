"""Scalar properties from files into stores and batches; stores without them stay what they were."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from unipot.data.mixture.packed_batch import pack
from unipot.data.readers.scalars import read_scalar_frames
from unipot.data.scalar_columns import attach_scalars, read_scalars
from unipot.data.spec import DatasetSpec
from unipot.data.storage.decode import decode_batch
from unipot.data.storage.local_cache import locally
from unipot.data.storage.store_upgrade import upgrade_store
from unipot.data.store import Store, StoreWriter, open_dataset
from unipot.properties import ScalarProperty
from unipot.structure import Structure

GAP = ScalarProperty(name="gap", key="band_gap", unit="eV")
SIZE = ScalarProperty(name="size", key="size", unit="A", kind="extensive")
OLD = Path(__file__).parents[2] / "golden" / "store-v1.unipot"


@pytest.fixture
def store(tmp_path):
    """Five structures with energies."""
    path = tmp_path / "a.unipot"
    with StoreWriter(path, name="a", level_of_theory="PBE", labels=("energy",)) as writer:
        for k in range(5):
            writer.add(Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, 1.0 + 0.1 * k]], labels={"energy": -k}, id=f"s{k}"))
    return path


VALUES = {"gap": {"s0": 1.0, "s1": float("nan"), "s3": 3.0}, "size": {"s4": 9.0}}


def test_a_column_is_attached_and_read_back(store):
    records = Store(store).metadata["content_hash"]
    assert attach_scalars(store, [GAP, SIZE], VALUES) == {"gap": 2, "size": 1}
    opened = Store(store)
    np.testing.assert_array_equal(opened.scalar("gap"), [1.0, np.nan, np.nan, 3.0, np.nan])
    assert (opened.scalars["gap"]["key"], opened.scalars["gap"]["unit"]) == ("band_gap", "eV")
    assert opened.metadata["content_hash"] == records
    opened.verify()


def test_a_second_property_keeps_the_first_and_a_new_column_replaces_its_own(store):
    attach_scalars(store, [GAP], VALUES)
    attach_scalars(store, [SIZE], VALUES)
    attach_scalars(store, [GAP], {"gap": {"s2": 7.0}})
    opened = Store(store)
    assert list(opened.scalars) == ["gap", "size"]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(opened.scalar("gap"))), [2])


def test_batches_carry_values_and_masks(store):
    before = decode_batch([Store(store)], [(0, k) for k in range(4)], cutoff=3.0)
    attach_scalars(store, [GAP, SIZE], VALUES)
    batch = decode_batch([Store(store)], [(0, k) for k in range(4)], cutoff=3.0)
    assert batch.labels["gap"].tolist() == [1.0, 0.0, 0.0, 3.0] and batch.labels["gap"].dtype == torch.float64
    assert batch.label_mask["gap"].tolist() == [True, False, False, True]
    assert "size" not in batch.labels, "nobody in this batch has one"
    assert torch.equal(before.labels["energy"], batch.labels["energy"]) and set(before.labels) == {"energy"}
    assert torch.equal(pack(batch).unpack().labels["gap"], batch.labels["gap"])


def test_stores_with_and_without_a_property_share_a_batch(store, tmp_path):
    with StoreWriter(tmp_path / "b.unipot", name="b", level_of_theory="PBE", labels=("energy",)) as writer:
        writer.add(Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, 1.0]], labels={"energy": 1.0}, id="s0"))
    attach_scalars(store, [GAP], VALUES)
    batch = decode_batch([Store(tmp_path / "b.unipot"), Store(store)], [(0, 0), (1, 3), (1, 1)], cutoff=3.0)
    assert batch.label_mask["gap"].tolist() == [False, True, False]
    assert batch.labels["gap"].tolist() == [0.0, 3.0, 0.0]


def test_stores_of_before_have_no_scalars(tmp_path):
    new = Store(upgrade_store(OLD, tmp_path / "new.unipot"))
    assert new.scalars == {}
    with pytest.raises(KeyError, match="property 'gap' is not there; it has: none"):
        new.scalar("gap")


def test_a_store_of_structures_without_labels(tmp_path):
    with StoreWriter(tmp_path / "c.unipot", name="c", level_of_theory="PBE", labels=()) as writer:
        writer.add(Structure(atomic_numbers=[1], positions=[[0, 0, 0]], id="s0"))
    attach_scalars(tmp_path / "c.unipot", [GAP], VALUES)
    batch = decode_batch([Store(tmp_path / "c.unipot")], [(0, 0)], cutoff=3.0)
    assert list(batch.labels) == ["gap"]


def test_a_local_copy_follows_the_values(store, tmp_path):
    copies = [locally(store, tmp_path / "local")]
    for value in (1.0, 2.0):
        attach_scalars(store, [GAP], {"gap": {"s0": value}})
        copies.append(locally(store, tmp_path / "local"))
    assert len(set(copies)) == 3
    assert Store(copies[2]).scalar("gap")[0] == 2.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"gap": {"other": 1.0}}, "no structure of .* has a value"), ({"gap": {"s2": float("inf")}}, "structure 's2' has an infinite value")],
)
def test_columns_without_sense_are_refused(store, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        attach_scalars(store, [GAP], values)
    assert read_scalars(store) == {}


def test_a_damaged_description_or_column_is_named(store):
    attach_scalars(store, [GAP], VALUES)
    np.save(store / "index" / "scalar_gap.npy", np.zeros(3))
    with pytest.raises(ValueError, match="column of property 'gap' does not fit the 5 structures"):
        Store(store).scalar("gap")
    attach_scalars(store, [GAP], VALUES)
    column = np.load(store / "index" / "scalar_gap.npy")
    np.save(store / "index" / "scalar_gap.npy", column + 1)
    with pytest.raises(ValueError, match="column of property 'gap' does not match the recorded hash"):
        Store(store).scalar("gap")
    described = json.loads((store / "scalars.json").read_text())
    (store / "scalars.json").write_text(json.dumps({"gap": {**described["gap"], "unit": "meV"}}))
    with pytest.raises(ValueError, match=r"scalars\.json is damaged \(the entry 'gap' does not match its own checksum\)"):
        Store(store)
    (store / "scalars.json").write_text(json.dumps({"../gap": {"key": "gap", "unit": "eV", "n": 1}}))
    with pytest.raises(ValueError, match=r"scalars\.json is damaged"):
        Store(store)
    (store / "scalars.json").write_text(json.dumps({"gap": 1}))
    with pytest.raises(ValueError, match=r"scalars\.json is damaged"):
        Store(store)


@pytest.mark.parametrize("named", ["{}", None])
def test_values_that_the_description_does_not_name_are_missed_until_they_are_attached_again(store, named):
    attach_scalars(store, [GAP], VALUES)
    (store / "scalars.json").unlink() if named is None else (store / "scalars.json").write_text(named)
    with pytest.raises(ValueError, match=r"scalars\.json does not name gap, of which there are values"):
        Store(store)
    attach_scalars(store, [GAP], VALUES)
    assert np.isfinite(Store(store).scalar("gap")).any()


def test_a_dataset_states_the_properties_it_relies_on(store):
    attach_scalars(store, [GAP], VALUES)
    common = {"name": "a", "path": str(store), "level_of_theory": "PBE", "labels": ()}
    assert open_dataset(DatasetSpec(**common, scalars=("gap",))).scalars["gap"]["n"] == 2
    with pytest.raises(ValueError, match="no structure in .* has the property 'size'; it has: gap"):
        open_dataset(DatasetSpec(**common, scalars=("size",)))


def write_frames(path, infos):
    frames = [molecule("H2O") for _ in infos]
    for atoms, info in zip(frames, infos, strict=True):
        atoms.info.update(info)
    write(path, frames)
    return path


def test_values_are_read_with_the_ids_of_frames_and_gaps(tmp_path):
    path = write_frames(tmp_path / "a.extxyz", [{"band_gap": 1}, {}, {"band_gap": float("nan")}, {"band_gap": 2.5, "total_charge": 1}])
    found = list(read_scalar_frames(path, [GAP]))
    assert [structure.id for structure, _ in found] == ["a-0", "a-1", "a-2", "a-3"]
    assert [values for _, values in found] == [{"gap": 1.0}, {}, {}, {"gap": 2.5}]
    assert found[3][0].total_charge == 1


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({"band_gap": [1.0, 2.0]}, "frame 0: properties.gap.key 'band_gap' holds 2 numbers, not one number"),
        ({"band_gap": "wide"}, "holds 'wide', not one number"),
        ({"band_gap": float("inf")}, "is infinite"),
        ({"other": 1.0}, r"no frame has a value under the key 'band_gap' \(properties.gap.key\); keys in the file are: other"),
    ],
)
def test_values_that_are_no_scalars_are_refused(tmp_path, info, sentence):
    path = write_frames(tmp_path / "a.extxyz", [info])
    with pytest.raises(ValueError, match=sentence):
        list(read_scalar_frames(path, [GAP]))


def test_a_number_per_atom_is_refused(tmp_path):
    atoms = molecule("H2O")
    atoms.arrays["band_gap"] = np.ones(3)
    write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(ValueError, match="is a number per atom; give one number per structure"):
        list(read_scalar_frames(tmp_path / "a.extxyz", [GAP]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "forces"}, "this name is taken"),
        ({"name": "gap_uncertainty"}, "this name is taken"),
        ({"name": "band-gap"}, "this name is not allowed"),
        ({"key": ""}, "key is empty"),
        ({"unit": ""}, "unit is empty"),
        ({"kind": "tensor"}, "kind is 'tensor'; use one of: intensive, extensive"),
        ({"threshold": -1.0}, "threshold is -1.0; it must be positive"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_what_a_property_may_be(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScalarProperty(**{"name": "gap", "key": "g", "unit": "eV", **change})
