"""`LmdbFile`: LMDB files read page by page, every number in a page checked before it is followed.

liblmdb trusts what it maps: a damaged page number or a file that is cut short ends the process (SIGSEGV, SIGBUS), and since
version 2 the package `lmdb` opens a file only once in a process and its forked children. Here pages are read, not mapped. Damage
is a `ValueError`, any number of readers may have the same file open, and a reader works in forked processes.

Layout, all little-endian (mdb.c of LMDB 0.9, data version 1, which `lmdb` 0.9 to 3.0 write): pages of equal size; pages 0 and 1
are two versions of the root, the one with the larger transaction counts. A page begins with its number (8 bytes), padding (2),
flags (2) and either the ends of its pointers and nodes (2 + 2) or, for a long value, how many pages it takes (4). A node is size
(4), flags (2), length of the key (2), key, value; in a branch the first three numbers hold the child's page instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from unipot.data.storage.files import descriptor_of
from unipot.errors import InputError

_HEAD = 16  # bytes in front of a page's pointers, and of a long value
_NODE = 8  # bytes in front of a node's key
_PAGE = struct.Struct("<QHHHH")
_LONG = struct.Struct("<QHHI")
#: magic, data version, address, map size; two databases of 48 bytes follow, then the last page and the transaction
_META = struct.Struct("<IIQQ")
#: padding, flags, depth, pages of three kinds, entries, root page
_DATABASE = struct.Struct("<IHHQQQQQ")
_MAGIC, _DATA_VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_KINDS = 15
_LONG_VALUE = 1
_PAGE_SIZES = tuple(1 << power for power in range(9, 17))
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32
#: pages kept in memory; the branches of most files, and the leaf that is read from
_KEPT_PAGES = 64


class LmdbFile:
    """An LMDB file of one database, open for reading; may be read by several threads and after a fork.

    Args:
        file: that holds the database (not a folder).

    Raises:
        ValueError: it is no LMDB file, is cut short, or is damaged.
        OSError: it cannot be read.

    Attributes:
        n_entries: keys in it.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        self._descriptor: int | None = None
        self._pages: dict[int, _Page] = {}
        try:
            self._size = os.fstat(self._open_descriptor()).st_size
            self._page_size = 0
            self._read_roots()
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> LmdbFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    @property
    def is_open(self) -> bool:
        """Whether it holds a file descriptor."""
        return self._descriptor is not None

    def release(self, close: Callable[[int], None] = os.close) -> None:  # named here: `os` may be gone when the process ends
        """Close the file; it is opened again when something is read."""
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            close(descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from byte `offset` of the file.

        Raises:
            ValueError: the file ends before.
            OSError: it cannot be read.
        """
        content = os.pread(self._descriptor if self._descriptor is not None else self._open_descriptor(), size, offset)
        while len(content) < size:  # one call gives at most 2 GiB
            more = os.pread(self._open_descriptor(), size - len(content), offset + len(content))
            if not more:
                raise InputError(f"it has {os.fstat(self._open_descriptor()).st_size} bytes and refers to byte {offset + size}")
            content += more
        return content

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None where there is none.

        Raises:
            ValueError: a page on the way to it is damaged.
        """
        if self._root == _NO_PAGE:
            return None
        page = self._page(self._root, self._depth > 1)
        for level in range(2, self._depth + 1):
            page = self._page(int(page.children[max(page.first_not_below(key, above=True) - 1, 0)]), level < self._depth)
        place = page.first_not_below(key)
        if place == len(page.keys) or page.keys[place] != key:
            return None
        offset, size = self._value_place(page, place)
        return self.read(offset, size)

    def leaves(self) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray]]:
        """Keys in order, and where their values lie: (n,) int64 bytes from the beginning of the file and (n,) int64 sizes.

        Yields:
            One leaf page after the other.

        Raises:
            ValueError: a page is damaged.
        """
        n_entries = 0
        if self._root != _NO_PAGE:
            for leaf in self._leaves_below(self._root, 1, set()):
                n_entries += len(leaf[0])
                yield leaf
        if n_entries != self.n_entries:
            raise InputError(f"its pages hold {n_entries} entries, its first pages say {self.n_entries}")

    def _leaves_below(self, number: int, level: int, seen: set[int]) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray]]:
        if number in seen:  # else a page that refers to itself would be followed 2^31 times
            raise InputError(f"two pages refer to page {number}")
        seen.add(number)
        page = self._page(number, level < self._depth)
        if level < self._depth:
            for child in page.children.tolist():
                yield from self._leaves_below(child, level + 1, seen)
            return
        long = (page.flags & _LONG_VALUE) != 0
        offsets = np.where(long, page.children * self._page_size + _HEAD, number * self._page_size + page.values)
        yield page.keys, offsets, page.sizes

    def _value_place(self, page: _Page, place: int) -> tuple[int, int]:
        """Offset in the file, and size, of a value."""
        size = int(page.sizes[place])
        if not page.flags[place] & _LONG_VALUE:
            return page.number * self._page_size + int(page.values[place]), size
        number = int(page.children[place])
        offset = number * self._page_size
        stated, _, flags, n_pages = _LONG.unpack(self.read(offset, _HEAD))
        if stated != number or flags & _KINDS != _OVERFLOW or n_pages != -(-(_HEAD + size) // self._page_size):
            raise InputError(f"page {number} does not hold the value that page {page.number} refers to")
        return offset + _HEAD, size

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            self._descriptor = descriptor_of(self.file)
        return self._descriptor

    def _read_roots(self) -> None:
        if self._size < 2 * _PAGE_SIZES[0]:
            raise InputError(f"it has {self._size} bytes, too few for an LMDB file")
        first = self._meta(0)
        self._page_size = first[1].padding
        if self._page_size not in _PAGE_SIZES or self._size < 2 * self._page_size:
            raise InputError(f"its page size of {self._page_size} bytes is not possible")
        _, _, database, last_page, _ = max(first, self._meta(self._page_size), key=lambda meta: meta[4])
        self._last_page, self._root, self._depth, self.n_entries = last_page, database.root, database.depth, database.n_entries
        if (last_page + 1) * self._page_size > self._size:
            raise InputError(f"it is cut short: it has {self._size} bytes, its pages take {(last_page + 1) * self._page_size}")
        if database.flags:
            raise InputError("it holds a kind of LMDB database that is not read here (several values of one key, or integer keys)")
        if not (self._root == _NO_PAGE and self.n_entries == 0) and not 1 <= self._depth <= _MAX_DEPTH:
            raise InputError(f"its tree of pages has a depth of {self._depth}")

    def _meta(self, offset: int) -> tuple[int, _Database, _Database, int, int]:
        """Page number, database of free pages, main database, last page and transaction of one of the two roots."""
        content = self.read(offset, _HEAD + _META.size + 2 * _DATABASE.size + 16)
        number, _, flags, _, _ = _PAGE.unpack_from(content)
        magic, version, _, _ = _META.unpack_from(content, _HEAD)
        if magic != _MAGIC or not flags & _IS_META or number != (offset > 0):
            raise InputError("it is not an LMDB file, or its first pages are damaged")
        if version != _DATA_VERSION:
            raise InputError(f"it has version {version} of LMDB's format; {_DATA_VERSION} is read here")
        place = _HEAD + _META.size
        free = _Database(*_DATABASE.unpack_from(content, place))
        main = _Database(*_DATABASE.unpack_from(content, place + _DATABASE.size))
        last_page, transaction = struct.unpack_from("<QQ", content, place + 2 * _DATABASE.size)
        return number, free, main, last_page, transaction

    def _page(self, number: int, is_branch: bool) -> _Page:
        page = self._pages.get(number)
        if page is None or page.is_branch != is_branch:
            if not 2 <= number <= self._last_page:
                raise InputError(f"it refers to page {number}; the last one is {self._last_page}")
            page = _Page(number, self.read(number * self._page_size, self._page_size), is_branch, self._last_page, self._size)
            if len(self._pages) >= _KEPT_PAGES:
                self._pages.pop(next(iter(self._pages)))
            self._pages[number] = page
        return page


class _Database:
    """A database as a root describes it."""

    def __init__(self, *fields: int) -> None:
        self.padding, self.flags, self.depth, _, _, _, self.n_entries, self.root = fields


class _Page:
    """Nodes of a branch or leaf, each inside the page, and what they refer to inside the file.

    Attributes:
        keys: in order.
        children: (n,) page of the child of each node of a branch, of the value of each node of a leaf that has a long one.
        flags, sizes, values: (n,) of each value of a leaf: its flags, its size, and where in the page it begins.
    """

    def __init__(self, number: int, content: bytes, is_branch: bool, last_page: int, file_size: int) -> None:
        self.number, self.is_branch = number, is_branch
        stated, _, flags, lower, upper = _PAGE.unpack_from(content)
        if stated != number or flags & _KINDS != (_BRANCH if is_branch else _LEAF):
            raise InputError(f"page {number} is not the {'branch' if is_branch else 'leaf'} that the tree of pages has there")
        if not (_HEAD <= lower <= upper <= len(content)) or lower % 2:
            raise self._damaged()
        data = np.frombuffer(content, dtype=np.uint8)
        starts = np.frombuffer(content, "<u2", (lower - _HEAD) // 2, _HEAD).astype(np.int64)
        if len(starts) == 0 or starts.min() < upper or starts.max() > len(content) - _NODE or (starts % 2).any():
            raise self._damaged()
        nodes = data[starts[:, None] + np.arange(_NODE)].view("<u2").astype(np.int64)  # (n, 4)
        ends = starts + _NODE + nodes[:, 3]
        self.flags, self.sizes, self.values = nodes[:, 2], nodes[:, 0] | nodes[:, 1] << 16, ends
        self.children = self.sizes | (nodes[:, 2] << 32 if is_branch else 0)
        in_page = 0 if is_branch else np.where(self.flags & _LONG_VALUE, 8, self.sizes)
        if (ends + in_page > len(content)).any():
            raise self._damaged()
        self.keys = [content[a:b] for a, b in zip((starts + _NODE).tolist(), ends.tolist(), strict=True)]
        ordered = self.keys[1:] if is_branch else self.keys  # the first key of a branch stands for everything below the second
        if any(one >= other for one, other in zip(ordered, ordered[1:], strict=False)):
            raise self._damaged()
        if not is_branch:
            self._find_long_values(data, last_page, file_size, len(content))

    def _find_long_values(self, data: np.ndarray, last_page: int, file_size: int, page_size: int) -> None:
        if (self.flags & ~_LONG_VALUE).any():
            raise InputError(f"page {self.number} holds databases within the database, which are not read here")
        long = np.flatnonzero(self.flags)
        self.children = np.zeros(len(self.flags), dtype=np.int64)
        numbers = data[self.values[long][:, None] + np.arange(8)].view("<u8")[:, 0]
        beyond = (numbers < 2) | (numbers > last_page)
        self.children[long] = np.where(beyond, 0, numbers).astype(np.int64)
        ends = self.children[long] * page_size + _HEAD + self.sizes[long]
        if beyond.any() or (ends > file_size).any():
            raise InputError(f"page {self.number} refers to a value that lies outside the file")

    def first_not_below(self, key: bytes, above: bool = False) -> int:
        """Position of the first key that is not smaller, or with `above` of the first that is larger."""
        low, high = (1 if self.is_branch else 0), len(self.keys)
        while low < high:
            middle = (low + high) // 2
            if self.keys[middle] < key or (above and self.keys[middle] == key):
                low = middle + 1
            else:
                high = middle
        return low

    def _damaged(self) -> ValueError:
        return InputError(f"page {self.number} is damaged")
