"""Contracts of property heads: symmetry, size, batching, gradients, and that energies do not notice them."""

import copy

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.models.property_heads import PropertyHead
from unipot.properties import ScalarProperty
from unipot.structure import Structure
from unipot.training.optim import build_policy
from unipot.zoo.artifact import load_artifact, load_potential, save_artifact
from unipot.zoo.card import ArtifactError

ELEMENTS = (1, 6, 8)
KINDS = ("intensive", "extensive")


def property_head(kind, n_channels, seed=3, n_members=4):
    """Random everything: pooling too, which is zero in a new head, and references that tell elements apart if extensive."""
    head = PropertyHead(
        ScalarProperty(name=kind, key=kind, unit="eV", kind=kind, threshold=0.1), n_channels=n_channels, n_members=n_members, seed=seed
    )
    known = np.isin(np.arange(119), ELEMENTS)
    values = np.arange(119.0) if kind == "extensive" else np.full(119, 2.5)
    head.reference = CompositionReference(np.where(known, values, 0.0), known)
    head.scale = torch.tensor(1.7, dtype=torch.float64)
    for pooling in head.pooling:
        torch.nn.init.normal_(pooling.weight, generator=torch.Generator().manual_seed(seed))
    return head


@pytest.fixture(scope="module")
def bare():
    """Backbone and one energy head, random weights, float64."""
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2})
    known = np.isin(np.arange(119), ELEMENTS)
    bank = HeadBank()
    bank.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=CompositionReference(-9.0 * known, known)))
    return Potential(backbone, bank).double().eval()


@pytest.fixture(scope="module")
def potential(bare):
    full = copy.deepcopy(bare)
    for kind in KINDS:
        full.property_heads.add(property_head(kind, full.backbone.n_channels))
    return full.double().eval()


def molecule(seed=0, numbers=(8, 1, 1, 6), shift=0.0):
    rng = np.random.default_rng(seed)
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0.1, -0.5, 1.3]])[: len(numbers)]
    return Structure(atomic_numbers=numbers, positions=positions + 0.1 * rng.normal(size=positions.shape) + shift, id=f"m{seed}")


def crystal(repeats=1):
    """A skewed cell of three atoms, repeated along the first axis."""
    cell = np.array([[3.9, 0.0, 0.2], [0.5, 4.1, 0.0], [0.0, -0.3, 4.3]])
    sites = np.array([[0.1, 0.2, 0.0], [2.0, 1.7, 0.3], [0.4, 1.9, 2.2]])
    positions = np.concatenate([sites + k * cell[0] for k in range(repeats)])
    scaled = cell * np.array([repeats, 1, 1])[:, None]
    return Structure(atomic_numbers=[8, 1, 6] * repeats, positions=positions, cell=scaled, pbc=[True] * 3)


def members(potential, structures, kinds=KINDS):
    """Kind -> (n_structures, n_members)."""
    batch = collate(structures, cutoff=potential.cutoff, dtype=torch.float64)
    with torch.no_grad():
        return potential(batch, properties=kinds).members


def same(first, second):
    return all(torch.allclose(first[kind], second[kind], rtol=0, atol=1e-10) for kind in KINDS)


def test_members_differ(potential):
    assert all(values.std(dim=1).min() > 1e-3 for values in members(potential, [molecule()]).values())


def test_rotation_and_translation_change_nothing(potential):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    before = molecule()
    after = Structure(atomic_numbers=before.atomic_numbers, positions=before.positions @ rotation.T + 7.0)
    assert same(members(potential, [before]), members(potential, [after]))


def test_the_order_of_atoms_changes_nothing(potential):
    before, order = molecule(), [2, 0, 3, 1]
    after = Structure(atomic_numbers=before.atomic_numbers[order], positions=before.positions[order])
    assert same(members(potential, [before]), members(potential, [after]))


def test_geometry_and_elements_matter(potential):
    one, moved, other = (members(potential, [m]) for m in (molecule(0), molecule(1), molecule(0, (8, 1, 1, 8))))
    for kind in KINDS:
        assert (one[kind] - moved[kind]).abs().min() > 1e-6
        assert (one[kind] - other[kind]).abs().min() > 1e-6


