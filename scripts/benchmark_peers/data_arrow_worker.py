"""Data worker for Hugging Face `datasets`: flat lists in Arrow, batches by `dataset[indices]`, neighbours by matscipy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_worker import DataWorker
from worker import serve


class Arrow:
    """A memory-mapped `save_to_disk` folder, as a careful user would read it."""

    packages = ("datasets", "pyarrow", "matscipy")

    def convert(self, source: str, target: Path) -> None:
        import datasets

        datasets.disable_progress_bars()
        rows = datasets.Dataset.from_generator(_rows, gen_kwargs={"source": source}, cache_dir=str(target / "cache"))
        rows.save_to_disk(str(target / "real"))
        import shutil

        shutil.rmtree(target / "cache")

    def open(self, target: Path, cutoff: float | None) -> Arrow:
        import datasets

        self.dataset, self.cutoff = datasets.load_from_disk(str(target / "real")).with_format("arrow"), cutoff
        return self

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        table = self.dataset[indices]
        flat = {name: table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in _LISTS}
        n_atoms = np.diff(table.column("atomic_numbers").combine_chunks().offsets.to_numpy())
        positions = flat["positions"].reshape(-1, 3)
        batch = {
            "atomic_numbers": flat["atomic_numbers"],
            "positions": positions.astype(np.float32),
            "forces": flat["forces"].reshape(-1, 3).astype(np.float32),
            "cell": flat["cell"].reshape(-1, 3, 3).astype(np.float32),
            "pbc": flat["pbc"].reshape(-1, 3),
            "stress": flat["stress"].reshape(-1, 3, 3).astype(np.float32),
            "energy": table.column("energy").to_numpy(),
            "structure_index": np.repeat(np.arange(len(n_atoms)), n_atoms),
        }
        if self.cutoff is not None:
            batch |= self._edges(positions, flat["cell"].reshape(-1, 3, 3), batch["pbc"], n_atoms)
        return {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}

    def n_edges(self, batch: dict[str, torch.Tensor]) -> int:
        return batch["edge_index"].shape[1] if "edge_index" in batch else 0

    def _edges(self, positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, n_atoms: np.ndarray) -> dict[str, np.ndarray]:
        from matscipy.neighbours import neighbour_list

        edges, shifts, start = [], [], 0
        for cell, periodic, n in zip(cells, pbc, n_atoms.tolist(), strict=True):
            own = positions[start : start + n]
            box = cell if periodic.all() else np.where(periodic[:, None], cell, np.eye(3) * (np.ptp(own) + 2 * self.cutoff + 1))
            i, j, shift = neighbour_list("ijS", positions=own, cell=box, pbc=periodic, cutoff=self.cutoff)
            edges.append(np.stack([i, j]) + start)
            shifts.append(shift)
            start += n
        return {"edge_index": np.concatenate(edges, axis=1), "cell_shifts": np.concatenate(shifts).astype(np.float32)}


_LISTS = ("atomic_numbers", "positions", "forces", "cell", "pbc", "stress")


def _rows(source: str) -> Iterator[dict[str, Any]]:
    from ase.io import iread

    for atoms in iread(source, index=":"):
        results = atoms.calc.results
        stress = atoms.get_stress(voigt=False) if "stress" in results else np.full((3, 3), np.nan)
        yield {
            "atomic_numbers": atoms.numbers,
            "positions": atoms.positions.ravel(),
            "forces": results["forces"].ravel(),
            "cell": atoms.cell.array.ravel(),
            "pbc": atoms.pbc,
            "stress": np.ravel(stress),
            "energy": float(results["energy"]),
        }


if __name__ == "__main__":
    serve(DataWorker({"arrow": Arrow}))
