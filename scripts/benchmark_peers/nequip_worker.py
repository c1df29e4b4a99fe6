"""Worker for NequIP: the preset models of `nequip.model.PresetNequIPGNNModel`. Runs in an environment with nequip installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from frames import Arrays
from race import Recipe
from worker import Worker, serve

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 12: "Mg", 14: "Si", 16: "S", 17: "Cl", 28: "Ni", 29: "Cu", 78: "Pt"}


class NequipPeer:
    """A NequIP preset (`model` is its letter), eager mode, float32 weights.

    Positions are float64, as NequIP's own data pipeline hands them over; the model rounds edge vectors to float32.
    """

    packages = ("nequip", "e3nn")
    recipe = Recipe(
        learning_rate=0.01,
        batch_size=5,
        energy_weight=1.0,
        force_weight=1.0,
        ema_decay=0.999,
        clip_norm=None,
        source="nequip configs/tutorial.yaml: Adam 0.01, batch 5, per-atom energy 1 : forces 1 (MSE), EMA 0.999",
    )

    def __init__(self, settings: dict[str, Any]) -> None:
        from nequip.model import PresetNequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        torch.set_num_threads(settings["threads"])
        symbols = [SYMBOLS.get(z, f"Z{z}") for z in settings["elements"]]
        scales = {symbol: settings["force_rms"][str(z)] for symbol, z in zip(symbols, settings["elements"], strict=True)}
        self.module = PresetNequIPGNNModel(
            preset=settings["model"],
            seed=settings["seed"],
            model_dtype="float32",
            type_names=symbols,
            r_max=settings["cutoff"],
            avg_num_neighbors=settings["mean_neighbors"],
            per_type_energy_scales=scales,
            per_type_energy_shifts={symbol: 0.0 for symbol in symbols},
        )
        self._type_of = np.zeros(119, dtype=np.int64)
        self._type_of[settings["elements"]] = np.arange(len(symbols))

    def batch(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        batch = {
            "pos": torch.from_numpy(arrays["positions"]),
            "atom_types": torch.from_numpy(self._type_of[arrays["atomic_numbers"]]),
            "edge_index": torch.from_numpy(arrays["edge_index"]),
            "batch": torch.from_numpy(arrays["structure_index"]),
            "num_atoms": torch.from_numpy(arrays["n_atoms"]),
        }
        if arrays["pbc"].any():
            batch["cell"] = torch.from_numpy(arrays["cell"])
            batch["edge_cell_shift"] = torch.from_numpy(arrays["cell_shifts"].astype(np.float64))
        return batch

    def predict(self, batch: dict[str, torch.Tensor], *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.module(dict(batch))  # the model writes into the dictionary that it is given
        return output["total_energy"].reshape(-1), output["forces"]

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)


if __name__ == "__main__":
    serve(Worker(NequipPeer))
