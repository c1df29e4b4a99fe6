"""Each contract catches a model that breaks it: a contract that cannot fail is decoration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unipot import testing
from unipot.batch import AtomBatch
from unipot.models import AtomFeatures, CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.testing import ContractViolation

Flaw = Callable[["FlawedBackbone", AtomFeatures, AtomBatch], Tensor]


class FlawedBackbone(nn.Module):
    """The native backbone with one flaw added to its scalar features."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sound = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2}).double()
        self.unused = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.flaw = flaw
        self.memory: Tensor | None = None
        for name in ("name", "hyperparameters", "cutoff", "n_channels", "n_vector_channels", "elements", "conditions", "parity"):
            setattr(self, name, getattr(self.sound, name))
        self.equivariance_tolerance = self.sound.equivariance_tolerance

    def forward(self, batch: AtomBatch) -> AtomFeatures:
        features = self.sound(batch)
        return AtomFeatures(scalars=self.flaw(self, features, batch), vectors=features.vectors)


def with_neighbors(batch: AtomBatch) -> Tensor:
    """(n_atoms, 1), 1 for atoms with neighbours: flaws other than the one of the isolated atom leave that alone."""
    return torch.bincount(batch.edge_index[0], minlength=batch.n_atoms).clamp(max=1)[:, None].to(batch.positions)


def potential_of(backbone: FlawedBackbone) -> Potential:
    torch.manual_seed(1)
    heads = HeadBank()
    reference = CompositionReference(np.zeros(119), np.arange(119) < 40)
    heads.add(Head("only", level_of_theory="none", n_channels=backbone.n_channels, reference=reference))
    return Potential(backbone, heads).double()


def edge_vectors(batch: AtomBatch) -> Tensor:
    centre, neighbor = batch.edge_index
    shift = torch.einsum("ea,eab->eb", batch.cell_shifts, batch.cell[batch.structure_index[centre]])
    return batch.positions[neighbor] + shift - batch.positions[centre]


def remembers_structures(model: FlawedBackbone, features: AtomFeatures, batch: AtomBatch) -> Tensor:
    """What fairchem's scatter_target does: an attribute in the caller's batch, believed on the next call."""
    if "remembered" not in vars(batch):
        object.__setattr__(batch, "remembered", batch.structure_index.clone())
    return features.scalars * (1 + vars(batch)["remembered"][:, None])


def writes_to_positions(model: FlawedBackbone, features: AtomFeatures, batch: AtomBatch) -> Tensor:
    batch.positions.data.add_(1e-3)
    return features.scalars


def chirality(model: FlawedBackbone, features: AtomFeatures, batch: AtomBatch) -> Tensor:
    return features.scalars + torch.linalg.det(features.vectors[:, :, :3])[:, None]


def forgets_gradients(model: FlawedBackbone, features: AtomFeatures, batch: AtomBatch) -> Tensor:
    distances = edge_vectors(batch).norm(dim=1, keepdim=True).detach()
    weights = (1 - (distances / model.cutoff) ** 2) ** 3
    return features.scalars * (1 + features.scalars.new_zeros(batch.n_atoms, 1).index_add(0, batch.edge_index[0], weights))


def takes_the_whole_batch(model: FlawedBackbone, features: AtomFeatures, batch: AtomBatch) -> Tensor:
    return features.scalars * (1 + features.scalars.mean())


