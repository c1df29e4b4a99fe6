"""Low-rank updates: nothing at the start, exact when merged, chosen by name, on every backbone."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from unipot.batch import collate
from unipot.finetune.lora import LoraSettings, inject_lora, lora_matrices, merged
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.training.optim import build_policy
from unipot.zoo.artifact import load_potential, save_artifact

BACKBONES = {
    "native": {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2},
    "escn-md": {"sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8, "num_layers": 1, "num_distance_basis": 8, "cutoff": 4.0},
}


def build(name, dtype=torch.float64):
    if name == "escn-md" and find_spec("fairchem") is None:
        pytest.skip("fairchem-core is not installed")
    torch.manual_seed(0)
    backbone, heads = build_backbone(name, BACKBONES[name]), HeadBank()
    everything = CompositionReference(-np.arange(119.0), np.ones(119, dtype=bool))
    for head in ("old", "new"):
        heads.add(Head(head, level_of_theory=head, n_channels=backbone.n_channels, n_hidden=8, reference=everything))
    return Potential(backbone, heads).to(dtype).eval()


@pytest.fixture(params=list(BACKBONES))
def potential(request):
    return build(request.param)


def batch_for(potential):
    rng = np.random.default_rng(0)
    water = [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
    molecule = Structure(atomic_numbers=[8, 1, 1], positions=water)
    positions = 1.8 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) + 0.1 * rng.normal(size=(4, 3))
    crystal = Structure(atomic_numbers=[29, 29, 13, 13], positions=positions, cell=np.eye(3) * 3.6, pbc=True)
    return collate([molecule, crystal], cutoff=potential.cutoff, head_index=[0, 1], dtype=potential.dtype)


def predict(potential):
    found = potential(batch_for(potential), ("energy", "forces", "stress"), create_graph=False)
    return torch.cat([found.energy.to(potential.dtype), found.forces.flatten(), found.stress.flatten()])


def moved(potential, seed=1):
    """Random updates, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in potential.named_parameters():
            if name.endswith(".up"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return potential


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_model_with_fresh_updates_is_its_parent_bitwise(name, dtype):
    potential = build(name, dtype)
    before = predict(potential)
    inject_lora(potential, LoraSettings(rank=3, alpha=6.0), seed=0)
    assert torch.equal(predict(potential), before)


def test_merged_model_is_the_adapted_model(potential):
    before = predict(potential)
    inject_lora(potential, LoraSettings(rank=3, alpha=6.0), seed=0)
    adapted = predict(moved(potential))
    assert (adapted - before).abs().max() > 1e-3
    plain = merged(potential)
    assert not any("parametrizations" in name for name, _ in plain.named_parameters())
    assert (predict(plain) - adapted).abs().max() <= 1e-12
    assert torch.equal(predict(potential), adapted), "merging changed the adapted model"


def test_merged_heads_still_tell_which_elements_they_were_trained_on(potential):
    for name in potential.head_names:
        potential.heads[name].trained_elements = frozenset({1, 8})
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0), seed=0)
    assert [merged(potential).heads[name].trained_elements for name in potential.head_names] == [{1, 8}] * len(potential.head_names)


def test_merged_weights_are_the_weights_plus_alpha_over_rank_times_the_product(potential):
    before = {name: p.detach().clone() for name, p in potential.named_parameters()}
    report = inject_lora(potential, LoraSettings(rank=2, alpha=5.0), seed=0)
    learnt = dict(moved(potential).named_parameters())
    after = dict(merged(potential).named_parameters())
    changed = {f"backbone.{name}" for name, _, _ in report.matrices}
    for name, parameter in after.items():
        if name in changed:
            owner, _, attribute = name.rpartition(".")
            update = f"{owner}.parametrizations.{attribute}.0"
            expected = before[name] + 5.0 / 2 * learnt[f"{update}.up"] @ learnt[f"{update}.down"]
            torch.testing.assert_close(parameter.detach(), expected.detach(), rtol=0, atol=1e-14)
        else:
            assert torch.equal(parameter, before[name]), name


def test_merged_model_survives_the_artifact(potential, tmp_path):
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0), seed=0)
    adapted = predict(moved(potential))
    save_artifact(tmp_path / "model.safetensors", merged(potential))
    assert (predict(load_potential(tmp_path / "model.safetensors")) - adapted).abs().max() <= 1e-12


def test_model_without_updates_is_merged_as_it_is(potential):
    assert merged(potential) is potential


