"""Serialised graphs read as inert data: values equal those that were written, nothing in a stream is imported or called."""

import pickle
import random
import sys
import types

import lmdb
import numpy as np
import pytest
import torch

from unipot.data.readers.adsmt import read_gmae
from unipot.data.readers.graph_lmdb import graph_fields, graph_records
from unipot.data.readers.pickle_streams import Call, Symbol, read_stream
from unipot.structure import Structure

FIELDS = {
    "pos": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
    "cell": 5 * torch.eye(3)[None],
    "tags": torch.tensor([0, 1, 2, 2]),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "piece": torch.arange(10.0)[3:5],
    "flags": torch.tensor([True, False]),
    "half": torch.ones(2, dtype=torch.float16),
    "double": torch.tensor([1.5], dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "array": np.arange(6).reshape(2, 3),
    "scalar": np.float64(3.25),
    "number": -1.5,
    "text": "CO",
}


@pytest.fixture
def graph_class(monkeypatch):
    """Classes of the names that PyTorch Geometric 2 writes."""

    class Data:
        pass

    class GlobalStorage:
        pass

    for cls, module in ((Data, "torch_geometric.data.data"), (GlobalStorage, "torch_geometric.data.storage")):
        cls.__module__, cls.__qualname__ = module, cls.__name__
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        setattr(sys.modules[module], cls.__name__, cls)
    for package in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))

    def make(fields, version=2):
        data = Data()
        if version == 1:
            data.__dict__.update(fields)
        else:
            data._store = GlobalStorage()
            data._store.__dict__.update(_mapping=dict(fields), _parent=data)
        return data

    return make


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_fields_equal_what_was_written(graph_class, version, protocol):
    read = graph_fields(pickle.dumps(graph_class(FIELDS, version), protocol=protocol))
    for name, expected in FIELDS.items():
        expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
        np.testing.assert_array_equal(read[name], expected)
    assert read["tags"].dtype == np.int64 and read["pos"].dtype == np.float32 and read["flags"].dtype == bool


class _Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.file),)


def test_a_hostile_stream_is_not_executed(graph_class, tmp_path):
    target = tmp_path / "made"
    stream = pickle.dumps(graph_class({**FIELDS, "evil": _Hostile(target)}))
    read = graph_fields(stream)
    assert "evil" not in read and "pos" in read and not target.exists()
    pickle.loads(stream)  # the same stream does harm when it is unpickled
    assert target.exists()


def test_a_hostile_stream_instead_of_a_graph_is_refused(tmp_path):
    stream = pickle.dumps(_Hostile(tmp_path / "made"))
    with pytest.raises(ValueError, match="no serialised graph"):
        graph_fields(stream)
    assert not (tmp_path / "made").exists()


def test_calls_are_written_down(tmp_path):
    call, end = read_stream(stream := pickle.dumps(_Hostile("x"), protocol=4))
    assert isinstance(call, Call) and isinstance(call.function, Symbol) and call.function.name == "mkdir"
    assert call.arguments == ("x",) and end == len(stream)


def test_damaged_streams_are_refused(graph_class):
    stream, draw = pickle.dumps(graph_class(FIELDS)), random.Random(0)
    for _ in range(500):
        damaged = bytearray(stream)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            graph_fields(bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.3 else damaged))
        except ValueError:
            pass  # nothing else may come out


def test_tensor_that_reaches_beyond_its_storage_is_refused(graph_class):
    from torch._utils import _rebuild_tensor_v2

    class Beyond:
        def __reduce__(self):
            return _rebuild_tensor_v2, (torch.zeros(2)._typed_storage(), 1, (4,), (1,), False, {})

    with pytest.raises(ValueError, match="beyond its storage"):
        graph_fields(pickle.dumps(graph_class({"pos": Beyond()})))


def _write(file, records):
    with lmdb.open(str(file), subdir=False, map_size=1 << 22, lock=False) as environment, environment.begin(write=True) as transaction:
        for key, record in records.items():
            transaction.put(key.encode(), record)
    return file


def test_records_come_in_order_of_their_number(tmp_path):
    file = _write(tmp_path / "data.lmdb", {str(k): bytes([k]) for k in range(12)} | {"length": b"x"})
    assert [key for key, _ in graph_records(file)] == [str(k) for k in range(12)]


def test_file_that_is_cut_short_is_refused(tmp_path):
    file = _write(tmp_path / "data.lmdb", {str(k): bytes(3000) for k in range(12)})
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ValueError, match="cut short"):
        list(graph_records(file))
    (tmp_path / "page.lmdb").write_text("<html>" * 2000)
    with pytest.raises(ValueError, match="not a readable LMDB file"):
        list(graph_records(tmp_path / "page.lmdb"))


def test_gmae_records_that_cannot_be_used_are_counted(graph_class, tmp_path):
    good = {"gmae_pos": FIELDS["pos"], "gmae_atom_numb": torch.tensor([29.0, 29, 8, 1]), "gmae_tags": FIELDS["tags"]}
    good |= {"cell": FIELDS["cell"], "y_relaxed": -1.5}
    records = [good, {**good, "y_relaxed": None}, {**good, "gmae_tags": torch.tensor([1])}, {"pos": FIELDS["pos"]}]
    streams = {str(k): pickle.dumps(graph_class(fields)) for k, fields in enumerate(records)} | {"4": b"junk"}
    _write(tmp_path / "data.lmdb", streams)
    first, *others = read_gmae(tmp_path, "data.lmdb", "GMAE")
    assert isinstance(first, Structure) and first.group == "Cu1" and float(first.labels["energy"]) == -1.5
    assert [(item.where, item.invalid) for item in others] == [("GMAE-1", True), ("GMAE-2", True), ("GMAE-3", False), ("GMAE-4", True)]


def test_a_name_that_doubles_itself_is_refused():
    # 2 (duplicate the top) and \x86 (pair the two): a tuple whose text doubles with every two bytes
    stream = b"\x80\x04" + b"\x8c\x01a" + b"2\x86" * 40 + b"\x8c\x01b" + b"\x93."
    with pytest.raises(ValueError, match="a name in the stream is no text"):
        read_stream(stream)
