"""Model artifacts: models to disk and back, checked."""

from unipot.zoo.artifact import Artifact, load_artifact, load_potential, save_artifact
from unipot.zoo.card import ArtifactError, read_card
from unipot.zoo.show import describe_artifact

__all__ = ["Artifact", "ArtifactError", "describe_artifact", "load_artifact", "load_potential", "read_card", "save_artifact"]
