"""`ShardReader`: the records of one LMDB file, read without copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np

from unipot.data.storage.compression import decompressor
from unipot.data.storage.format import block_key
from unipot.data.storage.record import HEADER_DTYPE, record_length


class ShardReader:
    """One shard, open for reading.

    Args:
        file: the LMDB file.
        compression: of its blocks.

    Raises:
        ValueError: the file is not a sound LMDB file.
        ImportError: the package for the compression is not installed.
    """

    def __init__(self, file: Path, compression: str | None) -> None:
        self.file = file
        self._decompress = decompressor(compression)
        self._compressed = compression is not None
        try:
            self._environment = lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=1)
            # one transaction for good: the file never changes, and what it hands out stays valid
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as error:
            raise ValueError(f"{file.name} is damaged ({error})") from error

    def check(self) -> None:
        """Refuse a file without blocks."""
        if self._environment.stat()["entries"] == 0:
            raise ValueError(f"{self.file} holds no records; prepare the store again")

    def close(self) -> None:
        """What was handed out must not be read any more."""
        self._transaction.abort()
        self._environment.close()

    def records(self, blocks: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]) -> list[memoryview]:
        """The bytes of records by block, offset and length.

        Raises:
            ValueError: a block is missing, damaged or too short.
        """
        found: list[memoryview] = []
        open_block, content = -1, memoryview(b"")
        for block, offset, length in zip(blocks, offsets, lengths, strict=True):
            if block != open_block or not self._compressed:
                open_block, content = block, self._block(block)
            record = content[offset : offset + length]
            if len(record) != length:
                raise ValueError(f"block {block} ends inside the record")
            found.append(record)
        return found

    def all_records(self) -> Iterator[memoryview]:
        """Every record in order, also those that are not in the index of the store.

        Raises:
            ValueError: a record is damaged.
        """
        for block in range(self._environment.stat()["entries"]):
            content, offset = self._block(block), 0
            while offset < len(content):
                if len(content) - offset < HEADER_DTYPE.itemsize:
                    raise ValueError(f"{self.file.name}: block {block} ends inside a record")
                header = np.frombuffer(content, HEADER_DTYPE, 1, offset)[0]
                fields = [int(header[name]) for name in ("n_atoms", "n_id", "n_group", "label_bits", "flags")]
                length = record_length(*fields)
                yield content[offset : offset + length]
                offset += length

    def _block(self, block: int) -> memoryview:
        try:
            stored = self._transaction.get(block_key(block))
        except lmdb.Error as error:
            raise ValueError(f"{self.file.name} is damaged ({error})") from error
        if stored is None:
            raise ValueError(f"block {block} is missing from {self.file.name}")
        if not self._compressed:
            return stored
        try:
            return memoryview(self._decompress(stored))
        except Exception as error:  # zstandard's own error class, known only where it is installed
            raise ValueError(f"block {block} cannot be inflated ({error})") from error
