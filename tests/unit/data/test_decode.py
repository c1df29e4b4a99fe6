"""`decode_batch` gives what `collate` gives, without structures in between."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unipot.batch import AtomBatch, collate
from unipot.data.storage.decode import decode_batch
from unipot.data.store import Store


def assert_bitwise(a: AtomBatch, b: AtomBatch) -> None:
    for field in fields(AtomBatch):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, dict):
            assert list(mine) == list(other), field.name
            assert all(mine[k].dtype == other[k].dtype and torch.equal(mine[k], other[k]) for k in mine), field.name
        elif isinstance(mine, torch.Tensor):
            assert mine.dtype == other.dtype and torch.equal(mine, other), field.name
        else:
            assert mine == other, field.name


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One store in each precision and one that is compressed, with every mix of labels, frozen atoms and periodicity."""
    from unipot.data.store import StoreWriter
    from unipot.structure import Structure

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("stores")
    structures = []
    for k in range(40):
        n_atoms = int(rng.integers(1, 12))
        labels = {"energy": np.array(rng.normal() * 1e5)} if k % 4 else {}
        labels |= {"forces": rng.normal(size=(n_atoms, 3))} if k % 3 else {}
        labels |= {"stress": np.diag(rng.normal(size=3))} if k % 2 else {}
        structures.append(
            Structure(
                atomic_numbers=rng.integers(1, 90, n_atoms),
                positions=9 * rng.random((n_atoms, 3)),
                cell=np.eye(3) * 9.0 * (k % 2),
                pbc=k % 2 == 1,
                fixed=np.arange(n_atoms) % 2 == 1 if k % 5 == 0 else None,
                total_charge=float(k % 3 - 1),
                spin_multiplicity=k % 4 or None,
                labels=labels,
                id=f"ü{k}",
                group="g" * (k % 7),
            )
        )
    opened = []
    for name, options in {"a": {}, "b": {"precision": "float32"}, "c": {"compression": "zstd"}}.items():
        with StoreWriter(
            folder / f"{name}.unipot", name=name, level_of_theory="x", labels=("energy", "forces", "stress"), **options
        ) as writer:
            writer.extend(structures)
        opened.append(Store(folder / f"{name}.unipot"))
    return opened


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=20), double=st.booleans())
def test_any_mixture_of_stores_decodes_as_collate_collates(stores, draws, double):
    dtype = torch.float64 if double else torch.float32
    heads, datasets = [d for d, _ in draws], [2 - d for d, _ in draws]
    mine = decode_batch(stores, draws, cutoff=4.0, head_index=heads, dataset_index=datasets, dtype=dtype)
    structures = [stores[d][i] for d, i in draws]
    assert_bitwise(mine, collate(structures, cutoff=4.0, head_index=heads, dataset_index=datasets, dtype=dtype))


def test_a_batch_without_edges_has_everything_else(stores):
    draws = [(0, 3), (1, 4)]
    bare, full = decode_batch(stores, draws, cutoff=None), decode_batch(stores, draws, cutoff=4.0)
    assert bare.n_edges == 0 < full.n_edges and bare.cutoff == 0.0
    assert torch.equal(bare.positions, full.positions) and bare.ids == full.ids


def test_no_draws_are_refused(stores):
    with pytest.raises(ValueError, match="at least one structure"):
        decode_batch(stores, [], cutoff=4.0)


def test_an_index_of_the_wrong_length_is_refused(stores):
    with pytest.raises(ValueError, match="head_index has 1 entries for 2 structures"):
        decode_batch(stores, [(0, 0), (0, 1)], cutoff=4.0, head_index=[0])


def test_a_damaged_record_is_named_with_shard_and_id(stores, tmp_path):
    import shutil

    path = tmp_path / "damaged.unipot"
    shutil.copytree(stores[0].path, path)
    data = path / "shards" / "00000.mdb"
    content = bytearray(data.read_bytes())
    position = content.index(bytes(stores[0].record(7)))
    content[position : position + 2] = b"\xff\xff"  # number of atoms
    data.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"damaged\.unipot, shard 00000.mdb, structure 7 \('ü7'"):
        decode_batch([Store(path)], [(0, 6), (0, 7)], cutoff=None)
