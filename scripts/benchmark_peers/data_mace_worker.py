"""Data worker for MACE: its HDF5 and LMDB data sets, with `AtomicData`, its neighbour lists (always made) and its collater."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_worker import DataWorker
from worker import serve


class Hdf5:
    """What `mace_prepare_data` writes and `HDF5Dataset` reads."""

    packages = ("mace-torch", "h5py", "ase", "matscipy")

    def convert(self, source: str, target: Path) -> None:
        import h5py
        from ase.io import iread
        from mace.data.utils import KeySpecification, config_from_atoms, save_configurations_as_HDF5

        keys = KeySpecification(info_keys={"energy": "energy", "stress": "stress"}, arrays_keys={"forces": "forces"})
        configurations = []
        for atoms in iread(source, index=":"):
            results = atoms.calc.results
            atoms.info |= {name: results[name] for name in ("energy", "stress") if name in results}
            if "forces" in results:
                atoms.arrays["forces"] = results["forces"]
            configurations.append(config_from_atoms(atoms, key_specification=keys))
        with h5py.File(target / "real.h5", "w") as file:
            save_configurations_as_HDF5(configurations, 0, file)

    def open(self, target: Path, cutoff: float | None) -> Hdf5:
        from mace.data.hdf5_dataset import HDF5Dataset

        self.dataset = HDF5Dataset(str(target / "real.h5"), r_max=cutoff, z_table=_all_elements())
        return self

    def batch(self, indices: list[int]) -> Any:
        from mace.tools.torch_geometric.batch import Batch

        return Batch.from_data_list([self.dataset[i] for i in indices])

    def n_edges(self, batch: Any) -> int:
        return int(batch.edge_index.shape[1])


class Lmdb(Hdf5):
    """`LMDBDataset`, which reads `.aselmdb` files."""

    packages = ("mace-torch", "lmdb", "ase", "matscipy")

    def convert(self, source: str, target: Path) -> None:
        from ase.io import iread
        from mace.tools.fairchem_dataset.lmdb_dataset_tools import LMDBDatabase

        database = LMDBDatabase(str(target / "real.aselmdb"))
        for atoms in iread(source, index=":"):
            database.write(atoms)
        database.close()

    def open(self, target: Path, cutoff: float | None) -> Lmdb:
        from mace.data.lmdb_dataset import LMDBDataset

        self.dataset = LMDBDataset(str(target / "real.aselmdb"), r_max=cutoff, z_table=_all_elements())
        return self


def _all_elements() -> Any:
    from mace.tools.utils import AtomicNumberTable

    return AtomicNumberTable(list(range(1, 119)))


if __name__ == "__main__":
    serve(DataWorker({"hdf5": Hdf5, "lmdb": Lmdb}))
