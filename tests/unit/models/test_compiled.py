"""CompiledPotential: the same numbers and gradients out of one graph, and the plain model wherever that fails."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unipot.batch import collate
from unipot.models import CoreRepulsion
from unipot.models.backbone import AtomFeatures
from unipot.models.compiled import CompiledPotential
from unipot.models.derivatives import parameter_gradients
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster

PROPERTIES = ("energy", "forces", "stress")
#: relative to the largest number of its kind, in float64; orders of summation differ
TOLERANCE = 1e-11


def crystal(n: int, seed: int, **conditions) -> Structure:
    generator = np.random.Generator(np.random.PCG64(seed))
    grid = np.array([[x, y, z] for x in range(n) for y in range(2) for z in range(1)], dtype=float)
    positions = 2.6 * grid + 0.2 * generator.normal(size=grid.shape)
    numbers = generator.choice([13, 29], size=len(grid))
    return Structure(atomic_numbers=numbers, positions=positions, cell=np.diag([2.6 * n, 5.2, 2.6]), pbc=[True] * 3, **conditions)


def mixed_batch(sizes=(3, 5, 2), seed=0):
    """Clusters and crystals of both heads, with charges, and one lone atom."""
    structures, heads = [], []
    for k, n in enumerate(sizes):
        structures += [chiral_cluster((1, 6, 8), n + 2), crystal(n, seed + k, total_charge=k - 1.0)]
        heads += [k % 2, (k + 1) % 2]
    lone = Structure(atomic_numbers=[8], positions=[[0.0, 0.0, 0.0]], spin_multiplicity=3)
    return collate([*structures, lone], cutoff=5.0, head_index=[*heads, 1], dtype=torch.float64)


@pytest.fixture
def potential(make_potential):
    model = make_potential(heads=("a", "b"), charge=True, spin=True).train()
    model.core_repulsion = CoreRepulsion()
    return model


def deviations(plain, compiled, parameters):
    """Largest relative deviation of each property, then of each parameter's gradient."""
    values = [(getattr(plain, name), getattr(compiled, name)) for name in PROPERTIES]
    gradients = [parameter_gradients([pair[k] for pair in values], parameters, retain_graph=False) for k in (0, 1)]
    pairs = [*values, *zip(*gradients, strict=True)]
    floor = max(float(gradient.abs().max()) for gradient in gradients[0])
    return [float((a - b).detach().abs().max()) / max(float(a.detach().abs().max()), 1e-3 * floor) for a, b in pairs]


def test_energies_forces_stress_and_gradients_are_those_of_the_plain_model(potential):
    compiled = CompiledPotential(potential, backend="aot_eager")
    compiled(mixed_batch(), PROPERTIES)  # compares, and returns what the plain model says
    batch = mixed_batch(sizes=(4, 2, 6), seed=10)
    plain, fast = potential(batch, PROPERTIES), compiled(batch, PROPERTIES)
    assert compiled.reason is None and fast.energy.grad_fn is not None
    assert fast.energy.dtype == torch.float64 and fast.stress.abs().max() > 1e-4
    assert max(deviations(plain, fast, list(potential.parameters()))) < TOLERANCE


def test_ten_batches_of_other_sizes_need_no_other_graph(potential):
    compiled = CompiledPotential(potential, backend="aot_eager")
    compiled(mixed_batch(sizes=(2, 2)), PROPERTIES)  # equal sizes in the first batch must not become a rule
    pair = Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.7]])
    for k in range(10):
        batch = mixed_batch(sizes=tuple(range(2, 3 + k % 4)), seed=k)
        batch = collate([pair], cutoff=5.0, dtype=torch.float64) if k == 7 else batch
        torch.testing.assert_close(compiled(batch).forces, potential(batch).forces, rtol=1e-9, atol=1e-10)
    assert compiled.n_graphs == 1 and compiled.reason is None


def test_close_pairs_repel_as_in_the_plain_model(potential):
    compiled = CompiledPotential(potential, backend="aot_eager")
    compiled(mixed_batch(), PROPERTIES)
    close = Structure(atomic_numbers=[29, 13], positions=[[0, 0, 0], [0, 0, 0.6]], cell=6 * np.eye(3), pbc=[True] * 3)
    batch = collate([close], cutoff=5.0, dtype=torch.float64)
    plain, fast = potential(batch, PROPERTIES), compiled(batch, PROPERTIES)
    assert plain.forces.abs().max() > 10
    for name in PROPERTIES:
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-10, atol=1e-9)


def test_weights_are_read_at_every_call_and_the_state_is_untouched(potential):
    names = list(potential.state_dict())
    compiled, batch = CompiledPotential(potential, backend="aot_eager"), mixed_batch()
    before = compiled(batch).energy.detach()
    with torch.no_grad():
        potential.heads["a"].readout.output.weight.mul_(2.0)
    after = compiled(batch).energy.detach()
    assert (after - before).abs().max() > 1e-3 and list(potential.state_dict()) == names
    torch.testing.assert_close(after, potential(batch).energy.detach(), rtol=1e-13, atol=1e-9)


def test_mistakes_in_a_batch_are_found_as_before(potential):
    compiled, batch = CompiledPotential(potential, backend="aot_eager"), mixed_batch()
    compiled(batch)
    with pytest.raises(ValueError, match="head_index 7 is out of range"):
        compiled(replace(batch, head_index=batch.head_index + 7))
    with pytest.raises(ValueError, match="no reference energy for element"):
        compiled(replace(batch, atomic_numbers=batch.atomic_numbers + 60))


class Untraceable(nn.Module):
    """Features without message passing, and no way to trace them."""

    name, hyperparameters, cutoff, conditions, elements = "untraceable", {}, 5.0, (), (1, 6, 8, 13, 29)
    n_channels, n_vector_channels = 8, 0

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(119, 8, dtype=torch.float64))

    def forward(self, batch):
        size = batch.sum_over_atoms((batch.positions**2).sum(1))[batch.structure_index]
        return AtomFeatures(scalars=self.table[batch.atomic_numbers] * size[:, None])


def test_a_backbone_that_cannot_be_traced_is_used_as_it_is_with_one_warning(potential):
    potential.backbone = Untraceable()
    compiled, batch = CompiledPotential(potential, backend="aot_eager"), mixed_batch()
    with pytest.warns(UserWarning, match="backbone 'untraceable' cannot be traced"):
        first = compiled(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = compiled(batch)
    assert torch.equal(first.forces, second.forces) and compiled.n_graphs == 0


def test_without_a_compiler_the_plain_model_predicts(potential, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler.cache_clear", lambda: None, raising=False)
    compiled = CompiledPotential(potential)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        compiled(mixed_batch())
    assert compiled.reason is not None and compiled.n_graphs == 0


def test_a_graph_that_deviates_is_refused(potential, monkeypatch):
    monkeypatch.setattr(CompiledPotential, "_vectors_for_test", None, raising=False)
    monkeypatch.setattr("unipot.models.tracing.torch.sigmoid", torch.tanh)  # the graph alone has another readout
    compiled, batch = CompiledPotential(potential, backend="aot_eager"), mixed_batch()
    with pytest.warns(UserWarning, match="it deviates by"):
        compiled(batch)
    monkeypatch.undo()
    assert torch.equal(compiled(batch).energy, potential(batch).energy)
