"""Worker for TensorNet of matgl. Runs in an environment with matgl installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from frames import Arrays
from race import Recipe
from worker import Worker, serve


class MatglPeer:
    """TensorNet with matgl's defaults (64 units, 2 blocks), extensive, as a matgl `Potential` without stress."""

    packages = ("matgl", "torch-geometric")
    recipe = Recipe(
        learning_rate=0.001,
        batch_size=5,
        energy_weight=1.0,
        force_weight=1.0,
        ema_decay=0.99,
        clip_norm=None,
        source="matgl PotentialLightningModule: Adam 0.001, per-atom energy 1 : forces 1 (MSE); EMA 0.99 and batch 5 added here",
    )
    md_path = "PESCalculator"

    def __init__(self, settings: dict[str, Any]) -> None:
        from matgl.apps.pes import Potential
        from matgl.models import TensorNet

        symbols = tuple(chemical_symbols[z] for z in settings["elements"])
        network = TensorNet(element_types=symbols, units=64, nblocks=2, cutoff=settings["cutoff"], is_intensive=False)
        self.module = Potential(network, data_std=float(settings["overall_force_rms"]), calc_stresses=False)
        self._type_of = np.zeros(119, dtype=np.int64)
        self._type_of[settings["elements"]] = np.arange(len(symbols))

    def batch(self, arrays: Arrays) -> tuple[Any, torch.Tensor]:
        from torch_geometric.data import Batch

        # a molecule without a cell has Cartesian coordinates and a unit cell, as in matgl's own converter
        cell = np.where(arrays["pbc"].any(axis=1)[:, None, None], arrays["cell"], np.eye(3))
        fractional = np.einsum("na,nab->nb", arrays["positions"], np.linalg.inv(cell)[arrays["structure_index"]])
        graph = Batch(
            num_nodes=len(arrays["atomic_numbers"]),
            node_type=torch.from_numpy(self._type_of[arrays["atomic_numbers"]]),
            edge_index=torch.from_numpy(arrays["edge_index"]),
            frac_coords=torch.from_numpy(fractional.astype(np.float32)),
            pbc_offset=torch.from_numpy(arrays["cell_shifts"].astype(np.float32)),
            batch=torch.from_numpy(arrays["structure_index"]),
            ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(arrays["n_atoms"])])),
        )
        return graph, torch.from_numpy(cell.astype(np.float32))

    def predict(self, batch: tuple[Any, torch.Tensor], *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        graph, cell = batch
        energy, forces, *_ = self.module(graph, cell)
        return energy.reshape(-1), forces

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)

    def calculator(self) -> Any:
        from matgl.ext.ase import PESCalculator

        self.module.eval()
        return PESCalculator(self.module, stress_unit="eV/A3")


if __name__ == "__main__":
    serve(Worker(MatglPeer))
