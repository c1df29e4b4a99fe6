"""Data worker for fairchem-core: `AseDBDataset` over `.aselmdb`, its graph generation and its collater."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_worker import DataWorker
from worker import serve

_NO_LIMIT = 100000  # neighbours; every package keeps all edges here


class AseLmdb:
    """The format of its present data sets."""

    packages = ("fairchem-core", "ase-db-backends", "ase")
    graph = "nvidia"

    def convert(self, source: str, target: Path) -> None:
        import ase.db
        from ase.io import iread

        with ase.db.connect(str(target / "real.aselmdb")) as database:
            for atoms in iread(source, index=":"):
                database.write(atoms)

    def open(self, target: Path, cutoff: float | None) -> AseLmdb:
        from fairchem.core.datasets import AseDBDataset

        edges = {} if cutoff is None else {"r_edges": True, "radius": cutoff, "max_neigh": _NO_LIMIT, "external_graph_method": self.graph}
        # its batch wants the same labels everywhere, and not every structure has a stress
        graphs = {"r_edges": False, "r_stress": False, **edges}
        self.dataset = AseDBDataset({"src": str(target / "real.aselmdb"), "a2g_args": graphs})
        return self

    def batch(self, indices: list[int]) -> Any:
        from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

        return atomicdata_list_to_batch([self.dataset[i] for i in indices])

    def n_edges(self, batch: Any) -> int:
        return int(batch.edge_index.shape[1])


if __name__ == "__main__":
    serve(DataWorker({"aselmdb": AseLmdb}))
