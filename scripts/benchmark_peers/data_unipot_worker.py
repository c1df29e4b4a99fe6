"""Data worker for unipot: stores, and the limits that no store can pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from data_worker import DataWorker
from worker import serve

from unipot.batch import AtomBatch
from unipot.data.mixture.packed_batch import PackedBatch, pack
from unipot.data.storage.decode import decode_batch
from unipot.data.store import Store
from unipot.neighbors import batch_neighbor_list


class UnipotStore:
    """`Store`, written by the pipeline behind `unipot prepare`."""

    packages = ("lmdb", "numpy")
    options: dict[str, Any] = {}

    def convert(self, source: str, target: Path) -> None:
        from rich.console import Console

        from unipot.workflows.prepare import prepare
        from unipot.workflows.settings.schema import PrepareConfig

        # the sets in the file have energy zeros of their own, which no composition explains
        quarantine = {"max_energy_residual_spreads": None}
        config = PrepareConfig(
            path=source,
            name="real",
            out=str(target / "real.unipot"),
            level_of_theory="several",
            check_labels=False,
            quarantine=quarantine,
            **self.options,
        )
        prepare(config, Console(quiet=True))

    def open(self, target: Path, cutoff: float | None) -> UnipotStore:
        self.store, self.cutoff = Store(target / "real.unipot"), cutoff
        return self

    def batch(self, indices: list[int]) -> AtomBatch:
        return decode_batch([self.store], [(0, i) for i in indices], cutoff=self.cutoff)

    def n_edges(self, batch: AtomBatch) -> int:
        return batch.n_edges

    def send(self, batch: AtomBatch) -> PackedBatch:
        return pack(batch, shared=True)

    def receive(self, packed: PackedBatch) -> AtomBatch:
        return packed.unpack()


class SinglePrecision(UnipotStore):
    """Positions and forces on disk in float32."""

    options = {"precision": "float32"}


class Compressed(UnipotStore):
    """float32 and zstd."""

    packages = ("lmdb", "numpy", "zstandard")
    options = {"precision": "float32", "compression": "zstd"}


class RawBytes(UnipotStore):
    """Limit: the bytes of the records and nothing else."""

    def batch(self, indices: list[int]) -> int:  # type: ignore[override]
        return len(b"".join(self.store.records(np.array(indices))))

    send = receive = staticmethod(lambda item: item)  # type: ignore[assignment]

    def n_edges(self, batch: int) -> int:  # type: ignore[override]
        return 0


class NeighborsAlone(UnipotStore):
    """Limit: the neighbour lists of batches that lie in memory."""

    def open(self, target: Path, cutoff: float | None) -> NeighborsAlone:
        super().open(target, cutoff)
        self.ready: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}
        return self

    def batch(self, indices: list[int]) -> int:  # type: ignore[override]
        key = tuple(indices)
        if key not in self.ready:
            batch = decode_batch([self.store], [(0, i) for i in indices], cutoff=None)
            self.ready[key] = tuple(
                value.numpy() for value in (batch.positions.double(), batch.cell.double(), batch.pbc, batch.n_atoms_per_structure)
            )
        assert self.cutoff is not None
        return batch_neighbor_list(*self.ready[key], self.cutoff)[0].shape[1]

    send = receive = staticmethod(lambda item: item)  # type: ignore[assignment]

    def n_edges(self, batch: int) -> int:  # type: ignore[override]
        return batch


FORMATS = {"store": UnipotStore, "store-float32": SinglePrecision, "store-zstd": Compressed, "raw": RawBytes, "neighbors": NeighborsAlone}

if __name__ == "__main__":
    serve(DataWorker(FORMATS))
