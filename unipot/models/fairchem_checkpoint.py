"""Reading fairchem inference checkpoints: hyperparameters and weights of an eSCN-MD backbone, without pickle.

A fairchem checkpoint is one `torch.save` of `MLIPInferenceCheckpoint(model_config, model_state_dict, ema_state_dict,
tasks_config)`. fairchem itself loads it with `weights_only=False` and instantiates whatever it names; here only
tensors and plain containers are read.
"""

from __future__ import annotations

import pickle
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unipot.errors import InputError, MissingPackage
from unipot.structure import SYMBOLS

#: hyperparameters with which fairchem's backbone is built again, and fairchem's defaults (fairchem-core 2.24.0)
ARCHITECTURE: dict[str, Any] = {
    "sphere_channels": 128,
    "hidden_channels": 128,
    "edge_channels": 128,
    "num_layers": 2,
    "lmax": 2,
    "mmax": 2,
    "cutoff": 5.0,
    "num_distance_basis": 512,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
    "chg_spin_emb_type": "pos_emb",
    "grid_resolution": None,
    "max_num_elements": 100,
}
#: settings that change what the network computes: name -> (fairchem's default, the value we can take, why)
REQUIRED: dict[str, tuple[Any, Any, str]] = {
    "ff_type": ("grid", "spectral", "the grid is not rotation invariant (3e-4)"),
    "distance_function": ("gaussian", "gaussian", "other radial functions are not known"),
    "use_quaternion_wigner": (True, True, "Euler angles leave force errors of 1e-4"),
    "charge_balanced_channels": (None, None, "charge would be spread over atoms at any distance, so that isolated atoms do not add up"),
    "spin_balanced_channels": (None, None, "spin would be spread over atoms at any distance, so that isolated atoms do not add up"),
}
#: settings of the graph, of fairchem's own force code and training: without effect here; and of experts, which are
#: merged
IGNORED = frozenset(
    "model num_sphere_samples otf_graph max_neighbors use_pbc use_pbc_single direct_forces regress_forces direct_stress "
    "regress_stress regress_hessian hessian_vmap activation_checkpointing cs_emb_grad dataset_emb_grad dataset_list "
    "dataset_mapping use_dataset_embedding use_cuda_graph_wigner radius_pbc_version always_use_pbc edge_chunk_size "
    "execution_mode num_experts moe_dropout use_global_embedding use_composition_embedding composition_dropout "
    "moe_expert_coefficient_norm act layers_moe moe_layer_type moe_single moe_type model_version".split()
)


