"""The side of a data set format: converts structures to it and reads batches back, in the package's own environment.

Answers the requests of `data_driver`: `convert` writes the package's format from one extended XYZ file, `open` makes a
loader of shuffled batches, `read` goes through some of them, `quit` ends.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Format(Protocol):
    """One way to store structures and to read model-ready batches."""

    packages: tuple[str, ...]

    def convert(self, source: str, target: Path) -> None:
        """Write the structures of the extended XYZ file `source` below the folder `target`."""

    def open(self, target: Path, cutoff: float | None) -> Any:
        """A reader with `batch(indices)` -> whatever the package hands to its model; without edges when `cutoff` is None."""


class Batches(Dataset[tuple[int, int]]):
    """Item k: batch k, with its number of edges. Opened in the process that reads it."""

    def __init__(self, make: Any, target: Path, cutoff: float | None, batches: list[list[int]]) -> None:
        self.make, self.target, self.cutoff, self.batches = make, target, cutoff, batches
        self.reader: Any = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> tuple[Any, int, int]:
        if self.reader is None:
            self.reader = self.make().open(self.target, self.cutoff)
        indices = self.batches[k]
        batch = self.reader.batch(indices)
        n_edges = self.reader.n_edges(batch)
        # what a package does to a batch on its way from a worker, if anything
        send = getattr(self.reader, "send", _as_is) if torch.utils.data.get_worker_info() else _as_is
        return send(batch), n_edges, len(indices)


class Forever(torch.utils.data.Sampler[int]):
    """0, 1, …, n−1, 0, 1, …"""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from range(self.n)


class DataWorker:
    """Answers requests about the formats of one package.

    Args:
        formats: name -> class.
    """

    def __init__(self, formats: dict[str, type[Format]]) -> None:
        self.formats = formats
        self.readers: dict[str, tuple[Iterator[Any], int, Callable[[Any], Any]]] = {}

    def convert(self, kind: str, source: str, target: str) -> dict[str, Any]:
        """Write, and measure the size on disk."""
        torch.set_num_threads(1)
        from importlib.metadata import version

        folder = Path(target)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        self.formats[kind]().convert(source, folder)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "lock" not in file.suffix)
        return {"seconds": seconds, "bytes": size, "packages": {name: version(name) for name in self.formats[kind].packages}}

    def open(self, key: str, kind: str, target: str, cutoff: float | None, workers: int, n: int, batch_size: int) -> dict[str, Any]:
        """Make the loader called `key`."""
        torch.set_num_threads(1)
        order = np.random.default_rng(0).permutation(n).tolist()
        batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        dataset = Batches(self.formats[kind], Path(target), cutoff, batches)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=Forever(len(batches)),
            num_workers=workers,
            collate_fn=_as_is,
            persistent_workers=workers > 0,
        )
        receive = getattr(self.formats[kind](), "receive", _as_is) if workers else _as_is
        self.readers[key] = (iter(loader), 2 * workers, receive)
        return {"batches": len(batches)}

    def forget(self) -> dict[str, Any]:
        """Close every loader, so that no file stays open."""
        self.readers.clear()
        gc.collect()
        return {}

    def read(self, key: str, steps: int) -> dict[str, Any]:
        """Go through `steps` batches; what workers prepared while others were measured is drawn first, untimed."""
        iterator, prefetched, receive = self.readers[key]
        for _ in range(prefetched):
            next(iterator)
        n_edges, n_structures = 0, 0
        start = time.perf_counter()
        for _ in range(steps):
            item, edges, structures = next(iterator)
            receive(item)
            n_edges += edges
            n_structures += structures
        return {"seconds": time.perf_counter() - start, "structures": n_structures, "edges": n_edges}


def _as_is(item: Any) -> Any:
    return item
