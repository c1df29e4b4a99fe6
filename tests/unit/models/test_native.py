"""The native backbone's own parts: neighbour slots, envelope, bases."""

import math

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.models import build_backbone
from unipot.models.native.geometry import envelope, second_degree, symmetric_traceless_basis, trace_and_traceless
from unipot.models.native.moment_invariants import symmetric_determinant
from unipot.models.native.neighbor_slots import make_slots
from unipot.structure import Structure


def cluster(n_atoms: int, seed: int, spread: float = 4.0) -> Structure:
    rng = np.random.default_rng(seed)
    return Structure(atomic_numbers=rng.integers(1, 30, n_atoms), positions=rng.uniform(0, spread, (n_atoms, 3)), id=str(seed))


@pytest.mark.parametrize("sizes", [(1,), (2, 1), (7, 1, 25, 3), (40,), (1, 1, 1)])
def test_sum_over_neighbors_equals_the_plain_sum(sizes: tuple[int, ...]) -> None:
    batch = collate([cluster(n, k) for k, n in enumerate(sizes)], cutoff=3.0, dtype=torch.float64)
    slots = make_slots(batch, 3.0)
    features = torch.randn(batch.n_atoms, 5, dtype=torch.float64)
    coefficient = lambda vectors: torch.stack([(3.0 - vectors.norm(dim=1)).clamp(min=0), vectors[:, 1] * (vectors.norm(dim=1) < 3)], 1)  # noqa: E731
    result = slots.sum_over_neighbors(coefficient(slots.vectors), features[slots.order])[slots.row_of_atom]
    centre, neighbor = batch.edge_index
    plain = torch.zeros(batch.n_atoms, 2, 5, dtype=torch.float64)
    edges = coefficient(batch.positions[neighbor] - batch.positions[centre])
    plain.index_add_(0, centre, edges[:, :, None] * features[neighbor][:, None])
    torch.testing.assert_close(result, plain)


def test_padding_of_slots_is_bounded() -> None:
    batch = collate([cluster(n, n, spread=7.0) for n in (5, 20, 60, 120)], cutoff=4.0)
    assert make_slots(batch, 4.0).centre.shape[0] <= 1.25 * batch.n_edges + 3 * batch.n_atoms


def test_envelope_and_three_derivatives_vanish_at_the_cutoff() -> None:
    x = torch.tensor([1.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    for _ in range(4):
        assert value.abs() < 1e-5
        (value,) = torch.autograd.grad(value, x, create_graph=True)


def test_second_degree_functions_have_unit_norm_and_match_their_matrices() -> None:
    unit = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    components = second_degree(unit)
    torch.testing.assert_close(components.norm(dim=1), torch.ones(20, dtype=torch.float64))
    matrices = torch.einsum("em,mab->eab", components, symmetric_traceless_basis(torch.float64))
    expected = math.sqrt(1.5) * (unit[:, :, None] * unit[:, None] - torch.eye(3, dtype=torch.float64) / 3)
    torch.testing.assert_close(matrices, expected)


def test_trace_and_traceless_rows_are_orthonormal() -> None:
    rows = trace_and_traceless(torch.float64)
    torch.testing.assert_close(rows @ rows.T, torch.eye(6, dtype=torch.float64))


def test_symmetric_determinant_equals_linalg() -> None:
    matrix = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    matrix = matrix + matrix.transpose(1, 2)
    torch.testing.assert_close(symmetric_determinant(matrix), torch.linalg.det(matrix.permute(0, 3, 1, 2)))


def test_atom_without_neighbours_has_exactly_zero_features() -> None:
    backbone = build_backbone("native", {"n_channels": 8})
    features = backbone(collate([cluster(1, 0), cluster(6, 1)], cutoff=5.0))
    assert not features.scalars[0].any() and not features.vectors[0].any()
    assert features.scalars[1:].abs().max() > 1e-3


def test_layer_groups_cover_every_parameter_once() -> None:
    backbone = build_backbone("native", {"n_layers": 3})
    prefixes = [prefix for _, group in backbone.layer_groups() for prefix in group]
    for name, _ in backbone.named_parameters():
        assert sum(name.startswith(prefix) for prefix in prefixes) == 1, name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", 0), ("n_layers", 10**9), ("n_channels", 10**12), ("n_radial", 2.5), ("n_radial_hidden", "8"), ("n_shapes", [8, 8]),
        ("n_shapes", [8, 8, 10**9]), ("cutoff", 0.0), ("cutoff", float("nan")), ("cutoff", 1e6), ("average_neighbors", float("inf")),
        ("charge", 10**12), ("spin", "yes"),
    ],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"native backbone: {key} is .*; it must be"):
        build_backbone("native", {key: value})
