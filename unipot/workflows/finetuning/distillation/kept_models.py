"""Models in a run folder that are made before its training, and are used again only where they would come out the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unipot.zoo.artifact import Artifact, load_artifact

#: in the card: what the model was made with
MADE_WITH = "made_with"


def kept_model(file: Path, made_with: Sequence[str], dtype: torch.dtype) -> Artifact | None:
    """The artifact at `file` if it is there and was made with the very same; None else, and it is to be made again.

    A run that was killed before its first checkpoint may be begun again in the same folder with other options or
    frames.
    """
    if not file.is_file():
        return None
    artifact = load_artifact(file, dtype=dtype)
    return artifact if artifact.card.get(MADE_WITH) == list(made_with) else None
