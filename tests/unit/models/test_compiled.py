"""CompiledPotential: the same numbers and gradients out of one graph, and the plain model wherever that fails."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unipot.batch import collate
from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone
from unipot.models.backbone import AtomFeatures
from unipot.models.compiled import CompiledPotential
from unipot.models.derivatives import parameter_gradients
from unipot.models.tracing import PotentialFunction
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster

#: H C N O Al Cu
KNOWN = (1, 6, 7, 8, 13, 29)
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


def two_heads():
    """A tiny native model of two heads that reads charge and spin, with core repulsion, in training mode."""
    torch.manual_seed(0)
    settings = {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1, "charge": True, "spin": True}
    backbone, known, bank = build_backbone("native", settings), np.isin(np.arange(119), KNOWN), HeadBank()
    for k, name in enumerate(("a", "b")):
        reference = CompositionReference(np.where(known, -100.0 * (k + 1) - np.arange(119.0), 0.0), known)
        bank.add(Head(name, level_of_theory=name, n_channels=8, n_hidden=8 + k, scale=1.0 + k, reference=reference))
    return Potential(backbone, bank, CoreRepulsion()).double().train()


@pytest.fixture(scope="module")
def compiled():
    """Compiled at its first use, on a batch with many equal sizes (and a structure more is three): these must not become a rule."""
    fast = CompiledPotential(two_heads(), backend="aot_eager")
    fast(collate([crystal(2, 0), crystal(2, 1)], cutoff=5.0, head_index=[0, 1], dtype=torch.float64), PROPERTIES)
    assert fast.reason is None
    return fast


def deviations(plain, compiled, parameters):
    """Largest relative deviation of each property, then of each parameter's gradient."""
    values = [(getattr(plain, name), getattr(compiled, name)) for name in PROPERTIES]
    gradients = [parameter_gradients([pair[k] for pair in values], parameters, retain_graph=False) for k in (0, 1)]
    pairs = [*values, *zip(*gradients, strict=True)]
    floor = max(float(gradient.abs().max()) for gradient in gradients[0])
    return [float((a - b).detach().abs().max()) / max(float(a.detach().abs().max()), 1e-3 * floor) for a, b in pairs]


def test_equal_atoms_in_another_number_of_structures_are_predicted_anew(compiled):
    """Two clusters side by side and one that holds both: the same atomic numbers in the same order."""
    one = chiral_cluster((1, 6, 8), 4)
    other = replace(one, positions=one.positions + np.array([2.0, 0.0, 0.0]))
    both = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("atomic_numbers", "positions")}
    for structures in ([one, other], [Structure(**both)], [one, other]):
        batch = collate(structures, cutoff=5.0, head_index=[0] * len(structures), dtype=torch.float64)
        plain, fast = compiled.potential(batch, PROPERTIES), compiled(batch, PROPERTIES)
        assert max(deviations(plain, fast, list(compiled.potential.parameters()))) < TOLERANCE


def test_energies_forces_stress_and_gradients_are_those_of_the_plain_model(compiled):
    potential, batch = compiled.potential, mixed_batch(sizes=(4, 2, 6), seed=10)
    plain, fast = potential(batch, PROPERTIES), compiled(batch, PROPERTIES)
    assert fast.energy.dtype == torch.float64 and fast.stress.abs().max() > 1e-4
    assert max(deviations(plain, fast, list(potential.parameters()))) < TOLERANCE


def test_ten_batches_of_other_sizes_need_no_other_graph(compiled):
    pair = Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.7]])
    for k in range(10):
        batch = mixed_batch(sizes=tuple(range(2, 3 + k % 4)), seed=k)
        batch = collate([pair], cutoff=5.0, dtype=torch.float64) if k == 7 else batch
        torch.testing.assert_close(compiled(batch).forces, compiled.potential(batch).forces, rtol=1e-9, atol=1e-10)
    assert compiled.n_graphs == 1 and compiled.reason is None


def test_close_pairs_repel_as_in_the_plain_model(compiled):
    close = Structure(atomic_numbers=[29, 13], positions=[[0, 0, 0], [0, 0, 0.6]], cell=6 * np.eye(3), pbc=[True] * 3)
    batch = collate([close], cutoff=5.0, dtype=torch.float64)
    plain, fast = compiled.potential(batch, PROPERTIES), compiled(batch, PROPERTIES)
    assert plain.forces.abs().max() > 10
    for name in PROPERTIES:
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-10, atol=1e-9)


def test_weights_are_read_at_every_call_and_the_state_is_untouched(compiled):
    potential, batch = compiled.potential, mixed_batch()
    before = compiled(batch).energy.detach()
    with torch.no_grad():
        potential.heads["a"].readout.output.weight.mul_(2.0)
    after = compiled(batch).energy.detach()
    assert (after - before).abs().max() > 1e-3 and list(potential.state_dict()) == list(two_heads().state_dict())
    torch.testing.assert_close(after, potential(batch).energy.detach(), rtol=1e-13, atol=1e-9)


def test_mistakes_in_a_batch_are_found_as_before(compiled):
    batch = mixed_batch()
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


def test_a_backbone_that_cannot_be_traced_is_used_as_it_is_with_one_warning():
    potential = two_heads()
    potential.backbone = Untraceable()
    compiled, batch = CompiledPotential(potential, backend="aot_eager"), mixed_batch()
    with pytest.warns(UserWarning, match="backbone 'untraceable' cannot be traced"):
        first = compiled(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = compiled(batch)
    assert torch.equal(first.forces, second.forces) and compiled.n_graphs == 0


def test_forces_of_a_head_of_their_own_are_predicted_by_the_plain_model():
    potential = two_heads()
    potential.heads.add(Head("direct", level_of_theory="c", n_channels=8, n_vector_channels=4, direct_forces=True).double())
    compiled = CompiledPotential(potential, backend="aot_eager")
    with pytest.warns(UserWarning, match="head 'direct' predicts forces directly"):
        compiled(mixed_batch())
    assert compiled.n_graphs == 0


def test_without_a_compiler_the_plain_model_predicts():
    from torch._inductor import config

    compiled = CompiledPotential(two_heads())
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        compiled(mixed_batch())
    assert compiled.n_graphs == 0


def test_a_graph_that_deviates_is_refused(monkeypatch):
    readout = PotentialFunction._readout
    monkeypatch.setattr(PotentialFunction, "_readout", lambda self, *given: readout(self, *given) * (1 + 1e-6))
    potential, batch = two_heads(), mixed_batch()
    compiled = CompiledPotential(potential, backend="aot_eager")
    with pytest.warns(UserWarning, match="it deviates by 1.0e-06"):
        compiled(batch)
    assert torch.equal(compiled(batch).energy, potential(batch).energy)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated.*")  # what torch uses of itself
def test_generated_code_gives_the_numbers_of_the_plain_model_for_training_and_prediction():
    compiled = CompiledPotential(two_heads())
    potential = compiled.potential
    compiled(mixed_batch(sizes=(2, 2)), PROPERTIES)
    batch = mixed_batch(sizes=(4, 2, 6), seed=10)
    assert max(deviations(potential(batch, PROPERTIES), compiled(batch, PROPERTIES), list(potential.parameters()))) < TOLERANCE
    compiled(batch, PROPERTIES, create_graph=False)
    plain, fast = (model(mixed_batch(seed=3), PROPERTIES, create_graph=False) for model in (potential, compiled))
    assert (compiled.n_graphs, compiled.reason) == (2, None) and not fast.forces.requires_grad
    torch.testing.assert_close(fast.forces, plain.forces, rtol=1e-10, atol=1e-11)
