"""Worker for DPA3 through DeePMD-kit's PyTorch backend. Runs in an environment with deepmd-kit and torch installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from frames import Arrays
from race import Recipe
from worker import Worker, serve

CUTOFF = 6.0  # Å, as the package recommends for DPA3; angles to 4 Å
REPFLOW = {
    "n_dim": 128, "e_dim": 64, "a_dim": 32, "nlayers": 3, "e_rcut": CUTOFF, "e_rcut_smth": 5.3, "e_sel": 1200,
    "a_rcut": 4.0, "a_rcut_smth": 3.5, "a_sel": 300, "axis_neuron": 4, "a_compress_rate": 1, "a_compress_e_rate": 2,
    "a_compress_use_split": True, "update_angle": True, "smooth_edge_update": True, "use_dynamic_sel": True,
    "sel_reduce_factor": 10.0, "use_exp_switch": True, "edge_init_use_dist": True, "fix_stat_std": 0.3,
    "update_style": "res_residual", "update_residual": 0.1, "update_residual_init": "const", "n_multi_edge_message": 1,
}  # fmt: skip


class DeepmdPeer:
    """DPA3 as in deepmd-kit's examples/water/dpa3 (dynamic selection) but with three layers.

    It takes no edges: its own neighbour lists are made once, outside the timing.
    Structures of different size are padded with virtual atoms (type −1), which have no edges.
    """

    packages = ("deepmd-kit",)
    recipe = Recipe(
        learning_rate=0.001,
        batch_size=5,
        energy_weight=0.2,
        force_weight=100.0,
        ema_decay=0.99,
        clip_norm=5.0,
        source="deepmd-kit examples/water/dpa3: Adam 0.001, energy 0.2, forces 100 at the start (MSE), clip 5; EMA 0.99 added here",
    )
    md_path = "deepmd.calculator.DP with a .pt checkpoint"

    def __init__(self, settings: dict[str, Any]) -> None:
        from deepmd.pt.model.model import get_model

        self._parameters = {
            "type_map": [chemical_symbols[z] for z in settings["elements"]],
            "descriptor": {
                "type": "dpa3",
                "repflow": REPFLOW,
                "precision": "float32",
                "activation_function": "silut:10.0",
                "concat_output_tebd": False,
                "use_tebd_bias": False,
                "seed": settings["seed"] + 1,
            },
            "fitting_net": {
                "neuron": [240, 240, 240],
                "resnet_dt": True,
                "precision": "float32",
                "activation_function": "silut:10.0",
                "seed": 1,
            },
        }
        self.module = get_model(self._parameters)
        self._type_of = np.full(119, -1, dtype=np.int64)
        self._type_of[settings["elements"]] = np.arange(len(settings["elements"]))

    def batch(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list

        n_structures, largest = len(arrays["n_atoms"]), int(arrays["n_atoms"].max())
        slot = np.arange(len(arrays["atomic_numbers"])) - np.repeat(np.cumsum(arrays["n_atoms"]) - arrays["n_atoms"], arrays["n_atoms"])
        positions, types = np.zeros((n_structures, largest, 3)), np.full((n_structures, largest), -1, dtype=np.int64)
        positions[arrays["structure_index"], slot] = arrays["positions"]
        types[arrays["structure_index"], slot] = self._type_of[arrays["atomic_numbers"]]
        box = torch.from_numpy(arrays["cell"].reshape(-1, 9)) if arrays["pbc"].any() else None
        lists = extend_input_and_build_neighbor_list(
            torch.from_numpy(positions), torch.from_numpy(types), self.module.get_rcut(), self.module.get_sel(), mixed_types=True, box=box
        )
        names = ("extended_coord", "extended_atype", "mapping", "nlist")
        local = torch.from_numpy(arrays["structure_index"] * largest + slot)
        return dict(zip(names, lists, strict=True)) | {"local": local, "n_slots": torch.tensor(largest)}

    def predict(self, batch: dict[str, torch.Tensor], *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = (batch[name] for name in ("extended_coord", "extended_atype", "nlist", "mapping"))
        output = self.module.forward_lower(*inputs)
        extended, mapping = output["extended_force"], batch["mapping"]
        forces = extended.new_zeros(len(mapping), int(batch["n_slots"]), 3)
        forces = forces.scatter_add(1, mapping.unsqueeze(-1).expand_as(extended), extended)
        return output["energy"].reshape(-1), forces.reshape(-1, 3)[batch["local"]]

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)

    def calculator(self) -> Any:
        from deepmd.calculator import DP
        from deepmd.pt.train.wrapper import ModelWrapper

        wrapper = ModelWrapper(self.module, model_params=self._parameters)
        path = Path(tempfile.mkdtemp()) / "dpa3.pt"
        torch.save({"model": wrapper.state_dict()}, path)
        return DP(model=path)


if __name__ == "__main__":
    serve(Worker(DeepmdPeer))
