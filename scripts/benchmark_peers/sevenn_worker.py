"""Worker for SevenNet. Runs in an environment with sevenn installed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from frames import Arrays, edge_vectors
from race import Recipe
from worker import Worker, serve


class SevennPeer:
    """SevenNet with the settings of its preset `base`: l = 2, 32 channels, 3 layers, no parity, `nequip` self-connection."""

    packages = ("sevenn", "e3nn")
    recipe = Recipe(
        learning_rate=0.005,
        batch_size=5,
        energy_weight=1.0,
        force_weight=0.1,
        ema_decay=0.99,
        clip_norm=None,
        source="sevenn presets/base.yaml: Adam 0.005, per-atom energy 1 : forces 0.1 (MSE); EMA 0.99 and batch 5 added here",
    )
    md_path = "SevenNetCalculator"

    def __init__(self, settings: dict[str, Any]) -> None:
        import sevenn._keys as key
        from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
        from sevenn.model_build import build_E3_equivariant_model

        self._key = key
        config = copy.deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
        config |= {key.CUTOFF: settings["cutoff"], key.NODE_FEATURE_MULTIPLICITY: 32, key.LMAX: 2, key.NUM_CONVOLUTION: 3}
        config |= {key.IS_PARITY: False, key.CONV_DENOMINATOR: settings["mean_neighbors"]}
        config |= {key.RADIAL_BASIS: {key.RADIAL_BASIS_NAME: "bessel", "bessel_basis_num": 8}}
        config |= {key.CUTOFF_FUNCTION: {key.CUTOFF_FUNCTION_NAME: "poly_cut", "poly_cut_p_value": 6}}
        elements = settings["elements"]
        config |= {key.NUM_SPECIES: len(elements), key.TYPE_MAP: {z: i for i, z in enumerate(elements)}}
        config |= {key.SHIFT: 0.0, key.SCALE: float(settings["overall_force_rms"])}
        self.module = build_E3_equivariant_model(config)
        self.module.set_is_batch_data(True)

    def batch(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        key = self._key
        return {
            key.ATOMIC_NUMBERS: torch.from_numpy(arrays["atomic_numbers"]),
            key.NODE_FEATURE: torch.from_numpy(arrays["atomic_numbers"]),
            key.EDGE_IDX: torch.from_numpy(arrays["edge_index"]),
            key.EDGE_VEC: torch.from_numpy(edge_vectors(arrays).astype(np.float32)),
            key.BATCH: torch.from_numpy(arrays["structure_index"]),
            key.NUM_ATOMS: torch.from_numpy(arrays["n_atoms"]),
            key.CELL_VOLUME: torch.from_numpy(np.abs(np.linalg.det(arrays["cell"])).astype(np.float32)),
        }

    def predict(self, batch: dict[str, torch.Tensor], *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        # edge vectors are the leaves that the model differentiates: a fresh one each time, or gradients pile up in it
        output = self.module(batch | {self._key.EDGE_VEC: batch[self._key.EDGE_VEC].detach()})
        return output[self._key.PRED_TOTAL_ENERGY].reshape(-1), output[self._key.PRED_FORCE]

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)

    def calculator(self) -> Any:
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(self.module, file_type="model_instance", device="cpu")


if __name__ == "__main__":
    serve(Worker(SevennPeer))
