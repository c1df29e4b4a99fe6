"""Composition references: unknown elements are named, and precision survives casts."""

import numpy as np
import pytest
import torch

from unipot.models import CompositionReference


def counts_of(z: int, n: int) -> np.ndarray:
    return np.bincount([z] * n, minlength=119)[None]


def test_unseen_element_raises_with_its_symbol() -> None:
    reference, _ = CompositionReference.fit(counts_of(1, 2), np.array([-27.0]))
    with pytest.raises(ValueError, match="element.s. Fe; known are: H"):
        reference(torch.tensor([1, 26]))


def test_references_stay_float64_when_the_model_is_cast() -> None:
    reference, _ = CompositionReference.fit(counts_of(79, 1), np.array([-518_000.123456789]))
    reference.to(torch.float32).half()
    assert reference.values.dtype == torch.float64
    assert reference(torch.tensor([79])).item() == -518_000.123456789
