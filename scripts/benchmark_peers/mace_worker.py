"""Worker for MACE: `ScaleShiftMACE` with the defaults of `mace_run_train`. Runs in an environment with mace-torch installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from frames import Arrays
from race import Recipe
from worker import Worker, serve


class MacePeer:
    """MACE with two interactions, correlation 3, l ≤ 3 on the edges; `model` gives the hidden irreps, such as `64x0e`."""

    packages = ("mace-torch", "e3nn")
    recipe = Recipe(
        learning_rate=0.01,
        batch_size=5,
        energy_weight=1.0,
        force_weight=100.0,
        ema_decay=0.99,
        clip_norm=10.0,
        source="mace_run_train: AMSGrad 0.01, weight decay 5e-7, clip 10, EMA 0.99, per-atom energy 1 : forces 100 (MSE); batch 5",
    )

    md_path = "MACECalculator"

    def __init__(self, settings: dict[str, Any]) -> None:
        # e3nn 0.4.4, which mace-torch pins, loads its constants through torch.load and needs `slice` to be allowed first
        torch.serialization.add_safe_globals([slice])
        from e3nn import o3
        from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE

        torch.set_default_dtype(torch.float32)
        elements = settings["elements"]
        rms = float(np.sqrt(np.mean(np.square(list(settings["force_rms"].values())))))
        self.module = ScaleShiftMACE(
            atomic_inter_scale=settings.get("overall_force_rms", rms),
            atomic_inter_shift=0.0,
            r_max=settings["cutoff"],
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=RealAgnosticResidualInteractionBlock,
            interaction_cls_first=RealAgnosticResidualInteractionBlock,
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(settings["model"]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros((1, len(elements))),
            avg_num_neighbors=settings["mean_neighbors"],
            atomic_numbers=elements,
            correlation=3,
            gate=torch.nn.functional.silu,
            use_reduced_cg=False,
        )
        self._type_of = np.zeros(119, dtype=np.int64)
        self._type_of[elements] = np.arange(len(elements))
        self._one_hot = torch.eye(len(elements))

    def batch(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        cell_of_edge = arrays["cell"][np.repeat(np.arange(len(arrays["n_edges"])), arrays["n_edges"])]
        shifts = np.einsum("ei,eij->ej", arrays["cell_shifts"], cell_of_edge)
        return {
            "positions": torch.from_numpy(arrays["positions"].astype(np.float32)),
            "node_attrs": self._one_hot[torch.from_numpy(self._type_of[arrays["atomic_numbers"]])],
            "edge_index": torch.from_numpy(arrays["edge_index"]),
            "shifts": torch.from_numpy(shifts.astype(np.float32)),
            "unit_shifts": torch.from_numpy(arrays["cell_shifts"].astype(np.float32)),
            "cell": torch.from_numpy(arrays["cell"].reshape(-1, 3).astype(np.float32)),
            "batch": torch.from_numpy(arrays["structure_index"]),
            "ptr": torch.from_numpy(np.concatenate([[0], np.cumsum(arrays["n_atoms"])])),
        }

    def predict(self, batch: dict[str, torch.Tensor], *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.module(dict(batch), training=training, compute_force=True)
        return output["energy"], output["forces"]

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        decayed, rest = [], []
        for name, parameter in self.module.named_parameters():
            decays = name.startswith("products") or "linear.weight" in name or "skip_tp_full.weight" in name
            (decayed if decays and not name.startswith(("node_embedding", "readouts")) else rest).append(parameter)
        groups = [{"params": decayed, "weight_decay": 5e-7}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.Adam(groups, lr=learning_rate, amsgrad=True, fused=True)

    def calculator(self) -> Any:
        from mace.calculators import MACECalculator

        return MACECalculator(models=[self.module], device="cpu", default_dtype="float32")


if __name__ == "__main__":
    serve(Worker(MacePeer))
