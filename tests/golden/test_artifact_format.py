"""Artifacts written by earlier revisions still load and predict the same; `make_native_v3.py` says how they were made."""

from pathlib import Path

import pytest
import torch

from unipot.zoo import load_artifact, read_card
from unipot.zoo.card import CHECKSUM
from unipot.zoo.golden import largest_deviation

FOLDER = Path(__file__).parent


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v3-checksum"])
def test_artifact_of_every_format_loads_and_predicts_the_same(name, dtype, tolerance):
    path = FOLDER / f"native-{name}.safetensors"
    assert read_card(path)["format_version"] == int(name[1])
    assert (CHECKSUM in read_card(path)) == (name == "v3-checksum")
    artifact = load_artifact(path, dtype=dtype)
    assert largest_deviation(artifact.potential, artifact.card["golden"])[0] < tolerance


def test_energies_of_format_1_are_total():
    artifact = load_artifact(FOLDER / "native-v1.safetensors")
    wanted = {"level_of_theory": "wB97M-V", "energy_kind": "total", "elements": ["H", "C", "O", "Cu"]}
    assert artifact.card["heads"]["molecule-wb97m"] == wanted
    assert {artifact.potential.heads[name].energy_kind for name in artifact.potential.head_names} == {"total"}


def test_format_2_keeps_the_kind_of_energy():
    artifact = load_artifact(FOLDER / "native-v2.safetensors")
    assert artifact.card["heads"]["slab-rpbe"]["energy_kind"] == artifact.potential.heads["slab-rpbe"].energy_kind == "adsorption"


@pytest.mark.parametrize("version", [1, 2])
def test_older_formats_have_no_core_repulsion_and_read_no_charge(version):
    potential = load_artifact(FOLDER / f"native-v{version}.safetensors").potential
    assert potential.core_repulsion is None and potential.backbone.conditions == ()


def test_format_3_keeps_core_repulsion_and_states():
    artifact = load_artifact(FOLDER / "native-v3.safetensors")
    assert artifact.potential.core_repulsion.reach == 0.55
    assert artifact.card["conditions"] == ["total_charge", "spin_multiplicity"]
    assert artifact.potential.backbone.trained_states.charges == (-1.0, 1.0)
