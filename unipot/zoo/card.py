"""The card of a model artifact: where it is stored, and reading it without building the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FORMAT = "unipot-model"
#: of a folder artifact
CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
#: key of the card in the metadata of a single file
METADATA_KEY = "unipot_card"


class ArtifactError(ValueError):
    """A model artifact that cannot be trusted or understood."""


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of the artifact at `path`; no weights are read.

    Raises:
        FileNotFoundError: there is no artifact at `path`.
        ArtifactError: what is there is not a unipot artifact, or is damaged.
    """
    path = Path(path)
    weights_path(path)  # says what is missing
    text = (path / CARD_FILE).read_text() if path.is_dir() else card_in_metadata(path)
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: the card is not valid JSON ({error}); download or copy the model again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ArtifactError(f"{path}: the card does not say format {FORMAT!r}; this is not a unipot model")
    return card


def weights_path(path: Path) -> Path:
    """The `.safetensors` file of the artifact at `path`.

    Raises:
        FileNotFoundError: it, or the card of a folder, is not there.
        ArtifactError: `path` is a file of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give a model: a .safetensors file, or a folder with {WEIGHTS_FILE} and {CARD_FILE}")
    if path.is_dir():
        for name in (CARD_FILE, WEIGHTS_FILE):
            if not (path / name).is_file():
                models = sorted(path.glob("*.safetensors"))
                hint = f"; did you mean {models[0]}?" if models else ""
                raise FileNotFoundError(f"{path} is a folder without {name}, so it is not a model{hint}")
        return path / WEIGHTS_FILE
    if path.suffix != ".safetensors":
        hint = "; a package is loaded by unipot.zoo.package.load_package, or with trusted=true" if path.suffix == ".pt2" else ""
        hint = "; a .ckpt file is the state of a run, the model is best.safetensors in the run folder" if path.suffix == ".ckpt" else hint
        raise ArtifactError(f"{path} is not a .safetensors file, so it is not a model{hint}")
    return path


def card_in_metadata(path: Path) -> str:
    """Text of the card inside the single-file artifact `path`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"{path} is truncated or not a safetensors file ({error}); download or copy it again") from error
    if METADATA_KEY not in metadata:
        raise ArtifactError(f"{path} holds tensors but no unipot card, so it is not a unipot model")
    return metadata[METADATA_KEY]
