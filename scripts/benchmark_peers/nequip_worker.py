"""Worker for NequIP and Allegro. Runs in an environment with nequip and, for Allegro, nequip-allegro installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from frames import Arrays
from race import Recipe
from worker import Worker, serve

#: model -> arguments of `NequIPGNNModel`; `S` is a preset of the package
SIZES = {
    "l1-32x4": {"num_layers": 4, "l_max": 1, "num_features": 32},
    "l2-64x3": {"num_layers": 3, "l_max": 2, "num_features": 64, "parity": False, "type_embed_num_features": 32},
}
#: allegro configs/tutorial.yaml with l = 2
ALLEGRO = {
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 64,
    "num_tensor_features": 32,
    "readout_mlp_hidden_layers_width": 64,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
}


class NequipPeer:
    """A NequIP preset, another size of it, or Allegro; eager, or in the mode `compile` of its training and with a package of
    AOTInductor as its calculator; float32 weights.

    Positions are float64, as NequIP's own data pipeline hands them over; the model rounds edge vectors to float32.
    """

    recipe = Recipe(
        learning_rate=0.01,
        batch_size=5,
        energy_weight=1.0,
        force_weight=1.0,
        ema_decay=0.999,
        clip_norm=None,
        source="nequip configs/tutorial.yaml: Adam 0.01, batch 5, per-atom energy 1 : forces 1 (MSE), EMA 0.999",
    )
    md_path = "NequIPCalculator, eager"

    def __init__(self, settings: dict[str, Any]) -> None:
        from nequip.utils.global_state import set_global_state

        set_global_state()
        torch.set_num_threads(settings["threads"])
        self._symbols = [chemical_symbols[z] for z in settings["elements"]]
        self._cutoff = settings["cutoff"]
        scales = {symbol: settings["force_rms"][str(z)] for symbol, z in zip(self._symbols, settings["elements"], strict=True)}
        shared = {
            "seed": settings["seed"],
            "model_dtype": "float32",
            "type_names": self._symbols,
            "r_max": settings["cutoff"],
            "avg_num_neighbors": settings["mean_neighbors"],
            "per_type_energy_scales": scales,
            "per_type_energy_shifts": dict.fromkeys(self._symbols, 0.0),
        }
        self._eager, self._folder = (lambda: _build(settings["model"], shared)), None
        if settings.get("compiled"):
            self.module = _build(settings["model"], {**shared, "compile_mode": "compile"})
            self._folder = TemporaryDirectory()
            self.md_path = "NequIPCalculator, compiled by AOTInductor"
        else:
            self.module = self._eager()
        self.packages = ("nequip", "e3nn")
        if settings["model"].startswith("allegro"):
            self.packages = ("nequip", "nequip-allegro", "e3nn")
            source = "allegro configs/tutorial.yaml: Adam 0.001, per-atom energy 1 : forces 1 (MSE), EMA 0.999; batch 5 instead of 1"
            self.recipe = replace(self.recipe, learning_rate=0.001, source=source)
        self._type_of = np.zeros(119, dtype=np.int64)
        self._type_of[settings["elements"]] = np.arange(len(self._symbols))

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

    def calculator(self) -> Any:
        from nequip.integrations.ase import NequIPCalculator
        from nequip.integrations.utils import basic_transforms

        self.module.eval()
        transforms = basic_transforms({}, self._cutoff, self._symbols, {s: s for s in self._symbols})
        model = self.module if self._folder is None else self._packaged(transforms, Path(self._folder.name) / "model.nequip.pt2")
        return NequIPCalculator(model, device="cpu", transforms=transforms)

    def _packaged(self, transforms: list[Any], path: Path) -> torch.nn.Module:
        """What `nequip-compile --mode aotinductor --target ase` makes of the model."""
        from nequip.data import AtomicDataDict, from_ase
        from nequip.nn.compile import DictInputOutputWrapper
        from nequip.scripts._compile_utils import ASE_TARGET, single_frame_data_settings
        from nequip.utils.aot import aot_export_model

        positions = 2.0 * np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
        symbols = [self._symbols[k % len(self._symbols)] for k in range(len(positions))]
        data = from_ase(Atoms(symbols, positions + 0.1 * np.sin(np.arange(81.0)).reshape(-1, 3), cell=[6.0] * 3, pbc=True))
        for transform in transforms:
            data = transform(data)
        sizes = {
            "graph": torch.export.Dim.STATIC,
            "node": torch.export.Dim("num_nodes", min=2),
            "edge": torch.export.Dim("num_edges", min=2),
        }
        fields = {"input_fields": ASE_TARGET["input"], "output_fields": ASE_TARGET["output"]}
        data = single_frame_data_settings(AtomicDataDict.to_(data, "cpu"))
        aot_export_model(self._eager().eval(), "cpu", data=data, batch_map=sizes, output_path=str(path), **fields)
        return DictInputOutputWrapper(torch._inductor.aoti_load_package(str(path)), *fields.values()).eval()


def _build(model: str, shared: dict[str, Any]) -> torch.nn.Module:
    from nequip.model import NequIPGNNModel, PresetNequIPGNNModel

    if model.startswith("allegro"):
        from allegro.model import AllegroModel

        return AllegroModel(**ALLEGRO, **shared)
    return NequIPGNNModel(**SIZES[model], **shared) if model in SIZES else PresetNequIPGNNModel(preset=model, **shared)


if __name__ == "__main__":
    serve(Worker(NequipPeer))