@dataclass(frozen=True, kw_only=True)
class FairchemBackboneState:
    """What a checkpoint says about its backbone.

    Attributes:
        path: of the checkpoint, for messages.
        hyperparameters: every key of `ARCHITECTURE`.
        weights: state dict of an `eSCNMDBackbone` without dataset embedding.
    """

    path: str
    hyperparameters: dict[str, Any]
    weights: dict[str, Tensor]

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights into `model`, strictly.

        Raises:
            ValueError: names or shapes differ.
        """
        try:
            model.load_state_dict(self.weights, strict=True)
        except RuntimeError as error:
            raise InputError(f"fairchem checkpoint {self.path}: the weights do not fit its own hyperparameters: {error}") from error


def read_fairchem_checkpoint(path: str | Path, dataset: str | None = None, composition: str | None = None) -> FairchemBackboneState:
    """The backbone of a fairchem inference checkpoint, EMA weights if there are any.

    A dataset embedding adds W·e(dataset) to the input of every layer alike; for one dataset that is a constant, which
    is added to the bias of the same linear map. The features are exactly those fairchem computes for that dataset.

    A mixture of experts (UMA) mixes its weights anew for each composition, charge, spin and dataset, so that energies
    of separate molecules do not add up. Here the experts are merged once: exact for neutral structures of `composition`
    without a stated spin, a starting point for all others.

    Args:
        path: `.pt` file.
        dataset: name of the dataset embedding to keep; needed if there are several.
        composition: chemical formula for which to merge the experts of a mixture of experts; needed for one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a fairchem inference checkpoint, or its backbone is not a plain eSCN-MD.
    """
    stored = _load(Path(path))
    model_config = _plain(getattr(stored, "model_config", None))
    if not isinstance(model_config, dict) or not isinstance(model_config.get("backbone"), dict):
        raise InputError(f"{path} is not a fairchem inference checkpoint: it has no model_config.backbone; give an inference_ckpt.pt")
    config = model_config["backbone"]
    hyperparameters = _hyperparameters(config, path)
    mapping, kept = _dataset_mapping(config, dataset, path)
    weights = _backbone_weights(stored, path)
    if config.get("num_experts", 8 if "moe" in str(config.get("model")).lower() else 0):  # 8 is fairchem's default
        weights = _merge_experts(weights, config, model_config.get("model_id"), kept, composition, path)
    elif composition is not None:
        raise InputError(f"fairchem checkpoint {path} is no mixture of experts; leave checkpoint_composition={composition!r} out")
    weights = {key: value for key, value in weights.items() if not key.startswith(("routing_mlp.", "composition_embedding."))}
    if kept is not None:
        weights = _fold_dataset(weights, mapping[kept])
    return FairchemBackboneState(path=str(path), hyperparameters=hyperparameters, weights=weights)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"fairchem checkpoint {path} does not exist; give the path of a .pt file")
    import typing

    from omegaconf import DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata
    from omegaconf.nodes import AnyNode

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
    except ImportError as error:
        raise MissingPackage(
            f"a fairchem checkpoint needs fairchem-core ({error}); install it with: pip install 'unipot[fairchem]'"
        ) from error
    containers = [DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode, typing.Any, defaultdict, dict, list, int]
    try:
        with torch.serialization.safe_globals([MLIPInferenceCheckpoint, *containers]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"fairchem checkpoint {path} cannot be read safely (truncated, or not an inference checkpoint): {reason}"
        ) from error


def _plain(config: Any) -> Any:
    from omegaconf import Container, OmegaConf

    return OmegaConf.to_container(config, resolve=True) if isinstance(config, Container) else config


def _hyperparameters(config: dict[str, Any], path: str | Path) -> dict[str, Any]:
    target = str(config.get("model", ""))
    if target and "escn" not in target.lower():
        raise InputError(f"fairchem checkpoint {path}: its backbone is {target!r}; only eSCN-MD (eSEN) can be taken over")
    for key, (default, wanted, why) in REQUIRED.items():
        value = config.get(key, default)
        if value != wanted and not (wanted is None and not value):
            raise InputError(
                f"fairchem checkpoint {path}: {key}={value!r} is not supported, because {why}; use a checkpoint with {wanted!r}"
            )
    unknown = sorted(set(config) - set(ARCHITECTURE) - set(REQUIRED) - IGNORED)
    if unknown:
        raise InputError(f"fairchem checkpoint {path}: backbone setting(s) {', '.join(unknown)} are newer than this adapter knows")
    return {key: config.get(key, default) for key, default in ARCHITECTURE.items()}


def _backbone_weights(stored: Any, path: str | Path) -> dict[str, Tensor]:
    for state, prefix in (
        (stored.ema_state_dict, "module.backbone."),
        (stored.ema_state_dict, "backbone."),
        (stored.model_state_dict, "backbone."),
    ):
        weights = {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}
        if weights:
            return weights
    raise InputError(f"fairchem checkpoint {path} holds no backbone weights; it may be a checkpoint of heads only")


def _dataset_mapping(config: dict[str, Any], dataset: str | None, path: str | Path) -> tuple[dict[str, str], str | None]:
    """Dataset name -> name of its embedding, and the dataset to keep (None where there are no embeddings)."""
    mapping = config.get("dataset_mapping") or {name: name for name in config.get("dataset_list") or []}
    if not config.get("use_dataset_embedding", True):
        mapping = {}
    names = ", ".join(sorted(mapping)) or "none"
    if dataset is None and len(set(mapping.values())) > 1:
        raise InputError(f"fairchem checkpoint {path} has embeddings for several datasets; set checkpoint_dataset to one of: {names}")
    if dataset is not None and dataset not in mapping:
        raise InputError(f"fairchem checkpoint {path} has no dataset {dataset!r}; its datasets are: {names}")
    return mapping, dataset if dataset is not None else next(iter(mapping), None)


def _fold_dataset(weights: dict[str, Tensor], embedding: str) -> dict[str, Tensor]:
    folded = {key: value for key, value in weights.items() if not key.startswith("dataset_embedding.")}
    vector = weights[f"dataset_embedding.dataset_emb_dict.{embedding}.weight"][0].double()  # (C,)
    mix, bias = weights["mix_csd.weight"], weights["mix_csd.bias"]  # (C, 3C): charge, spin, dataset
    width = vector.shape[0]
    folded["mix_csd.weight"] = mix[:, : 2 * width].clone()
    folded["mix_csd.bias"] = (bias.double() + mix[:, 2 * width :].double() @ vector).to(bias.dtype)
    return folded


def _merge_experts(
    weights: dict[str, Tensor], config: dict[str, Any], model_id: str | None, dataset: str | None, composition: str | None, path: str | Path
) -> dict[str, Tensor]:
    from ase.formula import Formula

    if composition is None:
        raise InputError(
            f"fairchem checkpoint {path} is a mixture of experts, whose weights depend on the composition of each "
            "structure; set checkpoint_composition to a formula typical of your data, such as H2O, to merge the experts for it"
        )
    try:
        numbers = [SYMBOLS.index(symbol) for symbol, count in Formula(composition).count().items() for _ in range(count)]
    except ValueError as error:
        raise InputError(f"checkpoint_composition={composition!r} is not a chemical formula; write it as in H2O or TiO2") from error
    zero = torch.zeros(1, dtype=torch.int64)
    atoms = torch.tensor(numbers)
    record = {"atomic_numbers": atoms, "batch": torch.zeros_like(atoms), "charge": zero, "spin": zero, "dataset": [dataset]}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # fairchem's imports, and a torch function it uses that is in beta
            from fairchem.core.models.uma.escn_moe import eSCNMDMoeBackbone

            model = eSCNMDMoeBackbone(**{key: value for key, value in config.items() if key != "model"}).eval()
            model.model_id = model_id  # one generation of UMA averages compositions differently
            model.load_state_dict(weights, strict=True)
            return model.merge_MOLE_model(record).state_dict()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"fairchem checkpoint {path}: its experts cannot be merged: {error}") from error
