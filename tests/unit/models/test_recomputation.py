"""Layers that keep inputs instead of activations: same values, first and second derivatives, less kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from unipot.batch import collate
from unipot.models.recomputation import recomputed
from unipot.structure import Structure

STRUCTURES = [
    Structure.from_ase(molecule("CH3CH2OH")),
    Structure(atomic_numbers=[8], positions=[[0, 0, 0]]),
    Structure.from_ase(bulk("Cu", cubic=True) * (2, 1, 1)),
]


@dataclass(frozen=True)
class Pair:
    number: int
    left: torch.Tensor
    right: torch.Tensor


class Twisted(nn.Module):
    """A function of parameters, of tensors in a dataclass and alone, with an output that does not depend on everything."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False, dtype=torch.float64)
        self.unused = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, pair: Pair, x: torch.Tensor, exponent: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sin(self.linear(x)) * pair.left**exponent + pair.right, self.linear(pair.left) ** 3


def derivatives(potential, batch, *, checkpointing: bool):
    """Energy, forces, stress, and the gradients of a loss on all three."""
    potential.backbone.activation_checkpointing = checkpointing
    potential.zero_grad(set_to_none=True)
    found = potential(batch, ("energy", "forces", "stress"))
    weights = torch.linspace(0.5, 1.5, batch.n_atoms, dtype=batch.positions.dtype)
    loss = 1e-3 * found.energy.square().sum() + (found.forces.square() * weights[:, None]).sum() + 10 * found.stress.square().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in potential.named_parameters()}
    return (found.energy.detach(), found.forces.detach(), found.stress.detach()), gradients


@pytest.mark.parametrize("n_layers", [1, 3])
def test_force_loss_has_the_same_gradients(make_potential, n_layers):
    potential = make_potential(n_layers=n_layers, charge=True, spin=True).train()
    batch = collate(STRUCTURES, cutoff=5.0, dtype=torch.float64)
    plain, plain_gradients = derivatives(potential, batch, checkpointing=False)
    kept, kept_gradients = derivatives(potential, batch, checkpointing=True)
    for a, b in zip(plain, kept, strict=True):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-13)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in plain_gradients.values()) > 10
    for name, gradient in plain_gradients.items():
        other = kept_gradients[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            assert torch.allclose(gradient, other, rtol=0, atol=1e-12 * max(1.0, float(gradient.abs().max()))), name


def test_energy_loss_has_the_same_gradients(make_potential):
    potential = make_potential(n_layers=2).train()
    batch, found = collate(STRUCTURES, cutoff=5.0, dtype=torch.float64), []
    for checkpointing in (False, True):
        potential.backbone.activation_checkpointing = checkpointing
        energy = potential(batch, ("energy",)).energy
        found.append(torch.autograd.grad(energy.square().sum(), list(potential.backbone.layers.parameters()), allow_unused=True))
    assert all(a is b is None or torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*found, strict=True))
    assert any(a is not None and bool(a.abs().max() > 0) for a in found[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_inference_has_the_same_forces_and_stress(make_potential, frozen):
    potential = make_potential(n_layers=2).requires_grad_(not frozen)
    batch, found = collate(STRUCTURES, cutoff=5.0, dtype=torch.float64), []
    for checkpointing in (False, True):
        potential.backbone.activation_checkpointing = checkpointing
        found.append(potential(batch, ("energy", "forces", "stress")))
    assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-13, atol=1e-13) for name in ("energy", "forces", "stress"))
    assert found[0].forces.abs().max() > 1e-3


def test_frozen_layers_train_the_rest_as_before(make_potential):
    potential = make_potential(n_layers=2).train()
    potential.backbone.layers[0].requires_grad_(False)
    batch = collate(STRUCTURES, cutoff=5.0, dtype=torch.float64)
    (_, plain), (_, kept) = (derivatives(potential, batch, checkpointing=c) for c in (False, True))
    assert all(plain[name] is None for name in plain if name.startswith("backbone.layers.0"))
    for name, gradient in plain.items():
        assert gradient is kept[name] is None or torch.allclose(gradient, kept[name], rtol=1e-10, atol=1e-12), name


def test_any_module_has_the_same_second_derivatives():
    torch.manual_seed(0)
    module = Twisted()
    inputs = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def function(left, right, x):
        first, second = recomputed(module, Pair(2, left, right), x, 2)
        return first.sum() + (second * first).sum()

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_third_derivative_is_refused():
    module, x = Twisted(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    value = recomputed(module, Pair(2, x, x), x, 2)[0].sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_what_training_keeps_shrinks(make_potential):
    batch = collate([Structure.from_ase(bulk("Cu", cubic=True) * (2, 2, 2))], cutoff=5.0, dtype=torch.float64)
    potential, kept = make_potential(n_layers=3, n_channels=32).train(), []
    for checkpointing in (False, True):
        potential.backbone.activation_checkpointing = checkpointing
        storages: dict[int, int] = {}

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            found = potential(batch, ("energy", "forces"))
        kept.append(sum(storages.values()))
        found.forces.square().sum().backward()
    assert kept[1] < 0.8 * kept[0]


def test_precision_chosen_outside_holds_in_the_recomputation():
    x, seen = torch.randn(5, 3, requires_grad=True), []

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            y = self.linear(x)
            seen.append(y.dtype)
            return (y,)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y,) = recomputed(Recording(), x)
    torch.autograd.grad(y.float().sum(), x)
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_without_gradients_the_module_runs_once():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(1)
            return (2 * x,)

    with torch.no_grad():
        (y,) = recomputed(Counting(), torch.ones(2, requires_grad=True))
    assert np.array_equal(y, [2, 2]) and len(calls) == 1
