"""Legacy LMDB files of PyTorch Geometric graphs (OC20, OC22, AdsMT): their fields, without unpickling anything.

Each value is a serialised `torch_geometric.data.Data`. The stream is read as inert data (`pickle_streams`), and tensors and
numpy arrays are put together here from the bytes in it; neither PyTorch Geometric nor torch is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unipot.data.readers.pickle_streams import Call, PersistentId, Symbol, read_stream
from unipot.data.storage.lmdb_file import LmdbFile
from unipot.errors import InputError

_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_STORAGE_BYTES = "torch.storage._load_from_bytes"
_LONGEST_KEY = 19  # digits of a 64-bit number
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NUMPY_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NUMPY_BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def graph_records(file: Path) -> Iterator[tuple[str, bytes]]:
    """Key and serialised graph of each record, in order of the integer keys; `length` and other words are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no LMDB file, or is cut short.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; unpack the archive of the card there")
    try:
        content = LmdbFile(file)
        keys = [key for leaf, _, _ in content.leaves() for key in leaf if key.isdigit() and len(key) <= _LONGEST_KEY]
    except (ValueError, OSError) as error:
        raise InputError(f"{file} is not a readable LMDB file ({error}); fetch it again") from error
    with content:
        for key in sorted(keys, key=int):
            try:
                record = content.get(key)
            except (ValueError, OSError) as error:
                raise InputError(f"{file}: record {key.decode()} cannot be read ({error}); fetch the file again") from error
            if record is not None:
                yield key.decode(), record


def graph_fields(record: bytes) -> dict[str, Any]:
    """The fields of one serialised graph: arrays, numbers and texts; what else it holds is left out.

    Raises:
        ValueError: the bytes are not a serialised graph, or a tensor in it is inconsistent.
    """
    graph, _ = read_stream(record)
    state = graph.state if isinstance(graph, Call) else None
    if not isinstance(state, dict):
        raise InputError("the record is no serialised graph")
    store = state.get("_store")  # PyTorch Geometric 2; version 1 has the fields in the state itself
    if isinstance(store, Call):
        state = store.state.get("_mapping") if isinstance(store.state, dict) else None
    if not isinstance(state, Mapping):
        raise InputError("the record is no serialised graph")
    fields = {str(name): _value(value) for name, value in state.items()}
    return {name: value for name, value in fields.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return list(value) if all(isinstance(item, bool | int | float | str) for item in value) else None
    if not isinstance(value, Call):
        return None
    function = _name(value)
    try:
        if function in _TENSORS:
            return _tensor(*value.arguments[:4])
        if function in _NUMPY_ARRAYS:
            _, shape, dtype, fortran, data = value.state
            return _numpy_array(data, dtype, shape, "F" if fortran else "C")
        if function in _NUMPY_BUFFERS:
            return _numpy_array(*value.arguments)
        if function in _NUMPY_SCALARS:
            return np.frombuffer(_bytes(value.arguments[1]), _numpy_dtype(value.arguments[0]))[0].item()
    except (TypeError, IndexError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise InputError(f"a tensor or array of the record cannot be read ({error})") from error
    return None


def _name(call: Call) -> str:
    """What would be called, where that is a plain name."""
    return str(call.function) if isinstance(call.function, Symbol) else ""


def _tensor(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    values = _storage(storage)
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise InputError("shape and strides do not fit")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, values.dtype)
    if last >= len(values) or math.prod(shape) > len(values):
        raise InputError("it reaches beyond its storage")
    byte_strides = tuple(stride * values.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, byte_strides, writeable=False).copy()


def _storage(storage: Any) -> np.ndarray:
    """Numbers of a storage saved within a stream: four streams, the list of keys, then length and bytes of each storage."""
    if not isinstance(storage, Call) or _name(storage) != _STORAGE_BYTES:
        raise InputError("its storage is of an unknown form")
    data = _bytes(storage.arguments[0])
    magic, position = read_stream(data)
    if magic != _LEGACY_MAGIC:
        raise InputError("its storage does not begin with torch's number")
    _, position = read_stream(data, position)  # version of the form
    system, position = read_stream(data, position)
    root, position = read_stream(data, position)
    keys, position = read_stream(data, position)
    if not isinstance(root, PersistentId) or not isinstance(system, dict) or not system.get("little_endian", True) or len(keys) != 1:
        raise InputError("its storage is of an unknown form")
    _, kind, _, _, n_values = root.value[:5]
    if not isinstance(kind, Symbol) or kind.name not in _STORAGES:
        raise InputError("its storage has a type that is not read")
    dtype = np.dtype(_STORAGES[kind.name])
    if int.from_bytes(data[position : position + 8], "little") != n_values:
        raise InputError("its storage does not have the stated length")
    return np.frombuffer(data, dtype, count=n_values, offset=position + 8)


def _bytes(value: Any) -> bytes:
    """Bytes, also where an old protocol wrote them as text to be encoded."""
    if isinstance(value, Call) and _name(value) == "_codecs.encode":
        return value.arguments[0].encode("latin1")
    return value


def _numpy_array(data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(_bytes(data), _numpy_dtype(dtype)).reshape(shape, order="F" if order == "F" else "C").copy()


def _numpy_dtype(value: Any) -> np.dtype:
    """`numpy.dtype('f8', ...)` with a state whose second item is the byte order."""
    if not isinstance(value, Call) or _name(value) != "numpy.dtype" or value.arguments[0][0] not in "fiub":
        raise InputError("its type is not a number")
    order = value.state[1] if isinstance(value.state, tuple) else "<"
    return np.dtype(value.arguments[0]).newbyteorder(order if order in "<>" else "=")
