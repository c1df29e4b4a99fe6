"""Fixtures of artifacts."""

from __future__ import annotations

import pytest

from tests.unit.zoo.artifact_cases import CRYSTAL, FORMS, WATER
from unipot.zoo import save_artifact


@pytest.fixture(params=FORMS)
def saved(request, tmp_path, make_potential):
    """(path, potential) of a model with two heads in either form."""
    potential = make_potential(heads=("a", "b-2"))
    card = {"name": "tiny", "licence": "CC-BY-4.0", "datasets": [{"name": "none", "licence": "CC0-1.0"}]}
    return save_artifact(tmp_path / request.param, potential, card=card, golden=[WATER, CRYSTAL]), potential
