"""Heads: each structure through its own, none disturbs another, names are checked."""

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure

WATER = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], id="water")
AMMONIA = Structure(
    atomic_numbers=[7, 1, 1, 1], positions=[[0, 0, 0.1], [0.94, 0, -0.27], [-0.47, 0.81, -0.27], [-0.47, -0.81, -0.27]], id="ammonia"
)


def everything(value: float = 0.0) -> CompositionReference:
    return CompositionReference(np.full(119, value), np.ones(119, dtype=bool))


def potential(*names: str, **head_options: object) -> Potential:
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2})
    bank = HeadBank()
    for name in names:
        bank.add(
            Head(
                name,
                level_of_theory=name.upper(),
                n_channels=backbone.n_channels,
                n_vector_channels=backbone.n_vector_channels,
                reference=everything(),
                **head_options,
            )
        )
    return Potential(backbone, bank).eval()


def test_each_structure_goes_through_its_own_head() -> None:
    model = potential("a", "b")
    mixed = model(collate([WATER, AMMONIA], cutoff=5.0, head_index=[1, 0]))
    alone = model(collate([WATER, AMMONIA], cutoff=5.0, head_index=[1, 1]))
    torch.testing.assert_close(mixed.energy[0], alone.energy[0])
    assert (mixed.energy[1] - alone.energy[1]).abs() > 1e-4


def test_adding_a_head_leaves_the_others_bitwise_unchanged() -> None:
    model = potential("a", "b")
    batch = collate([WATER, AMMONIA], cutoff=5.0, head_index=[0, 1])
    before = model(batch)
    model.heads.add(model.heads["a"].copy("c"))
    after = model(batch)
    assert torch.equal(before.energy, after.energy) and torch.equal(before.forces, after.forces)


def test_a_copied_head_is_equal_and_independent() -> None:
    model = potential("a")
    twin = model.heads["a"].copy("twin", "another functional")
    model.heads.add(twin)
    one, other = (model(collate([WATER], cutoff=5.0, head_index=[head])).energy for head in (0, 1))
    assert torch.equal(one, other)
    with torch.no_grad():
        twin.readout.output.weight.mul_(2)
    energies = model(collate([WATER, WATER], cutoff=5.0, head_index=[0, 1])).energy
    assert energies[1] == pytest.approx(2 * energies[0].item(), rel=1e-5)


def test_a_head_without_structures_still_gets_zero_gradients() -> None:
    model = potential("a", "b").train()
    model(collate([WATER], cutoff=5.0)).forces.square().sum().backward()
    idle = [p.grad for p in model.heads["b"].parameters()]
    assert all(grad is not None and not grad.any() for grad in idle)


def test_unknown_head_lists_the_available_ones() -> None:
    with pytest.raises(KeyError, match=r"'oc2O'.*did you mean 'oc20'.*available: oc20, spice"):
        potential("oc20", "spice").heads["oc2O"]


@pytest.mark.parametrize("name", ["OC20", "a_b", "", "a--b", "-a"])
def test_malformed_head_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        Head(name, level_of_theory="PBE", n_channels=4)


def test_unknown_element_names_head_and_element() -> None:
    model = potential("a")
    model.heads["a"].reference.known[7] = False
    with pytest.raises(ValueError, match=r"head 'a' \(A\): no reference energy for element\(s\) N"):
        model(collate([AMMONIA], cutoff=5.0))


def test_direct_forces_have_no_net_force() -> None:
    forces = potential("a", direct_forces=True)(collate([AMMONIA], cutoff=5.0)).forces
    assert forces.abs().max() > 1e-4
    torch.testing.assert_close(forces.sum(0), torch.zeros(3), atol=1e-6, rtol=0)


def test_direct_forces_apply_to_their_head_only() -> None:
    model = potential("a")
    conservative = model(collate([AMMONIA], cutoff=5.0)).forces
    direct = model.heads["a"].copy("direct")
    direct.force_readout = torch.nn.Linear(4, 1, bias=False)
    model.heads.add(direct)
    both = model(collate([AMMONIA, AMMONIA], cutoff=5.0, head_index=[0, 1])).forces
    torch.testing.assert_close(both[:4], conservative)
    assert (both[4:] - conservative).abs().max() > 1e-4


def test_description_rebuilds_the_same_model() -> None:
    model = potential("a", "b")
    twin = Potential.from_description(model.describe()).eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    batch = collate([WATER, AMMONIA], cutoff=5.0, head_index=[0, 1])
    assert torch.equal(model(batch).forces, twin(batch).forces)
