"""`ShardReader`: the records of one LMDB file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unipot.data.storage.compression import decompressor
from unipot.data.storage.lmdb_file import LmdbFile
from unipot.data.storage.record import HEADER_DTYPE, record_length
from unipot.errors import InputError


class ShardReader:
    """One shard, open for reading; any number of readers, processes and forked processes may read it at once.

    Args:
        file: the LMDB file.
        compression: of its blocks.

    Raises:
        ValueError: the file is not a sound LMDB file of blocks.
        ImportError: the package for the compression is not installed.
    """

    def __init__(self, file: Path, compression: str | None) -> None:
        self.file = file
        self._decompress = decompressor(compression)
        self._compressed = compression is not None
        try:
            self._content = LmdbFile(file)
            self._starts, self._sizes = self._blocks()
        except (ValueError, OSError) as error:
            raise InputError(f"{file.name} cannot be read as blocks of records ({_reason(error)})") from error

    @property
    def is_open(self) -> bool:
        """Whether it holds a file descriptor."""
        return self._content.is_open

    def check(self) -> None:
        """Refuse a file without blocks."""
        if len(self._starts) == 0:
            raise InputError(f"{self.file} holds no records; prepare the store again")

    def close(self) -> None:
        """Give the file back; it is opened again when something is read."""
        self._content.release()

    def records(self, blocks: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]) -> list[memoryview]:
        """The bytes of records by block, offset and length.

        Raises:
            ValueError: a block is missing, damaged or too short.
        """
        if self._compressed:
            return self._inflated(blocks, offsets, lengths)
        blocks, offsets, lengths = (np.asarray(numbers, dtype=np.int64) for numbers in (blocks, offsets, lengths))
        outside = (blocks < 0) | (blocks >= len(self._starts)) | (offsets < 0) | (lengths < 0)
        outside |= offsets + lengths > self._sizes[np.where(outside, 0, blocks)]
        if outside.any():
            block = int(blocks[np.flatnonzero(outside)[0]])
            raise InputError(
                f"block {block} is missing from {self.file.name}"
                if not 0 <= block < len(self._starts)
                else f"block {block} ends inside the record"
            )
        places = (self._starts[blocks] + offsets).tolist()
        try:
            return [memoryview(self._content.read(place, length)) for place, length in zip(places, lengths.tolist(), strict=True)]
        except (ValueError, OSError) as error:
            raise InputError(f"{self.file.name} cannot be read ({_reason(error)})") from error

    def all_records(self) -> Iterator[memoryview]:
        """Every record in order, also those that are not in the index of the store.

        Raises:
            ValueError: a record is damaged.
        """
        for block in range(len(self._starts)):
            content, offset = self._block(block), 0
            while offset < len(content):
                if len(content) - offset < HEADER_DTYPE.itemsize:
                    raise InputError(f"{self.file.name}: block {block} ends inside a record")
                header = np.frombuffer(content, HEADER_DTYPE, 1, offset)[0]
                fields = [int(header[name]) for name in ("n_atoms", "n_id", "n_group", "label_bits", "flags")]
                length = record_length(*fields)
                yield content[offset : offset + length]
                offset += length

    def _inflated(self, blocks: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]) -> list[memoryview]:
        """`records`, each block that follows itself inflated once."""
        found: list[memoryview] = []
        open_block, content = -1, memoryview(b"")
        for block, offset, length in zip(blocks, offsets, lengths, strict=True):
            if block != open_block:
                open_block, content = block, self._block(block)
            record = content[offset : offset + length]
            if len(record) != length:
                raise InputError(f"block {block} ends inside the record")
            found.append(record)
        return found

    def _block(self, block: int) -> memoryview:
        if not 0 <= block < len(self._starts):
            raise InputError(f"block {block} is missing from {self.file.name}")
        try:
            stored = self._content.read(int(self._starts[block]), int(self._sizes[block]))
        except (ValueError, OSError) as error:
            raise InputError(f"{self.file.name} cannot be read ({_reason(error)})") from error
        return memoryview(self._decompress(stored) if self._compressed else stored)

    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each block begins in the file, and its bytes.

        Raises:
            ValueError: a block is missing, or two blocks overlap.
        """
        keys: list[bytes] = []
        places = [np.empty((0, 2), dtype=np.int64)]
        for leaf_keys, starts, sizes in self._content.leaves():
            keys += leaf_keys
            places.append(np.stack([starts, sizes], axis=1))
        if any(len(key) != 8 for key in keys):
            raise InputError("a key is not the number of a block")
        numbers = np.frombuffer(b"".join(keys), dtype=">u8")
        if not np.array_equal(numbers, np.arange(len(keys))):
            raise InputError("the numbers of its blocks do not follow each other")
        starts, sizes = np.concatenate(places).T
        order = np.argsort(starts)
        if (starts[order][1:] < (starts + sizes)[order][:-1]).any():
            raise InputError("two of its blocks overlap")
        return np.ascontiguousarray(starts), np.ascontiguousarray(sizes)


def _reason(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
