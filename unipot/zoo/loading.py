"""From a path to a model: read, verified, built; and what a model must fulfil beyond that."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipot.models.potential import Potential
from unipot.models.trained_elements import told_by
from unipot.zoo.artifact_upgrade import require_readable, upgraded
from unipot.zoo.card import ArtifactError, read_card, weights_path
from unipot.zoo.card_shape import require_described
from unipot.zoo.construction import potential_with
from unipot.zoo.golden import TOLERANCES, largest_deviation


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model and its card."""

    potential: Potential
    card: dict[str, Any]


def load_path(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Artifact:
    """Read, verify and build the model at a path, see `unipot.zoo.artifact.load_artifact`.

    Raises:
        FileNotFoundError, ArtifactError: see `unipot.zoo.artifact.load_artifact`.
    """
    card = read_card(path)
    tensors = read_tensors(weights_path(path))
    try:
        card, tensors = _verified_and_upgraded(card, tensors)
        potential = potential_with(card["potential"], tensors).to(device=device, dtype=dtype).eval()
        for name in potential.head_names:
            potential.heads[name].trained_elements = told_by(card, name)
        _check_golden(potential, card)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error.__cause__
    return Artifact(potential=potential, card=card)


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order of names; the same for a folder and a single file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Weights of a `.safetensors` file, on the CPU.

    Raises:
        ArtifactError: it is truncated or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ArtifactError(f"{path} is truncated or not a safetensors file ({error}); download or copy it again") from error


def _verified_and_upgraded(card: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        require_readable(card)  # before the hash, which a newer format may define in another way
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    measured, stated = tensor_hash(tensors), card.get("sha256")
    if measured != stated:
        raise ArtifactError(
            f"the tensors have SHA-256 {measured[:12]}…, the card states {str(stated)[:12]}…; download or copy the model again"
        )
    try:
        require_described(card)
    except ValueError as error:
        raise ArtifactError(f"{error}; download or copy the model again") from error
    return upgraded(card, tensors)


def _check_golden(potential: Potential, card: dict[str, Any]) -> None:
    entries, tolerance = card.get("golden"), TOLERANCES[potential.dtype]
    if not entries:
        raise ArtifactError("the card has no golden values to check the model against; save it again with save_artifact")
    try:
        deviation, where = largest_deviation(potential, entries)
    except ValueError as error:
        raise ArtifactError(f"{str(error)[:300]}; download or copy the model again") from error
    if not deviation <= tolerance:
        raise ArtifactError(
            f"the loaded model does not reproduce its golden values: {where} deviates by {deviation:.2e}, allowed for "
            f"{potential.dtype} is {tolerance:.0e}; the installed unipot or backbone computes something else than those it was "
            f"saved with (unipot {card.get('unipot_version')})"
        )
