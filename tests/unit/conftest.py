"""Fixtures shared by the unit tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone

#: H C N O Al Cu
KNOWN = (1, 6, 7, 8, 13, 29)


@pytest.fixture
def make_potential() -> Callable[..., Potential]:
    """Builds a tiny native potential with random weights: `make_potential(heads=("only",), dtype=torch.float64)`."""

    def make(heads: tuple[str, ...] = ("only",), dtype: torch.dtype = torch.float64, seed: int = 0, **hyperparameters: int) -> Potential:
        torch.manual_seed(seed)
        backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1, **hyperparameters})
        known = np.isin(np.arange(119), KNOWN)
        bank = HeadBank()
        for k, name in enumerate(heads):
            reference = CompositionReference(np.where(known, -100.0 * (k + 1) - np.arange(119.0), 0.0), known)
            bank.add(Head(name, level_of_theory=f"level {k}", n_channels=backbone.n_channels, n_hidden=8, reference=reference))
        return Potential(backbone, bank).to(dtype).eval()

    return make
