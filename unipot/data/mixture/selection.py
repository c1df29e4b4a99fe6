"""`Selection`: some of the structures of a store, one bit each instead of one integer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipot.errors import InputError

#: 64-bit words to a block; the count of selected structures is kept per block (0.8 % of the bits)
_WORDS = 16
_BITS = 64 * _WORDS
#: structures looked at together when a whole selection is gone through
CHUNK = 2**18


class Selection(Sequence[int]):
    """Positions 0..n−1 of which some are selected; reads like an ascending integer array without holding one.

    500 million structures take 62 MB of bits, which lie in a memory-mapped file where the selection was saved, so that
    processes share them and none loads them. Both sides of a split use the same bits. The k-th selected position is
    found through counts per block (`take`, about 0.1 µs each).

    Args:
        words: (≥ n/64,) uint64, bit k of word w stands for position 64·w + k; None selects everything.
        n: positions.
        inverted: select where the bit is not set.
        file: where `words` are saved, for other processes.

    Example:
        >>> chosen = Selection.from_mask([np.array([True, False, True])], 3)
        >>> chosen.tolist(), chosen.complement().tolist(), len(chosen), chosen[1]
        ([0, 2], [1], 2, 2)
    """

    def __init__(self, words: np.ndarray | None, n: int, *, inverted: bool = False, file: Path | None = None) -> None:
        self.n, self._words, self._inverted, self._file = n, words, inverted, file
        if words is not None:
            self._blocks = words.reshape(-1, _WORDS)
            self._before = self._counts_before()
            self._size = n - int(self._before[-1]) if inverted else int(self._before[-1])
            if inverted:
                self._before = np.arange(len(self._before), dtype=np.int64) * _BITS - self._before

    @classmethod
    def everything(cls, n: int) -> Selection:
        """All of 0..n−1."""
        return cls(None, n)

    @classmethod
    def from_mask(cls, chunks: Iterator[np.ndarray] | Sequence[np.ndarray], n: int) -> Selection:
        """Positions whose entry is True, the masks of consecutive positions given in chunks.

        Args:
            chunks: (m,) bool each, every m but the last a multiple of 64, together n.
            n: positions.
        """
        data = np.zeros(-(-n // _BITS) * _WORDS * 8, dtype=np.uint8)
        start = 0
        for mask in chunks:
            packed = np.packbits(mask, bitorder="little")
            data[start // 8 : start // 8 + len(packed)] = packed
            start += len(mask)
        return cls(data.view("<u8"), n)

    @classmethod
    def from_positions(cls, positions: np.ndarray | Sequence[int], n: int) -> Selection:
        """The given positions, in any order.

        Raises:
            ValueError: one is outside 0..n−1 or given twice.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if len(positions) and not (0 <= positions.min() and positions.max() < n):
            low, high = positions.min(), positions.max()
            raise InputError(f"positions {low} to {high} were chosen out of {n} structures; they must be in 0..{n - 1}")
        words = np.zeros(-(-n // _BITS) * _WORDS, dtype="<u8")
        np.bitwise_or.at(words, positions // 64, np.uint64(1) << (positions % 64).astype(np.uint64))
        chosen = cls(words, n)
        if len(chosen) != len(positions):
            raise InputError(f"{len(positions)} positions were chosen, but only {len(chosen)} different ones; give each structure once")
        return chosen

    @classmethod
    def load(cls, file: Path, n: int) -> Selection:
        """A saved selection, memory-mapped.

        Raises:
            ValueError: the file is damaged or of another number of structures.
        """
        try:
            words = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file}: not a saved selection ({error}); delete it") from error
        if words.dtype != np.dtype("<u8") or words.shape != (-(-n // _BITS) * _WORDS,):
            raise InputError(f"{file}: a saved selection of another size than {n} structures; delete it")
        return cls(np.asarray(words), n, file=file)

    def saved(self, file: Path) -> Selection:
        """The same selection with its bits in a file, memory-mapped; written whole or not at all."""
        if self._words is None or self._inverted:
            return Selection.from_mask((self.mask(k, end) for k, end in self._pieces()), self.n).saved(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.npy")
        np.save(partial, self._words, allow_pickle=False)
        os.replace(partial, file)
        return Selection.load(file, self.n)

    def complement(self) -> Selection:
        """The positions that are not selected, of the same bits."""
        words = np.zeros(-(-self.n // _BITS) * _WORDS, dtype="<u8") if self._words is None else self._words
        return Selection(words, self.n, inverted=self._words is not None and not self._inverted, file=self._file)

    def __and__(self, other: Selection) -> Selection:
        """Positions that both select."""
        return Selection.from_mask((self.mask(k, end) & other.mask(k, end) for k, end in self._pieces()), self.n)

    def __or__(self, other: Selection) -> Selection:
        """Positions that either selects."""
        return Selection.from_mask((self.mask(k, end) | other.mask(k, end) for k, end in self._pieces()), self.n)

    def __len__(self) -> int:
        return self.n if self._words is None else self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            ranks = np.arange(*index.indices(len(self)), dtype=np.int64)
            return self._take_consecutive(ranks) if len(ranks) > _BITS and ranks[1] - ranks[0] == 1 else self.take(ranks)
        index = np.asarray(index)
        if index.dtype == bool:
            if len(index) != len(self):
                raise IndexError(f"a mask of {len(index)} entries was given for {len(self)} selected structures")
            index = np.flatnonzero(index)
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"entry {index.min()}..{index.max()} was asked for, {len(self)} structures are selected")
        index = np.where(index < 0, index + len(self), index).astype(np.int64)
        return int(self.take(index[None])[0]) if index.ndim == 0 else self.take(index)

    def __iter__(self) -> Iterator[int]:
        for positions in self.chunks():
            yield from positions.tolist()

    def __contains__(self, position: object) -> bool:
        return isinstance(position, int | np.integer) and 0 <= position < self.n and bool(self.mask(int(position), int(position) + 1)[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        chunks = list(self.chunks())
        whole = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"Selection({len(self)} of {self.n})"

    def __getstate__(self) -> dict[str, Any]:
        return {"words": None if self._file else self._words, "n": self.n, "inverted": self._inverted, "file": self._file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        words = Selection.load(state["file"], state["n"])._words if state["file"] else state["words"]
        self.__init__(words, state["n"], inverted=state["inverted"], file=state["file"])  # type: ignore[misc]

    def tolist(self) -> list[int]:
        return list(self)

    def take(self, ranks: np.ndarray) -> np.ndarray:
        """The selected positions with the given numbers in ascending order, unchecked.

        Args:
            ranks: (m,) int64 in 0..len−1.

        Returns:
            (m,) int64.
        """
        if self._words is None:
            return np.array(ranks, dtype=np.int64)
        block = self._before.searchsorted(ranks, side="right") - 1
        words = self._blocks[block]  # (m, 16)
        if self._inverted:
            words = ~words
        rows, left = np.arange(len(block)), ranks - self._before[block]
        counts = np.bitwise_count(words)
        upto = counts.cumsum(axis=1, dtype=np.int64)
        word = (upto <= left[:, None]).sum(axis=1)
        left += counts[rows, word] - upto[rows, word]
        bits = np.unpackbits(words[rows, word].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")  # (m, 64)
        return block * _BITS + word * 64 + (bits.cumsum(axis=1, dtype=np.uint8) <= left[:, None]).sum(axis=1)

    def mask(self, start: int, stop: int) -> np.ndarray:
        """(stop − start,) bool, whether each position is selected."""
        if self._words is None:
            return np.ones(stop - start, dtype=bool)
        first = start // 64
        packed = np.ascontiguousarray(self._words[first : -(-stop // 64)]).view(np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[start - 64 * first : stop - 64 * first].view(bool)
        return ~bits if self._inverted else bits

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """The selected positions ascending, (≤ size,) int64 at a time."""
        for start, stop in self._pieces(size):
            yield np.arange(start, stop) if self._words is None else np.flatnonzero(self.mask(start, stop)) + start

    def _pieces(self, size: int = CHUNK) -> Iterator[tuple[int, int]]:
        return ((start, min(start + size, self.n)) for start in range(0, self.n, size))

    def _take_consecutive(self, ranks: np.ndarray) -> np.ndarray:
        """`take` of consecutive ranks; reading all bits in between is several times faster than looking each up."""
        first, last = self.take(ranks[[0, -1]]).tolist()
        return np.flatnonzero(self.mask(first, last + 1)) + first

    def _counts_before(self) -> np.ndarray:
        """(n_blocks + 1,) int64 set bits before each block."""
        step = CHUNK // _BITS * 8
        parts = [np.bitwise_count(self._blocks[k : k + step]).sum(axis=1, dtype=np.int64) for k in range(0, len(self._blocks), step)]
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(parts))] if parts else [np.zeros(1, dtype=np.int64)])
