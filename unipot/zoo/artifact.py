"""Model artifacts: a folder (`model.safetensors` + `card.json`) or one `.safetensors` file with the card in its metadata.

The card describes the model, its heads, units, data and licence, and holds golden predictions, the SHA-256 of the tensors and one of
itself. All three are checked whenever a model is loaded. Nothing is pickled and nothing in a card is executed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipot import __version__
from unipot.errors import InputError
from unipot.models.last_layer import is_stale
from unipot.models.potential import Potential
from unipot.models.trained_elements import TRAINED_KEY, trained_by
from unipot.properties import PROPERTIES
from unipot.structure import SYMBOLS, Structure, symbols_of
from unipot.zoo.artifact_upgrade import FORMAT_VERSION
from unipot.zoo.card import CARD_FILE, CHECKSUM, FORMAT, METADATA_KEY, WEIGHTS_FILE, checksum_of
from unipot.zoo.golden import golden_values
from unipot.zoo.loading import Artifact, load_path, tensor_hash
from unipot.zoo.locate import model_path

#: written by `save_artifact` itself
RESERVED = (
    *("format", "format_version", "unipot_version", "potential", "conditions", "heads", "n_parameters", "units", "sha256", "golden"),
    CHECKSUM,
)


def save_artifact(
    path: str | Path, potential: Potential, *, card: dict[str, Any] | None = None, golden: Sequence[Structure] | None = None
) -> Path:
    """Write `potential` in one step: on any error, what was at `path` before is still there.

    Args:
        path: ends in `.safetensors` for a single file, else it is a folder.
        potential: its present weights.
        card: JSON-able facts for the reader: `name`, `licence`, `citation`, `datasets` (their cards), `training`, …
        golden: structures whose predictions are stored and compared on load; two small ones by default.

    Returns:
        `path`.

    Raises:
        ValueError: the card uses a reserved key or is not JSON, a weight is not finite, the model has no head, a head has
            uncertainties of other weights, or `path` is a folder with something else in it.
    """
    path = Path(path)
    _require_writable(path)
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in potential.state_dict().items()}
    full = _full_card(potential, tensors, card or {}, golden or ())
    try:
        content = json.loads(json.dumps(full, allow_nan=False))  # as it will be read: tuples are lists, keys are texts
        text = json.dumps({**content, CHECKSUM: checksum_of(content)}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the card of {path} cannot be written as JSON ({error}); use numbers, texts, lists and mappings only") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, tensors, text, single_file=path.suffix == ".safetensors")
        _replace(temporary, path)
    finally:
        _remove(temporary)
    return path


def load_artifact(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Artifact:
    """Read, verify and build a model; it is in evaluation mode.

    Args:
        path: folder or `.safetensors` file; as a text also a name of the zoo, which is fetched where the cache does not have it
            (see `unipot.zoo.names`).
        device: where to put it.
        dtype: torch.float32 or torch.float64; the one it was saved in by default.

    Raises:
        FileNotFoundError: there is no artifact at `path`, and no model of this name.
        OSError: the model cannot be fetched.
        ArtifactError: the file is truncated, of a newer format, altered (tensors or card, by their hashes), incomplete, asks for
            more than its weights, or does not reproduce its golden values.
    """
    return load_path(model_path(path), device=device, dtype=dtype)


def load_potential(path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Potential:
    """The model of an artifact, see `load_artifact`.

    Example:
        >>> potential = load_potential("runs/pretrain/best.safetensors")  # doctest: +SKIP
        >>> potential = load_potential("unipot-base@1.0")  # doctest: +SKIP
        >>> potential.head_names  # doctest: +SKIP
        ('oc20', 'mptrj', 'spice')
    """
    return load_artifact(path, device=device, dtype=dtype).potential


def _full_card(potential: Potential, tensors: dict[str, Tensor], card: dict[str, Any], golden: Sequence[Structure]) -> dict[str, Any]:
    if taken := sorted(set(card) & set(RESERVED)):
        raise InputError(f"card key(s) {', '.join(taken)} are written by unipot itself; leave them out")
    if not potential.head_names:
        raise InputError("the model has no head; add one before saving")
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise InputError(f"{len(broken)} tensor(s) of the model are not finite, first {broken[0]!r}; such a model is not saved")
    if stale := [name for name in potential.head_names if is_stale(potential, potential.heads[name])]:
        raise InputError(
            f"head {stale[0]!r} has uncertainties that belong to other weights than its present ones; make new ones with "
            "unipot.finetune.uncertainty.calibrated_posterior.fit_posterior, or drop them with unipot.models.last_layer.drop_posteriors"
        )
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "unipot_version": __version__,
        "licence": "not stated",
        **card,
        "potential": potential.describe(),
        "conditions": list(potential.backbone.conditions),
        "heads": {name: _head_card(potential, name, card.get("datasets", ())) for name in potential.head_names},
        "n_parameters": sum(p.numel() for p in potential.parameters()),
        "units": {name: {"unit": p.unit, "sign": p.sign} for name, p in PROPERTIES.items() if p.predicted},
        "sha256": tensor_hash(tensors),
        "golden": golden_values(potential, golden),
    }


def _head_card(potential: Potential, name: str, datasets: Any) -> dict[str, Any]:
    head = potential.heads[name]
    known = np.flatnonzero(head.reference.known.cpu().numpy())
    elements = symbols_of(known).split(", ") if len(known) else []
    trained = sorted(head.trained_elements | trained_by(datasets, name)) if head.trained_elements is not None else []
    told = {TRAINED_KEY: [SYMBOLS[z] for z in trained]} if trained else {}  # a reader that does not know the key passes over it
    return {"level_of_theory": head.level_of_theory, "energy_kind": head.energy_kind, "elements": elements, **told}


def _write(path: Path, tensors: dict[str, Tensor], card: str, *, single_file: bool) -> None:
    from safetensors.torch import save_file

    weights = path if single_file else path / WEIGHTS_FILE
    if not single_file:
        path.mkdir()
        (path / CARD_FILE).write_text(card)
    weights.touch()
    mode = weights.stat().st_mode  # that of any new file of this user; safetensors would make it private
    save_file(tensors, weights, metadata={METADATA_KEY: card} if single_file else None)
    weights.chmod(mode)
    for file in [path] if single_file else list(path.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())  # else a crash may leave the new name on an empty file


def _require_writable(path: Path) -> None:
    if path.suffix == ".safetensors":
        if path.is_dir():
            raise InputError(f"{path} is a folder; a name ending in .safetensors is for a single file")
    elif path.exists() and not (path.is_dir() and {p.name for p in path.iterdir()} <= {CARD_FILE, WEIGHTS_FILE}):
        raise InputError(f"{path} exists and is not a model folder; choose another path")


def _replace(new: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(new, path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.replace(path, old)  # a folder with content cannot be replaced in one step
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