def two_copies(distance):
    one = molecule()
    positions = np.concatenate([one.positions, one.positions + [distance, 0, 0]])
    return Structure(atomic_numbers=np.tile(one.atomic_numbers, 2), positions=positions)


def test_two_far_copies_double_the_extensive_and_keep_the_intensive(potential):
    one, two = members(potential, [molecule()]), members(potential, [two_copies(50.0)])
    assert torch.allclose(two["extensive"], 2 * one["extensive"], atol=1e-10)
    assert torch.allclose(two["intensive"], one["intensive"], atol=1e-10)


def test_a_supercell_multiplies_the_extensive_and_keeps_the_intensive(potential):
    one, three = members(potential, [crystal()]), members(potential, [crystal(3)])
    assert torch.allclose(three["extensive"], 3 * one["extensive"], atol=1e-9)
    assert torch.allclose(three["intensive"], one["intensive"], atol=1e-10)


def test_pooling_weighs_atoms_unequally(potential):
    """Else the supercell test would pass for a plain mean alone."""
    head = potential.property_heads["intensive"]
    batch = collate([molecule()], cutoff=potential.cutoff, dtype=torch.float64)
    weights = head._weights(potential.backbone(batch).scalars, batch)
    assert torch.allclose(weights.sum(dim=0), torch.ones(4, dtype=torch.float64))
    assert (weights.amax(dim=0) / weights.amin(dim=0)).min() > 1.01


def test_a_batch_equals_its_structures_one_by_one(potential):
    structures = [molecule(0), crystal(), molecule(1, (6, 1))]
    together = members(potential, structures)
    alone = [members(potential, [structure]) for structure in structures]
    assert same(together, {kind: torch.cat([values[kind] for values in alone]) for kind in KINDS})


def test_structures_of_a_batch_do_not_talk(potential):
    batch = collate([molecule(0), molecule(1)], cutoff=potential.cutoff, dtype=torch.float64)
    batch.positions.requires_grad_(True)
    for kind in KINDS:
        (gradient,) = torch.autograd.grad(potential(batch, properties=(kind,)).members[kind][0].sum(), batch.positions)
        assert gradient[:4].abs().max() > 1e-6
        assert gradient[4:].abs().max() == 0


@pytest.mark.parametrize("structures", [[molecule(0), molecule(1, (6, 1))], [crystal()]])
def test_energies_forces_and_stress_do_not_notice_property_heads(bare, potential, structures):
    batch = collate(structures, cutoff=bare.cutoff, dtype=torch.float64)
    before = bare(batch, properties=("energy", "forces", "stress"))
    for asked in ((), KINDS):
        after = potential(batch, properties=("energy", "forces", "stress", *asked))
        assert all(torch.equal(before[name], after[name]) for name in ("energy", "forces", "stress"))
        assert set(after.members) == set(asked)


