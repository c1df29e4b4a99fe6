"""Every backbone under contract, one line each: add yours here and all physics contracts run on it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from unipot.models import Backbone, CompositionReference, Head, HeadBank, Potential, build_backbone

#: registered name, or a name and what is special -> tiny hyperparameters
BACKBONES: dict[str, dict[str, Any]] = {
    "native": {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2},
    "native, charge and spin": {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2, "charge": True, "spin": True},
    "escn-md": {"sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8, "num_layers": 2, "num_distance_basis": 8, "cutoff": 5.0},
}
#: package a backbone needs beyond the core
NEEDS = {"escn-md": "fairchem"}
HEAD_ELEMENTS = (1, 6, 7, 8, 29)


@pytest.fixture(scope="session", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Random weights, float64."""
    name = request.param.partition(",")[0]
    package = NEEDS.get(name)
    if package and find_spec(package) is None:
        pytest.skip(f"backbone {name!r} needs the package {package!r}, which is not installed")
    torch.manual_seed(0)
    return build_backbone(name, BACKBONES[request.param]).double().eval()


@pytest.fixture(scope="session")
def potential(backbone: Backbone) -> Potential:
    """Two heads of different scale, and references of total-energy size."""
    torch.manual_seed(1)
    known = np.zeros(119, dtype=bool)
    known[list(HEAD_ELEMENTS)] = True
    heads = HeadBank()
    for name, scale, zero in (("first", 1.0, -1e3), ("second-one", 3.0, -2e4)):
        reference = CompositionReference(np.where(known, zero - np.arange(119.0), 0.0), known)
        heads.add(Head(name, level_of_theory=name, n_channels=backbone.n_channels, scale=scale, reference=reference))
    return Potential(backbone, heads).double().eval()
