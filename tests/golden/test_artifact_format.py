"""An artifact written by an earlier revision still loads and predicts the same; made by `make_native_v1.py`."""

from pathlib import Path

import pytest
import torch

from unipot.zoo import load_artifact
from unipot.zoo.golden import largest_deviation

ARTIFACT = Path(__file__).with_name("native-v1.safetensors")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_artifact_of_format_1_loads_and_predicts_the_same(dtype, tolerance):
    artifact = load_artifact(ARTIFACT, dtype=dtype)
    assert largest_deviation(artifact.potential, artifact.card["golden"])[0] < tolerance


def test_artifact_of_format_1_keeps_its_heads():
    heads = load_artifact(ARTIFACT).card["heads"]
    assert heads["molecule-wb97m"] == {"level_of_theory": "wB97M-V", "elements": ["H", "C", "O", "Cu"]}
