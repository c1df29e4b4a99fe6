"""Potential: what it refuses, and what it returns."""

import pytest
import torch

from unipot.batch import collate
from unipot.models import build_backbone
from unipot.structure import Structure

from .test_heads import WATER, potential


def test_dtype_of_batch_and_model_must_agree() -> None:
    with pytest.raises(ValueError, match="dtype=potential.dtype"):
        potential("a")(collate([WATER], cutoff=5.0, dtype=torch.float64))


def test_batch_with_a_shorter_cutoff_is_refused() -> None:
    with pytest.raises(ValueError, match="cutoff=potential.cutoff"):
        potential("a")(collate([WATER], cutoff=4.0))


def test_batch_with_a_longer_cutoff_gives_the_same_result() -> None:
    model = potential("a").double()
    chain = Structure(atomic_numbers=[6] * 6, positions=[[1.9 * k, 0.3 * (k % 2), 0] for k in range(6)])
    short, long = (model(collate([chain], cutoff=c, dtype=torch.float64)) for c in (5.0, 7.0))
    torch.testing.assert_close(short.forces, long.forces, atol=1e-12, rtol=0)


def test_head_index_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="head_index 1 is out of range"):
        potential("a")(collate([WATER], cutoff=5.0, head_index=[1]))


def test_inference_mode_is_refused_with_the_reason() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="no_grad"):
        potential("a")(collate([WATER], cutoff=5.0))


def test_forces_work_under_no_grad() -> None:
    with torch.no_grad():
        forces = potential("a")(collate([WATER], cutoff=5.0)).forces
    assert forces.abs().max() > 1e-4 and not forces.requires_grad


def test_unknown_property_is_refused() -> None:
    with pytest.raises(KeyError, match="'force' is not known; known are: energy, forces, stress"):
        potential("a")(collate([WATER], cutoff=5.0), ("force",))


def test_stress_of_a_molecule_is_zero() -> None:
    assert not potential("a")(collate([WATER], cutoff=5.0), ("stress",)).stress.any()


def test_only_energy_costs_no_derivatives() -> None:
    predictions = potential("a")(collate([WATER], cutoff=5.0), ("energy",))
    assert predictions.forces is None and predictions.stress is None


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("nativ", {}, "did you mean 'native'"),
        ("native", {"n_chanels": 8}, "did you mean 'n_channels'"),
        ("native", {"n_layers": 0}, "n_layers is 0; it must be a whole number from 1"),
    ],
)
def test_wrong_backbone_or_hyperparameter_is_named(name: str, hyperparameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, hyperparameters)