def test_forces_of_an_adapted_model_train_its_updates_only(potential):
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0), seed=0)
    rows = build_policy(potential, method="lora", heads=["new"]).apply(potential, weight_decay=0.1)
    potential.train()
    potential(batch_for(potential)).forces.square().sum().backward()
    touched = {name for name, p in potential.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any(name.endswith(".up") for name in touched)
    assert all(name.endswith((".up", ".down")) or name.startswith("heads.heads.new.") for name in touched)
    assert {row.parameter for row in rows if not row.frozen} >= touched
    assert all(row.weight_decay == 0 for row in rows if row.parameter.endswith((".up", ".down")))


def test_matrices_in_einsums_and_products_are_found_and_scales_are_not():
    names = lora_matrices(build("escn-md").backbone, LoraSettings(rank=2, alpha=2.0))
    assert any(name.endswith("so3_linear_1.weight") for name in names)  # (degree, out, in), used in an einsum
    assert not any("affine" in name or "embedding.weight" in name or "rand_emb" in name for name in names)


def test_a_plain_parameter_is_adapted_like_a_layer():
    potential = build("native")

    class Wrapped(type(potential.backbone)):
        def forward(self, batch):
            features = super().forward(batch)
            return type(features)(scalars=features.scalars @ self.turn, vectors=features.vectors)

        def layer_groups(self):
            return [*super().layer_groups(), ("turn", ("turn",))]

    backbone = Wrapped(**BACKBONES["native"]).double()
    backbone.turn = nn.Parameter(torch.eye(8, dtype=torch.float64))
    assert lora_matrices(backbone, LoraSettings(rank=2, alpha=2.0, groups=("turn",))) == ["turn"]
    potential.backbone = backbone
    before = predict(potential)
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0, patterns=("turn",)), seed=0)
    assert torch.equal(predict(potential), before)
    assert (predict(moved(potential)) - before).abs().max() > 1e-4


def test_groups_and_patterns_choose(potential):
    backbone = potential.backbone
    group, prefixes = backbone.layer_groups()[-2]
    chosen = lora_matrices(backbone, LoraSettings(rank=1, alpha=1.0, groups=(group,)))
    assert chosen and all(name.startswith(prefixes) for name in chosen)
    table = next(iter(backbone.element_tables()))
    assert lora_matrices(backbone, LoraSettings(rank=1, alpha=1.0, patterns=(table,))) == [table]


def test_rank_is_at_most_that_of_the_matrix(potential):
    report = inject_lora(potential, LoraSettings(rank=1000, alpha=1.0), seed=0)
    assert all(rank == min(shape[-2:]) for _, shape, rank in report.matrices)


def test_start_of_a_matrix_does_not_depend_on_the_others():
    one, all_of_them = build("native"), build("native")
    name = "layers.1.update.weight"
    inject_lora(one, LoraSettings(rank=2, alpha=2.0, patterns=(name,)), seed=5)
    inject_lora(all_of_them, LoraSettings(rank=2, alpha=2.0), seed=5)
    key = "backbone.layers.1.update.parametrizations.weight.0.down"
    assert torch.equal(one.state_dict()[key], all_of_them.state_dict()[key])
    other = build("native")
    inject_lora(other, LoraSettings(rank=2, alpha=2.0), seed=6)
    assert not torch.equal(other.state_dict()[key], one.state_dict()[key])


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"rank": 0}, "finetune.lora.rank is 0; it must be at least 1"),
        ({"alpha": 0.0}, "finetune.lora.alpha is 0.0; it must be positive"),
        ({"patterns": ("layers.*.massage.weight",)}, "'layers.\\*.massage.weight' matches no matrix of the backbone; there are: "),
        ({"groups": ("layer-9",)}, "'layer-9' is not a layer group of the backbone; it has: embedding, radial, layer-1, layer-2"),
        ({"groups": ("embedding",)}, "groups \\[embedding\\] hold no matrix"),
    ],
)
def test_impossible_choices_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        lora_matrices(build("native").backbone, LoraSettings(**{"rank": 2, "alpha": 2.0, **options}))


def test_updates_are_not_put_on_updates(potential):
    inject_lora(potential, LoraSettings(rank=1, alpha=1.0), seed=0)
    with pytest.raises(ValueError, match="low-rank updates already"):
        inject_lora(potential, LoraSettings(rank=1, alpha=1.0), seed=0)


def test_method_lora_without_updates_is_refused():
    with pytest.raises(ValueError, match="needs low-rank updates in the backbone"):
        build_policy(build("native"), method="lora")