BACKBONE_FLAWS: dict[str, tuple[Callable[..., float], Flaw]] = {
    "rotation": (testing.check_rotation, lambda m, f, b: f.scalars + f.vectors[:, 2].mean(1, keepdim=True)),
    "reflection": (testing.check_reflection, chirality),
    "translation": (testing.check_translation, lambda m, f, b: f.scalars + 1e-6 * b.positions[:, :1] * with_neighbors(b)),
    "permutation": (testing.check_permutation, lambda m, f, b: f.scalars * (1 + 1e-6 * torch.arange(b.n_atoms)[:, None])),
    "periodic images": (testing.check_periodic_images, lambda m, f, b: f.scalars * (1 + 1e-6 * b.positions.norm(dim=1, keepdim=True))),
    "supercell": (testing.check_supercell, lambda m, f, b: f.scalars * b.n_atoms_per_structure[b.structure_index][:, None] ** 0.5),
    "batch = single": (testing.check_batch_equals_single, takes_the_whole_batch),
    "no caching": (testing.check_no_caching, remembers_structures),
    "batch unchanged, attribute": (testing.check_batch_unchanged, remembers_structures),
    "batch unchanged, values": (testing.check_batch_unchanged, writes_to_positions),
    "no crosstalk": (testing.check_no_crosstalk, takes_the_whole_batch),
    "one atom": (testing.check_one_atom, lambda m, f, b: f.scalars.squeeze()),
    "shapes": (testing.check_shapes, lambda m, f, b: f.scalars[:, :-1]),
    "float32 = float64": (testing.check_precision, lambda m, f, b: f.scalars * (1.1 if f.scalars.dtype == torch.float32 else 1.0)),
    "repeatable": (testing.check_repeatable, lambda m, f, b: f.scalars * (1 + 1e-9 * torch.rand((), dtype=torch.float64))),
    "smooth at the cutoff": (
        testing.check_smooth_cutoff,
        lambda m, f, b: f.scalars + torch.bincount(b.edge_index[0], minlength=b.n_atoms)[:, None],
    ),
    "smooth at the cutoff, control": (testing.check_smooth_cutoff, lambda m, f, b: 0 * f.scalars),
    "isolated atom": (testing.check_isolated_atom, lambda m, f, b: f.scalars + 1e-6),
    "charge and spin, not read": (
        testing.check_conditions,
        lambda m, f, b: f.scalars * (1 + 1e-6 * b.total_charge[b.structure_index][:, None]),
    ),
    "other device, left behind": (testing.check_other_device, lambda m, f, b: f.scalars * torch.ones(b.n_atoms, 1, dtype=torch.float64)),
    "other device, answer": (testing.check_other_device, lambda m, f, b: f.scalars.cpu()),
    "other device, numpy": (testing.check_other_device, lambda m, f, b: f.scalars * float(b.positions.numpy().shape[1])),
    "separated fragments": (
        testing.check_separated_fragments,
        lambda m, f, b: f.scalars * (1 + b.sum_over_atoms(f.scalars).mean(1)[b.structure_index][:, None]),
    ),
}
POTENTIAL_FLAWS: dict[str, tuple[Callable[..., float], Flaw]] = {
    "force is gradient": (testing.check_force_is_gradient, forgets_gradients),
    "stress is strain derivative": (testing.check_stress_is_strain_derivative, forgets_gradients),
    "net force": (testing.check_net_force, lambda m, f, b: f.scalars + 1e-3 * b.positions[:, :1]),
    "isolated atom": (testing.check_isolated_atom, lambda m, f, b: f.scalars + 1e-3),
    "rotation": (testing.check_rotation, lambda m, f, b: f.scalars + f.vectors[:, 2].mean(1, keepdim=True)),
    "double backward, unused": (testing.check_double_backward, lambda m, f, b: f.scalars),
}


@pytest.mark.parametrize("case", list(BACKBONE_FLAWS))
def test_flawed_backbone_is_caught(case):
    check, flaw = BACKBONE_FLAWS[case]
    with pytest.raises(ContractViolation):
        check(FlawedBackbone(flaw))


@pytest.mark.parametrize("case", list(POTENTIAL_FLAWS))
def test_flawed_potential_is_caught(case):
    check, flaw = POTENTIAL_FLAWS[case]
    with pytest.raises(ContractViolation):
        check(potential_of(FlawedBackbone(flaw)))


def test_sound_twin_passes_where_the_flawed_one_fails():
    sound = FlawedBackbone(lambda m, f, b: f.scalars)
    for check, _ in BACKBONE_FLAWS.values():
        check(sound)


def test_charge_that_a_backbone_claims_to_read_and_does_not_is_caught():
    backbone = FlawedBackbone(lambda m, f, b: f.scalars)
    backbone.conditions = ("total_charge",)
    with pytest.raises(ContractViolation, match="total_charge 1 is read: the control failed"):
        testing.check_conditions(backbone)


def test_tensor_that_was_left_on_the_cpu_is_named_by_its_operation_and_shape():
    flaw = BACKBONE_FLAWS["other device, left behind"][1]
    with pytest.raises(ContractViolation, match=r"two devices meet in aten::mul.Tensor: one of shape \(\d+, 1\) was left on the CPU"):
        testing.check_other_device(FlawedBackbone(flaw))


def test_message_of_a_violation_holds_claim_and_figures():
    with pytest.raises(ContractViolation, match=r"isolated atom: relative deviation 1\.000e-06 exceeds the tolerance 1\.0e-12"):
        testing.check_isolated_atom(FlawedBackbone(BACKBONE_FLAWS["isolated atom"][1]))


def test_all_violations_are_listed_at_once():
    with pytest.raises(ContractViolation, match=r"(?s)rotation.*net force"):
        testing.check_potential(potential_of(FlawedBackbone(lambda m, f, b: f.scalars + 1e-3 * b.positions[:, :1] * with_neighbors(b))))


def test_skipping_an_unknown_contract_is_refused():
    with pytest.raises(ValueError, match="no contract 'gravity'"):
        testing.check_backbone(FlawedBackbone(lambda m, f, b: f.scalars), skip=["gravity"])


def test_reflection_of_a_backbone_without_parity_is_refused():
    backbone = FlawedBackbone(lambda m, f, b: f.scalars)
    backbone.parity = False
    with pytest.raises(ValueError, match="parity=False"):
        testing.check_reflection(backbone)