def test_nothing_is_differentiated_for_properties_alone(potential, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a derivative was taken")

    monkeypatch.setattr("unipot.models.potential.forces_and_stress", refuse)
    predictions = members(potential, [molecule()])
    assert set(predictions) == set(KINDS)


def test_gradients_reach_the_backbone(potential):
    batch = collate([molecule()], cutoff=potential.cutoff, dtype=torch.float64)
    for kind in KINDS:
        potential.zero_grad()
        potential(batch, properties=(kind,)).members[kind].sum().backward()
        reached = [p for p in potential.backbone.parameters() if p.grad is not None and p.grad.abs().max() > 0]
        assert len(reached) > 5
        assert all(p.grad is None for p in potential.heads.parameters())


def test_an_element_without_training_values_has_no_prediction(potential):
    known, unknown = molecule(), molecule(0, (8, 1, 1, 7))
    potential = copy.deepcopy(potential)
    potential.heads["pbe"].reference.known[7] = True
    predicted = members(potential, [known, unknown])
    assert same({kind: values[:1] for kind, values in predicted.items()}, members(potential, [known]))
    assert all(torch.isnan(values[1]).all() for values in predicted.values())


def test_uncertainty_is_the_calibrated_spread():
    head = property_head("intensive", 8)
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    assert head.uncertainty(values)[0] == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    head.interval = torch.tensor(2 * 1.6448536269514722, dtype=torch.float64)
    assert head.uncertainty(values)[0] == pytest.approx(2 * np.std([1, 2, 3, 4], ddof=1))
    assert property_head("intensive", 8, n_members=1).uncertainty(values[:, :1]) is None


def test_numbers_of_the_normalisation_stay_float64(bare):
    potential = copy.deepcopy(bare)
    potential.property_heads.add(property_head("intensive", potential.backbone.n_channels))
    head = potential.float().property_heads["intensive"]
    assert head.readouts[0].output.weight.dtype == torch.float32
    assert {head.scale.dtype, head.spread.dtype, head.interval.dtype, head.reference.values.dtype} == {torch.float64}


def test_a_new_head_leaves_the_stream_of_random_numbers(bare):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = property_head("intensive", 8, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    again, other = property_head("intensive", 8, seed=1), property_head("intensive", 8, seed=2)
    assert torch.equal(first.readouts[0].value.weight, again.readouts[0].value.weight)
    assert not torch.equal(first.readouts[0].value.weight, other.readouts[0].value.weight)


def learning(potential, **options):
    rows = build_policy(potential, **options).resolve(potential, weight_decay=0.0)
    return {row.parameter.split(".")[0] + "." + row.parameter.split(".")[2] for row in rows if not row.frozen}


def test_heads_only_trains_the_chosen_property_head_alone(potential):
    assert learning(potential, method="heads-only", heads=[], properties=["intensive"]) == {"property_heads.intensive"}
    assert learning(potential, method="heads-only", heads=["pbe"], properties=[]) == {"heads.pbe"}
    assert {"property_heads.intensive", "property_heads.extensive", "heads.pbe"} < learning(potential)


def test_an_artifact_carries_property_heads_bitwise(potential, tmp_path):
    potential = copy.deepcopy(potential)
    potential.property_heads["intensive"].interval.fill_(1.9)
    save_artifact(tmp_path / "model.safetensors", potential)
    artifact = load_artifact(tmp_path / "model.safetensors")
    assert artifact.potential.scalar_properties == potential.scalar_properties
    assert all(torch.equal(tensor, artifact.potential.state_dict()[name]) for name, tensor in potential.state_dict().items())
    assert set(artifact.card["golden"][0]["properties"]) == set(KINDS)
    assert same(members(potential, [molecule()]), members(artifact.potential, [molecule()]))


def test_a_model_without_property_heads_is_described_as_before(bare):
    assert set(bare.describe()) == {"backbone", "core_repulsion", "heads", "dtype"}
    assert not any(name.startswith("property_heads") for name in bare.state_dict())


def test_an_artifact_with_an_unknown_kind_of_property_is_refused(potential, tmp_path, monkeypatch):
    description = potential.describe()
    description["property_heads"]["intensive"]["kind"] = "quantum"
    monkeypatch.setattr(Potential, "describe", lambda self: description)
    save_artifact(tmp_path / "model.safetensors", potential)
    with pytest.raises(ArtifactError, match=r"properties\.intensive\.kind is 'quantum'"):
        load_potential(tmp_path / "model.safetensors")


def test_an_unknown_property_is_named(potential):
    batch = collate([molecule()], cutoff=potential.cutoff, dtype=torch.float64)
    with pytest.raises(KeyError, match="'hardness' is not known"):
        potential(batch, properties=("hardness",))


def test_a_name_is_used_once(potential):
    with pytest.raises(ValueError, match="has a head of this name already"):
        copy.deepcopy(potential).property_heads.add(property_head("intensive", 8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_structures_are_learnt_by_heart(bare, kind):
    potential = copy.deepcopy(bare)
    potential.property_heads.add(property_head(kind, potential.backbone.n_channels, n_members=2).double())
    batch = collate([molecule(k) for k in range(6)], cutoff=potential.cutoff, dtype=torch.float64)
    label = torch.linspace(-1, 1, 6, dtype=torch.float64) + float(potential.property_heads[kind].reference.values[1])
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.03)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (potential(batch, properties=(kind,)).members[kind] - label[:, None]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
